"""Durations read as people write them, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.spec import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("200ms", 0.2),
        ("60s", 60.0),
        ("1.5m", 90.0),
        ("1h", 3600.0),
        ("1m30s", 90.0),
        ("0s", 0.0),
        ("0.5ms", 0.0005),
    ],
)
def test_reads_the_units(text: str, seconds: float) -> None:
    assert durations.parse(text) == pytest.approx(seconds, abs=1e-12)


@pytest.mark.parametrize(
    "text", ["", "60", "s", "1d", "-1s", "1 s", "1e3s", "PT1S", "1.s", ".5s", "1s\n", "٣s", "9" * 40 + "s"]
)
def test_refuses_what_has_no_clear_meaning(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        durations.parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(60.0, "1m"), (90.0, "90s"), (3600.0, "1h"), (0.2, "200ms"), (1.5, "1.5s"), (0.0, "0s")]
)
def test_shows_the_shortest_form(seconds: float, text: str) -> None:
    assert durations.show(seconds) == text


@given(st.integers(min_value=1, max_value=10_000_000))
def test_what_is_shown_reads_back(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert durations.parse(durations.show(seconds)) == pytest.approx(seconds, rel=1e-5)
