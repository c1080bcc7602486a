"""Finished requests, counted and logged many at a time.

Between two requests the processor has forgotten this code; run once for a hundred of them it costs a fraction of
what it costs a hundred times (``make bench`` shows it: a sixth of a small request's processor time).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shoal.core.errors import ShoalError
from shoal.core.limits import LOG_FLUSH_SECONDS, REPORTS_KEPT_MAX
from shoal.runtime.accesslog import Log
from shoal.runtime.metrics import Metrics

# Seconds since the epoch, handler, status, seconds, seconds in the queue, trace id, request id, method, path,
# error.
# A plain tuple, because one is made for each request.
Report = tuple[float, str, int, float, float, str, str, str, str, ShoalError | None]


class Reports:
    """Keeps reports for at most ``LOG_FLUSH_SECONDS``; used on the loop's thread."""

    def __init__(
        self, metrics: Metrics, log: Log, loop: asyncio.AbstractEventLoop, now: Callable[[], float]
    ) -> None:
        self.now = now
        self._metrics = metrics
        self._log = log
        self._loop = loop
        self._kept: list[Report] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, report: Report) -> None:
        """Take one."""
        self._kept.append(report)
        if len(self._kept) >= REPORTS_KEPT_MAX:
            self.settle()
        elif self._timer is None:
            self._timer = self._loop.call_later(LOG_FLUSH_SECONDS, self.settle)

    def settle(self) -> None:
        """Count and log what is kept: before a scrape, and before the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        kept, self._kept = self._kept, []
        count, write = self._metrics.request, self._log.request
        for at, handler, status, seconds, queue_s, trace_id, request_id, method, path, error in kept:
            count(handler, status, seconds, queue_s)
            write(trace_id, request_id, method, path, status, seconds, queue_s, error, at)
        if kept:
            self._log.writer.flush()
