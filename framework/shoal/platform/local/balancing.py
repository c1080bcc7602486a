"""Slots of running instances, and the requests that wait for one: state without I/O.

A revision's request takes a slot of the instance with the fewest in flight. With no slot free (no instance, or all
at their concurrency) it waits in line, first come first served. Every change of state hands free slots to the head
of that line, in this file only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.core import limits
from shoal.core.clock import Clock
from shoal.core.errors import OverloadError, ShoalError
from shoal.platform.local.routing import Endpoint, Table


@dataclass(slots=True)
class Instance:
    """One instance and the requests it works on."""

    endpoint: Endpoint
    in_flight: int = 0


@dataclass(slots=True)
class Load:
    """What the autoscaler asks about a revision; ``in_flight`` counts those held, too."""

    in_flight: int = 0
    requests: int = 0
    quiet_since: float = 0.0  # monotonic; when the last request left


@dataclass(slots=True)
class Revision:
    """One revision's instances, its waiting line and its load."""

    name: str
    concurrency: int = 0  # per instance; 0: any number
    instances: dict[Endpoint, Instance] = field(default_factory=dict)
    refused: set[Endpoint] = field(default_factory=set)  # took no connection; ignored until a new table names them
    waiting: deque[asyncio.Future[Instance]] = field(default_factory=deque)
    load: Load = field(default_factory=Load)

    @property
    def usable(self) -> list[Instance]:
        """Instances not known to refuse connections."""
        return [instance for instance in self.instances.values() if instance.endpoint not in self.refused]

    def free(self) -> Instance | None:
        """Give the instance with the fewest requests that has a slot, or None."""
        best = min(self.usable, key=lambda instance: instance.in_flight, default=None)
        if best is None or (self.concurrency and best.in_flight >= self.concurrency):
            return None
        return best

    def serve_waiting(self) -> None:
        """Hand free slots to those who wait, in their order."""
        while self.waiting:
            if self.waiting[0].done():  # gave up meanwhile
                self.waiting.popleft()
                continue
            instance = self.free()
            if instance is None:
                return
            instance.in_flight += 1
            self.waiting.popleft().set_result(instance)

    def set_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        """Replace the instances; those that stay keep their count, those that refused get another chance."""
        self.refused.clear()
        self.instances = {one: self.instances.get(one) or Instance(one) for one in endpoints}
        self.serve_waiting()

    def fail_waiting(self, error: ShoalError) -> None:
        """Tell everybody in line that no instance will come."""
        while self.waiting:
            future = self.waiting.popleft()
            if not future.done():
                future.set_exception(error)


class Balancer:
    """All revisions' slots; ``held_max`` bounds the requests that wait, over all revisions."""

    def __init__(self, clock: Clock, *, held_max: int = limits.GATEWAY_HELD_REQUESTS_MAX) -> None:
        self._clock = clock
        self._held_max = held_max
        self._held = 0
        self._revisions: dict[str, Revision] = {}
        self._past: dict[str, int] = {}  # requests of revisions forgotten below, the longest forgotten first

    @property
    def past(self) -> Mapping[str, int]:
        """How many requests the revisions had that no table names any more; the newest of them only."""
        return self._past

    def apply(self, table: Table) -> None:
        """Take over a table's instances; revisions it does not name are forgotten once nothing is in flight."""
        for name, route in table.revisions.items():
            revision = self.revision(name)
            revision.concurrency = route.concurrency
            revision.set_endpoints(route.endpoints)
        for name in self._revisions.keys() - table.revisions.keys():
            self._retire(self._revisions[name])

    def revision(self, name: str) -> Revision:
        """Give a revision's state, made at its first mention."""
        found = self._revisions.get(name)
        if found is None:
            load = Load(requests=self._past.pop(name, 0), quiet_since=self._clock.monotonic())
            found = self._revisions[name] = Revision(name, load=load)
        return found

    def enter(self, revision: Revision) -> None:
        """Count a request in, before anything else happens to it, so that the autoscaler never misses one."""
        revision.load.in_flight += 1
        revision.load.requests += 1

    def leave(self, revision: Revision) -> None:
        """Count a request out."""
        revision.load.in_flight -= 1
        if not revision.load.in_flight:
            revision.load.quiet_since = self._clock.monotonic()

    def take(self, revision: Revision) -> Instance | None:
        """Take a slot at once; None when there is none or others wait already."""
        if revision.waiting:
            return None
        instance = revision.free()
        if instance is not None:
            instance.in_flight += 1
        return instance

    def line_up(self, revision: Revision) -> asyncio.Future[Instance]:
        """Join the waiting line; OverloadError when the gateway holds all it may."""
        if self._held >= self._held_max:
            raise OverloadError(
                f"{self._held} requests wait for functions that are starting or busy; the gateway holds no more",
                retry_after_s=1.0,
            )
        future: asyncio.Future[Instance] = asyncio.get_running_loop().create_future()
        revision.waiting.append(future)
        self._held += 1
        return future

    def leave_line(self, revision: Revision, future: asyncio.Future[Instance]) -> None:
        """End a wait: a slot that came in the same moment as the end of patience goes to the next in line."""
        self._held -= 1
        if not future.done():
            future.cancel()
            revision.waiting.remove(future)
        elif not future.cancelled() and future.exception() is None:
            self.give_back(revision, future.result())

    def served(self) -> None:
        """End a wait whose slot is kept."""
        self._held -= 1

    def give_back(self, revision: Revision, instance: Instance) -> None:
        """Free a slot."""
        instance.in_flight -= 1
        revision.serve_waiting()

    def refuse(self, revision: Revision, instance: Instance) -> None:
        """Note that an instance took no connection."""
        revision.refused.add(instance.endpoint)

    def starved(self) -> list[Revision]:
        """Give the revisions for which requests wait although no instance is there."""
        return [one for one in self._revisions.values() if one.waiting and not one.usable]

    def report(self) -> Mapping[str, Any]:
        """Give each revision's load in JSON form."""
        now = self._clock.monotonic()
        return {
            name: {
                "in_flight": revision.load.in_flight,
                "held": sum(not future.done() for future in revision.waiting),
                "requests": revision.load.requests,
                "idle_s": 0.0 if revision.load.in_flight else round(now - revision.load.quiet_since, 3),
            }
            for name, revision in self._revisions.items()
        }

    def _retire(self, revision: Revision) -> None:
        revision.set_endpoints(())
        if not revision.load.in_flight:
            del self._revisions[revision.name]
            self._past[revision.name] = revision.load.requests
            if len(self._past) > limits.GATEWAY_PAST_REVISIONS_MAX:
                del self._past[next(iter(self._past))]
