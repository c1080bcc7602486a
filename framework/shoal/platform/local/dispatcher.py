"""Delivering what is due: one lane per trigger, so that a slow function delays nobody else's events.

A lane asks the store for what is due, has a bounded number of attempts under way, and sleeps until its next
delivery's time or until somebody wakes it. Nothing of its state must survive: after a crash the store still has
every delivery whose outcome was not recorded, and these are tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from random import Random
from typing import Final

from shoal.core import limits
from shoal.core.clock import Clock
from shoal.core.errors import ShoalError, StoreError
from shoal.platform.local.delivery import Answer, Trigger, Verdict, judge, within_retries
from shoal.platform.local.events_store import Due, EventStore, NewEvent, Settlement
from shoal.platform.local.eventwriter import EventWriter
from shoal.platform.local.ingest import to_new_event

Send = Callable[[Trigger, Due], Awaitable[Answer]]  # one attempt; never raises but CancelledError
Log = Callable[..., None]
_STORE_RETRY_SECONDS: Final = 1.0
_LOOK_SECONDS_MAX: Final = 30.0  # between two looks at a lane, also when nothing woke it
_STORE_ATTEMPTS_MAX: Final = 30  # to record an outcome; after that the delivery is tried again instead


class Dispatcher:
    """All lanes."""

    def __init__(self, writer: EventWriter, send: Send, clock: Clock, rng: Random, log: Log) -> None:
        self._writer = writer
        self._send = send
        self._clock = clock
        self._rng = rng
        self._log = log
        self._slots = asyncio.Semaphore(limits.BROKER_DELIVERIES_MAX)
        self._lanes: dict[str, _Lane] = {}
        self.triggers: dict[str, Trigger] | None = None  # None: the node has not said yet

    async def set_triggers(self, triggers: Mapping[str, Trigger]) -> None:
        """Replace the triggers: match events held for them, drop deliveries of those that are gone."""
        self.triggers = dict(triggers)
        everyone = list(triggers.values())
        while await self._writer.write(
            lambda store: store.fan_out_held(everyone, self._clock.now(), limits.BROKER_GROUP_MAX)
        ):
            pass
        dropped = await self._writer.write(lambda store: store.drop_orphans(triggers.keys(), self._clock.now()))
        for name, count in dropped.items():
            self._log("warning", f"trigger {name} is gone: {count} deliveries dropped", trigger=name, count=count)
        await self._stop_lanes(self._lanes.keys() - triggers.keys())
        for trigger in everyone:
            self._lane(trigger)
        self.wake(triggers)

    def wake(self, names: Iterable[str]) -> None:
        """Have these triggers' lanes look for what is due."""
        for name in names:
            if name in self._lanes:
                self._lanes[name].wake.set()

    async def stop(self, drain_s: float) -> None:
        """Begin nothing new, and give what is under way ``drain_s`` seconds."""
        for lane in self._lanes.values():
            lane.loop.cancel()
        under_way = [task for lane in self._lanes.values() for task in lane.under_way.values()]
        if under_way:
            await asyncio.wait(under_way, timeout=drain_s)
        await self._stop_lanes(list(self._lanes))

    def _lane(self, trigger: Trigger) -> None:
        lane = self._lanes.get(trigger.name)
        if lane is not None:
            lane.trigger = trigger
            return
        self._lanes[trigger.name] = _Lane(trigger, self)

    async def _stop_lanes(self, names: Iterable[str]) -> None:
        for name in list(names):
            await self._lanes.pop(name).stop()

    async def due(self, lane: _Lane, count_max: int) -> tuple[list[int], float | None]:
        """Ask the store for a lane's deliveries."""
        now, skip, name = self._clock.now(), set(lane.under_way), lane.trigger.name
        due, upcoming = await self._writer.read(lambda store: store.due(name, now, skip, count_max))
        return due, None if upcoming is None else max(0.0, upcoming - now)

    async def attempt(self, trigger: Trigger, identity: int) -> None:
        """Try one delivery and record what came of it."""
        async with self._slots:
            delivery = await self._writer.read(lambda store: store.load(identity))
            if delivery is None:
                return
            answer = await self._send(trigger, delivery)
        outcome = self._settlement(trigger, delivery, answer)
        if outcome.verb == "dead":
            who = {"trigger": trigger.name, "function": trigger.function, "delivery": delivery.id}
            self._log("error", f"dead letter: {outcome.reason}", **who, attempts=delivery.attempts + 1)
        self.wake(await self._record(delivery, outcome))

    def failed(self, error: BaseException) -> None:
        """Log what must not happen."""
        self._log("error", f"an attempt ended in {type(error).__name__}: {error}")

    def _settlement(self, trigger: Trigger, delivery: Due, answer: Answer) -> Settlement:
        verdict, reply = self._with_reply(delivery, judge(answer, self._clock.now()))
        verdict = within_retries(verdict, delivery.attempts + 1, trigger.retry)
        due = 0.0
        if verdict.verb == "retry":
            wait_s = max(trigger.backoff(delivery.attempts + 1, self._rng), verdict.retry_after_s)
            due = self._clock.now() + wait_s
        return Settlement(verdict.verb, verdict.code, verdict.reason, due, reply)

    def _with_reply(self, delivery: Due, verdict: Verdict) -> tuple[Verdict, NewEvent | None]:
        """Prepare a reply for the store, where it may be published."""
        if verdict.reply is None:
            return verdict, None
        if delivery.hops >= limits.EVENT_HOPS_MAX:
            reason = f"a reply to a reply, {delivery.hops} times over: taken for a loop and not published"
            return Verdict("dead", verdict.code, reason), None
        try:
            return verdict, to_new_event(verdict.reply, delivery.broker, hops=delivery.hops + 1)
        except ShoalError as error:
            return Verdict("retry", verdict.code, f"the reply cannot be published: {error.message}"), None

    async def _record(self, delivery: Due, outcome: Settlement) -> set[str]:
        """Write an outcome down, patiently: a disk that is full now may have room later."""

        def settle(store: EventStore) -> set[str]:
            known = None if self.triggers is None else list(self.triggers.values())
            return store.settle(delivery.id, outcome, known, self._clock.now())

        for _ in range(_STORE_ATTEMPTS_MAX):
            try:
                return await self._writer.write(settle)
            except StoreError as error:
                self._log("error", error.message, delivery=delivery.id)
            except ShoalError as error:
                self._log("warning", error.message, delivery=delivery.id)
            await asyncio.sleep(_STORE_RETRY_SECONDS)
        return set()


class _Lane:
    """One trigger's deliveries under way, and the loop that starts them."""

    def __init__(self, trigger: Trigger, dispatcher: Dispatcher) -> None:
        self.trigger = trigger
        self.wake = asyncio.Event()
        self.under_way: dict[int, asyncio.Task[None]] = {}
        self._dispatcher = dispatcher
        self.loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the loop and what is under way."""
        tasks = [self.loop, *self.under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self.wake.clear()
            try:
                wait_s = await self._start_due()
            except Exception as error:  # a defect; the deliveries that are due must not wait for the next start
                self._dispatcher.failed(error)
                wait_s = _STORE_RETRY_SECONDS
            try:
                async with asyncio.timeout(min(wait_s or _LOOK_SECONDS_MAX, _LOOK_SECONDS_MAX)):
                    await self.wake.wait()
            except TimeoutError:
                continue

    async def _start_due(self) -> float | None:
        """Start what is due; give the seconds until there is more to start, None where only a wake can tell."""
        free = limits.TRIGGER_CONCURRENCY_MAX - len(self.under_way)
        if free <= 0:
            return None
        try:
            due, wait_s = await self._dispatcher.due(self, free)
        except ShoalError:
            return _STORE_RETRY_SECONDS
        for identity in due:
            task = asyncio.create_task(self._dispatcher.attempt(self.trigger, identity))
            self.under_way[identity] = task
            task.add_done_callback(partial(self._ended, identity))
        return None if len(due) == free else wait_s

    def _ended(self, identity: int, task: asyncio.Task[None]) -> None:
        del self.under_way[identity]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self.wake.set()
            return
        self._dispatcher.failed(error)
        task.get_loop().call_later(_STORE_RETRY_SECONDS, self.wake.set)
