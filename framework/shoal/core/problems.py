"""Errors as ``application/problem+json`` between the processes of shoal, and back into the tree.

The kind travels in ``type`` as ``urn:shoal:<code>``; a reader that does not know it keeps the message all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

from shoal.core.errors import PlatformError, ShoalError

MEDIA_TYPE: Final = "application/problem+json"
_PREFIX: Final = "urn:shoal:"


def to_problem(error: ShoalError) -> dict[str, Any]:
    """Describe an error as a problem document: its class, message, component and hint, nothing else of it."""
    problem: dict[str, Any] = {
        "type": _PREFIX + error.code,
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.message,
        "component": error.component,
        "hint": error.hint,
    }
    if error.retry_after_s is not None:
        problem["retry_after_s"] = error.retry_after_s
    return problem


def from_problem(problem: Mapping[str, Any]) -> ShoalError:
    """Make the error a problem document describes; an unknown kind becomes a PlatformError."""
    kind = _classes().get(str(problem.get("type", "")).removeprefix(_PREFIX), PlatformError)
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
