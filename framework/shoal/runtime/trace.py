"""Who is calling: the W3C trace context and the request id, taken over from the caller or made here."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from shoal.core.limits import CALLER_REQUEST_ID_CHARS_MAX

Bits = Callable[[int], int]  # n -> a random whole number of n bits

# version-trace-parent-flags; a later version may append fields, version ff is not one (W3C Trace Context, 3.2).
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?"
)
_REQUEST_ID: Final = re.compile(rb"[!-~]{1,%d}" % CALLER_REQUEST_ID_CHARS_MAX)
_SAMPLED: Final = 1
_IDS_BITS: Final = 192  # 128 of the trace, 64 of the span
_NOT_ZERO: Final = (1 << 64) | 1  # neither id may be zero


def identify(traceparent: bytes | None, request_id: bytes | None, bits: Bits) -> tuple[str, str, str]:
    """Give the trace's id, the header for the next hop, and the request's id.

    The caller's trace is continued, else one is started, not sampled; without a usable request id the trace's
    stands in for it.
    """
    made = f"{bits(_IDS_BITS) | _NOT_ZERO:048x}"  # both ids at once
    trace_id, span_id, flags = made[:32], made[32:], "00"
    if traceparent is not None and (caller := _caller_trace(traceparent)):
        trace_id, flags = caller
    kept = request_id is not None and _REQUEST_ID.fullmatch(request_id)
    name = request_id.decode("ascii") if kept and request_id else trace_id
    return trace_id, f"00-{trace_id}-{span_id}-{flags}", name


def _caller_trace(traceparent: bytes) -> tuple[str, str] | None:
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match[1] == b"00" and match[4]):
        return None
    return match[2].decode("ascii"), f"{int(match[3], 16) & _SAMPLED:02x}"
