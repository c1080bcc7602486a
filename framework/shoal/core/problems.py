"""Errors as ``application/problem+json`` (RFC 9457) and back: what one process refused, another raises.

The kind is the last part of ``type`` (``urn:shoal:problem:not-found``); of an unknown kind the message stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

from shoal.core.errors import MethodError, PlatformError, ShoalError

MEDIA_TYPE: Final = "application/problem+json"
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


def to_problem(error: ShoalError, component: str = "") -> dict[str, Any]:
    """Give the fields of a problem document; ``component`` overrides the error's own."""
    fields: dict[str, Any] = {
        "type": f"urn:shoal:problem:{error.code}",
        "title": _PHRASES.get(error.status, "Client Error"),
        "status": error.status,
        "detail": error.message,
        "component": component or error.component,
    }
    if error.hint:
        fields["hint"] = error.hint
    if error.retry_after_s is not None:
        fields["retry_after_s"] = error.retry_after_s
    return fields


def headers(error: ShoalError) -> dict[str, str]:
    """Give a problem's header fields: ``retry-after`` where waiting helps, ``allow`` where the method was wrong."""
    found = {"content-type": MEDIA_TYPE, "cache-control": "no-store"}
    if error.retry_after_s is not None:
        found["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, MethodError) and error.allowed:
        found["allow"] = ", ".join(error.allowed)
    return found


def from_problem(problem: Mapping[str, Any]) -> ShoalError:
    """Make the error a problem document describes; an unknown kind becomes a PlatformError."""
    kind = _classes().get(str(problem.get("type", "")).rpartition(":")[2], PlatformError)
    message = str(problem.get("detail") or problem.get("title") or "an answer without a reason")
    retry_after_s = problem.get("retry_after_s")
    hint = str(problem.get("hint") or "")
    return kind(message, hint=hint, retry_after_s=None if retry_after_s is None else float(retry_after_s))


def _classes() -> dict[str, type[ShoalError]]:
    return {_code(kind): kind for kind in _descendants(ShoalError)}


def _code(kind: type[ShoalError]) -> str:
    return kind("").code


def _descendants(kind: type[ShoalError]) -> Iterator[type[ShoalError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _descendants(child)
