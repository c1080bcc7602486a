"""How many requests are in the handler at once, how many wait for a slot, and what happens to the rest.

uvicorn's own limit counts idle connections and refuses without queueing, so a function admits by itself:
slots, then a bounded queue in order of arrival, then refusal at once. Waiting ends with the caller's deadline,
because the task that waits is cancelled then.
"""

from __future__ import annotations

import asyncio
from collections import deque

from shoal.core.errors import OverloadError
from shoal.core.limits import RETRY_AFTER_SECONDS


class Admission:
    """Slots and the queue in front of them; used from one event loop."""

    def __init__(self, slots: int, queue_max: int) -> None:
        self.slots = slots
        self.queue_max = queue_max
        self.in_flight = 0  # slots taken
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def queued(self) -> int:
        """How many requests wait for a slot."""
        return len(self._waiting)

    def try_enter(self) -> bool:
        """Take a slot if one is free; nobody ever waits while one is."""
        if self.in_flight < self.slots:
            self.in_flight += 1
            return True
        return False

    async def enter(self) -> None:
        """Take a slot, waiting in order of arrival; OverloadError at once when the queue is full."""
        if self.try_enter():
            return
        if len(self._waiting) >= self.queue_max:
            raise OverloadError(
                f"all {self.slots} slots are taken and {self.queue_max} requests wait already",
                retry_after_s=RETRY_AFTER_SECONDS,
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._give_up(turn)
            raise

    def leave(self) -> None:
        """Give the slot to the first in the queue, or free it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # the slot changes hands: in_flight stays
                return
        self.in_flight -= 1

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():  # the slot was handed over while the cancellation was on its way
            self.leave()
        else:
            self._waiting.remove(turn)
