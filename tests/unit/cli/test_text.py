"""Small pieces of text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.cli import text


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0, "0.0 ms"), (0.0042, "4.2 ms"), (0.012, "12 ms"), (0.34, "340 ms"), (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (1.25, "1.2 s"), (59.9, "59.9 s"), (59.99, "1 min 0 s"), (125.0, "2 min 5 s"), (7_260.0, "2 h 1 min"),
    ],
)  # fmt: skip
def test_durations_for_people(seconds: float, written: str) -> None:
    assert text.duration(seconds) == written


@pytest.mark.parametrize(
    ("passed", "written"),
    [(0.0, "now"), (0.9, "now"), (5.0, "5 s ago"), (200.0, "3 min ago"), (7_200.0, "2 h ago"),
     (200_000.0, "2 d ago"),
     (-5.0, "now")],
)  # fmt: skip
def test_moments_for_people(passed: float, written: str) -> None:
    assert text.ago(1_000_000.0, 1_000_000.0 + passed) == written


@given(st.integers(0, 100))
def test_a_bar_never_hides_a_share(percent: int) -> None:
    drawn = text.bar(percent, unicode=False)
    assert len(drawn) == text.BAR_CHARS
    assert (drawn == "#" * text.BAR_CHARS) == (percent == 100)
    assert ("#" not in drawn) == (percent == 0)


def test_columns_align_and_empty_ones_vanish() -> None:
    assert text.table([("a", "", "b"), ("long", "", "")], indent=" ") == [" a     b", " long"]
    assert text.table([]) == []


def test_the_word_that_was_meant() -> None:
    assert text.closest("deplyo", ["down", "deploy"]) == "deploy"
    assert text.closest("Deploy", ["deploy"]) == "deploy"
    assert text.closest("zzz", ["deploy"]) == ""


def test_one_line_is_bounded() -> None:
    assert text.one_line(" a\n b ") == "a b"
    assert len(text.one_line("x" * 1_000)) == 200
