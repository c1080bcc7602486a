"""Ends a request whose time is up or whose caller has gone, by cancelling the task that serves it.

One timer per request, and nothing else for those that are quick: the caller's connection is watched only once a
request is older than ``WATCH_AFTER_SECONDS``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shoal.core.limits import CANCEL_GRACE_SECONDS, WATCH_AFTER_SECONDS
from shoal.runtime.body import Receive


class Watch:
    """Watches the current task until ``close``; ``deadline`` in the loop's time."""

    __slots__ = (
        "_body_read",
        "_caller",
        "_due",
        "_loop",
        "_on_stuck",
        "_receive",
        "_task",
        "_timer",
        "deadline",
        "expired",
        "gone",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        receive: Receive,
        started: float,
        deadline: float,
        on_stuck: Callable[[], None],
    ) -> None:
        self.deadline = deadline
        self.expired = False  # the deadline passed; the task has been cancelled for it
        self.gone = False  # the caller hung up; the same
        self._loop = loop
        self._receive = receive
        self._on_stuck = on_stuck
        self._task = asyncio.current_task(loop)
        self._body_read = self._due = False
        self._caller: asyncio.Task[None] | None = None
        self._timer = loop.call_at(min(started + WATCH_AFTER_SECONDS, deadline), self._tick)

    def body_is_read(self) -> None:
        """From now on the connection may be listened to for the caller's leaving."""
        self._body_read = True
        if self._due:
            self._watch_caller()

    def close(self) -> None:
        """End the watch; the task is not cancelled any more."""
        self._timer.cancel()
        if self._caller is not None:
            self._caller.cancel()

    def _tick(self) -> None:
        if self._loop.time() >= self.deadline:
            self.expired = True
            self._timer = self._loop.call_later(CANCEL_GRACE_SECONDS, self._on_stuck)
            self._cancel()
            return
        self._due = True
        if self._body_read:
            self._watch_caller()
        self._timer = self._loop.call_at(self.deadline, self._tick)

    def _watch_caller(self) -> None:
        self._due = False
        self._caller = self._loop.create_task(self._wait_for_hang_up())

    async def _wait_for_hang_up(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
