"""PROMISES.md names tests; they have to be there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REFERENCES = sorted(set(re.findall(r"`((?:tests|functions)/[^`]+)`", (ROOT / "PROMISES.md").read_text())))


def test_there_are_promises() -> None:
    assert len(REFERENCES) > 30


@pytest.mark.parametrize("reference", REFERENCES)
def test_what_keeps_a_promise_exists(reference: str) -> None:
    path, _, name = reference.partition("::")
    file = ROOT / path
    assert file.is_file() or (path.endswith("/") and file.is_dir()), f"PROMISES.md names {path}, which is not there"
    if name:
        assert re.search(rf"^(async )?def {re.escape(name)}\(", file.read_text(), re.MULTILINE), reference


def test_every_row_names_what_keeps_it() -> None:
    rows = [line for line in (ROOT / "PROMISES.md").read_text().splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith("| promise |")]
    assert all("`tests/" in row or "`functions/" in row for row in promises)


def test_every_place_on_the_map_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    places = set(
        re.findall(r"`((?:cli|platform|image|pool|models|runtime|triton|spec|core)/[a-z_/]*(?:\.py)?)`", text)
    )
    assert len(places) > 20
    assert [place for place in places if not (ROOT / "framework" / "shoal" / place).exists()] == []
