"""DATA: as typed, from a file, from stdin; and its media type."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.cli import payload
from shoal.core import limits
from shoal.core.errors import UsageError


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        ('{"a": 1}', payload.JSON_TYPE),
        ("[1]", payload.JSON_TYPE),
        ('"text"', payload.JSON_TYPE),
        ("5", payload.TEXT_TYPE),
        ("{not json", payload.TEXT_TYPE),
        ("", payload.TEXT_TYPE),
        ("[" * 100_000, payload.TEXT_TYPE),
    ],
)
def test_typed_data(data: str, media_type: str) -> None:
    assert payload.read(data) == (data.encode(), media_type)


@pytest.mark.parametrize(
    ("name", "content", "media_type"),
    [
        ("a.png", b"\x89PNG", "image/png"),
        ("a.json", b"[1]", "application/json"),
        ("a.txt", b"hi", "text/plain; charset=utf-8"),
        ("a.html", b"<p>", "text/html; charset=utf-8"),
        ("a", b'{"a": 1}', "application/json"),
        ("a", b"\xff\xfe", "application/octet-stream"),
        ("a.txt", b"\xff\xfe", "application/octet-stream"),
    ],
)
def test_a_file(tmp_path: Path, name: str, content: bytes, media_type: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert payload.read(f"@{path}") == (content, media_type)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        payload.read(f"@{tmp_path}/x")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="directory"):
        payload.read(f"@{tmp_path}")


def test_a_file_larger_than_a_body_may_be(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(limits.BODY_BYTES_MAX + 1)
    with pytest.raises(UsageError, match="more than 33554432 bytes"):
        payload.read(f"@{path}")
