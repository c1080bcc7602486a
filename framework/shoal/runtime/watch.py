"""Ends a request whose time is up or whose caller has gone, by cancelling the task that serves it.

One timer looks at all requests in flight, and runs only while there are any: a timer per request costs more than
its counters and its log line together. A caller's connection is listened to only once its request is older than
``WATCH_AFTER_SECONDS``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

from shoal.core.limits import CANCEL_GRACE_SECONDS, WATCH_AFTER_SECONDS, WATCH_TICK_SECONDS
from shoal.runtime.asgi import Receive


class Watches:
    """All watches of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.active: dict[Watch, None] = {}  # looked at on every tick, until taken out
        self.ticking = False

    def tick(self) -> None:
        """Look at all that are active, and come back as long as there are any."""
        now = self.loop.time()
        for watch in list(self.active):
            watch.look(now)
        self.ticking = bool(self.active)
        if self.ticking:
            self.loop.call_later(WATCH_TICK_SECONDS, self.tick)


class Watch:
    """Watches the task that makes it, until ``close``; times in the loop's."""

    body_read = False  # set when the connection may be listened to for the caller's leaving
    expired = False  # the deadline passed; the task has been cancelled for it
    gone = False  # the caller hung up; the same
    _stuck_at = inf
    _caller: asyncio.Task[None] | None = None

    def __init__(self, watches: Watches, receive: Receive, budget: float, on_stuck: Callable[[], None]) -> None:
        self.budget = budget  # seconds from now to the deadline
        self.deadline = watches.loop.time() + budget
        self._watches = watches
        self._receive = receive
        self._on_stuck = on_stuck
        self._task = asyncio.current_task()
        watches.active[self] = None
        if not watches.ticking:
            watches.ticking = True
            watches.loop.call_later(WATCH_TICK_SECONDS, watches.tick)

    def close(self) -> None:
        """End the watch; the task is not cancelled any more."""
        self._watches.active.pop(self, None)
        self._on_stuck = _nothing  # breaks the cycle of references: nothing is left for the collector
        if self._caller is not None:
            self._caller.cancel()

    def look(self, now: float) -> None:
        """Do what is due: cancel, call ``on_stuck`` when that did not help, or start listening for the caller."""
        if now >= self.deadline:
            if not self.expired:
                self.expired = True
                self._stuck_at = now + CANCEL_GRACE_SECONDS
                self._cancel()
            elif now >= self._stuck_at:
                self._stuck_at = inf
                self._on_stuck()
        elif self._caller is None and self.body_read and now - self.deadline + self.budget >= WATCH_AFTER_SECONDS:
            self._caller = self._watches.loop.create_task(self._wait_for_hang_up())

    async def _wait_for_hang_up(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _nothing() -> None:
    pass
