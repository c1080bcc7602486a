"""Back from ``application/problem+json`` into the tree of errors: what one process refused, another raises.

The kind is the last part of ``type`` (``urn:shoal:problem:not-found``); of an unknown kind the message stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shoal.core.errors import PlatformError, ShoalError


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
