"""Who is calling: the W3C trace context and the request id, taken over from the caller or made here."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from shoal.core.limits import REQUEST_ID_CHARS_MAX

Bits = Callable[[int], int]  # n -> a random whole number of n bits

# version-trace-parent-flags; a later version may append fields, version ff is not one (W3C Trace Context, 3.2).
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?"
)
_REQUEST_ID: Final = re.compile(rb"[!-~]{1,%d}" % REQUEST_ID_CHARS_MAX)
_SAMPLED: Final = 1


class Identity(NamedTuple):
    """What a request is called: its trace, the header for the next hop, and its id."""

    trace_id: str
    traceparent: str
    request_id: str


def identify(traceparent: bytes | None, request_id: bytes | None, bits: Bits) -> Identity:
    """Continue the caller's trace or start one, not sampled; without a usable request id the trace's stands in."""
    trace_id, flags = _caller_trace(traceparent) if traceparent else ("", 0)
    if not trace_id:
        trace_id = f"{bits(128) or 1:032x}"
    span_id = f"{bits(64) or 1:016x}"
    kept = request_id is not None and _REQUEST_ID.fullmatch(request_id)
    name = request_id.decode("ascii") if kept and request_id else trace_id
    return Identity(trace_id, f"00-{trace_id}-{span_id}-{flags:02x}", name)


def _caller_trace(traceparent: bytes) -> tuple[str, int]:
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match[1] == b"00" and match[4]):
        return "", 0
    return match[2].decode("ascii"), int(match[3], 16) & _SAMPLED
