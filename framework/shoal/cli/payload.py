"""The DATA argument: text as typed, ``@file``, or ``-`` for stdin; and which media type that is."""

from __future__ import annotations

import json
import mimetypes
import sys
from pathlib import Path

from shoal.core.errors import UsageError
from shoal.core.limits import BODY_BYTES_MAX

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"
BYTES_TYPE = "application/octet-stream"


def read(data: str) -> tuple[bytes, str]:
    """Give the bytes DATA stands for and their media type; UsageError when they cannot be read or are too many."""
    if data == "-":
        body = sys.stdin.buffer.read(BODY_BYTES_MAX + 1)
        return _bounded(body, "stdin"), guess(body)
    if data.startswith("@"):
        return _file(Path(data[1:]))
    body = data.encode("utf-8", "surrogateescape")
    return body, guess(body)


def guess(body: bytes, name: str = "") -> str:
    """Guess a media type: a file's suffix decides, then whether it is JSON, then whether it is text."""
    named, _ = mimetypes.guess_type(name) if name else (None, None)
    if named and not named.startswith("text/"):
        return named
    if _is_json(body):
        return JSON_TYPE
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return BYTES_TYPE
    return f"{named}; charset=utf-8" if named else TEXT_TYPE


def _is_json(body: bytes) -> bool:
    if body.strip()[:1] not in (b"{", b"[", b'"'):  # a bare number or word is more likely text
        return False
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _file(path: Path) -> tuple[bytes, str]:
    try:
        with path.open("rb") as file:
            body = file.read(BODY_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="@FILE sends a file's bytes") from None
    return _bounded(body, str(path)), guess(body, path.name)


def _bounded(body: bytes, name: str) -> bytes:
    if len(body) > BODY_BYTES_MAX:
        raise UsageError(f"{name} has more than {BODY_BYTES_MAX} bytes, the most a body may have")
    return body
