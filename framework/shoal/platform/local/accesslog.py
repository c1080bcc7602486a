"""One JSON line per request on stdout, and the same few facts of the newest requests for the page."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

from shoal.core import limits
from shoal.core.clock import Clock
from shoal.runtime.trace import identify

_PATH_CHARS_MAX: Final = 512


@dataclass(slots=True)
class Visit:
    """One request as the gateway sees it; filled in on its way."""

    started: float  # monotonic
    method: str
    path: str
    trace_id: str
    traceparent: str  # for the next hop
    request_id: str
    function: str = ""
    revision: str = ""
    status: int = 0
    held_s: float = 0.0
    component: str = ""  # who failed, where it is this process's own answer
    reason: str = ""


class AccessLog:
    """Writes the lines and keeps the newest requests."""

    def __init__(self, write: Callable[[str], Any], clock: Clock, rng: Random) -> None:
        self._write = write
        self._clock = clock
        self._rng = rng
        self._recent: deque[dict[str, Any]] = deque(maxlen=limits.GATEWAY_RECENT_MAX)

    def open(self, method: str, path: str, request_id: str, traceparent: str) -> Visit:
        """Begin a request; an identifier or trace context that is missing or malformed is made anew."""
        trace_id, onward, name = identify(_bytes(traceparent), _bytes(request_id), self._rng.getrandbits)
        return Visit(
            started=self._clock.monotonic(),
            method=method,
            path=path.partition("?")[0][:_PATH_CHARS_MAX],
            trace_id=trace_id,
            traceparent=onward,
            request_id=name,
        )

    def close(self, visit: Visit) -> None:
        """End a request: log it and remember it."""
        now = self._clock.now()
        duration_ms = round((self._clock.monotonic() - visit.started) * 1000, 3)
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
            "level": "error" if visit.component and visit.status >= 500 else "info",
            "message": visit.reason or f"{visit.method} {visit.path} {visit.status}",
            "trace_id": visit.trace_id,
            "request_id": visit.request_id,
            "service": visit.function,
            "revision": visit.revision,
            "method": visit.method,
            "path": visit.path,
            "status": visit.status,
            "duration_ms": duration_ms,
            "held_ms": round(visit.held_s * 1000, 3),
        }
        if visit.component:
            line["component"] = visit.component
        self._write(json.dumps(line) + "\n")
        self._remember(visit, now, duration_ms)

    def recent(self) -> list[dict[str, Any]]:
        """Give the newest requests, newest first."""
        return list(self._recent)

    def _remember(self, visit: Visit, now: float, duration_ms: float) -> None:
        self._recent.appendleft(
            {
                "time": now,
                "method": visit.method,
                "path": visit.path,
                "function": visit.function,
                "revision": visit.revision,
                "status": visit.status,
                "ms": duration_ms,
                "held_ms": round(visit.held_s * 1000, 3),
                "reason": visit.reason,
            }
        )


def _bytes(header: str) -> bytes:
    """Give a header's value as it came; aiohttp decodes it this way."""
    return header.encode("utf-8", "surrogateescape")
