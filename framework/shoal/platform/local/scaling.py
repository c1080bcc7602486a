"""How many instances a revision should have, and the loop that keeps it there.

The figure is a pure function of recent load samples. Up at once, down slowly: the largest need seen within the
revision's window counts, so a short lull ends nothing. Zero only after a whole window without a request, with
nothing in flight and nothing held.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shoal.core import limits
from shoal.core.clock import Clock
from shoal.core.errors import ShoalError
from shoal.platform.local.instances import Instances
from shoal.platform.local.records import Revision

TICK_SECONDS: Final = 0.5
_SAMPLES_MAX: Final = 240
TARGET_UTILISATION: Final = 0.7  # of the concurrency, as Knative's default
SMOOTHING_SECONDS: Final = 3.0  # a need is an average this long, so that a blip starts no process
STABLE_SECONDS_MAX: Final = 60.0  # how long a past need keeps more than one instance

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the gateway saw of one revision at one moment."""

    at: float  # monotonic seconds
    in_flight: int
    held: int  # waiting for an instance
    idle_s: float  # since the last request ended, or since the newest instance became ready if that is later


@dataclass(frozen=True, slots=True)
class Policy:
    """What a revision asks for."""

    concurrency: int  # requests one instance takes at once
    window_s: float
    minimum: int
    maximum: int


def desired(samples: Sequence[Sample], policy: Policy, current: int) -> int:
    """Give the number of instances to have; ``samples`` oldest first, ``current`` kept when there are none."""
    if not samples:
        return _clamp(current, policy)
    newest = samples[-1]
    if _idle(newest, policy):
        return policy.minimum
    since = newest.at - min(policy.window_s, STABLE_SECONDS_MAX)
    need = max(_need(samples, index, policy) for index in range(len(samples)) if samples[index].at >= since)
    kept = 1 if current or newest.held or newest.in_flight else 0
    return _clamp(max(need, kept), policy)


def _idle(sample: Sample, policy: Policy) -> bool:
    return not sample.in_flight and not sample.held and sample.idle_s >= policy.window_s


def _need(samples: Sequence[Sample], index: int, policy: Policy) -> int:
    first = index
    while first and samples[first - 1].at > samples[index].at - SMOOTHING_SECONDS:
        first -= 1
    recent = samples[first : index + 1]
    load = sum(sample.in_flight + sample.held for sample in recent) / len(recent)
    return math.ceil(load / (policy.concurrency * TARGET_UTILISATION))


def _clamp(count: int, policy: Policy) -> int:
    return max(policy.minimum, min(count, policy.maximum))


@dataclass(frozen=True, slots=True)
class Scaled:
    """A revision and whether a split names it: only then its minimum counts."""

    revision: Revision
    reachable: bool

    def policy(self) -> Policy:
        """Give what the specification asks for."""
        spec = self.revision.spec
        maximum = min(spec.scale_max, limits.INSTANCES_PER_REVISION_MAX)
        return Policy(spec.concurrency, spec.window_s, spec.scale_min if self.reachable else 0, maximum)


@dataclass(slots=True)
class Scaler:
    """Samples the gateway's load and starts or drains instances.

    ``revisions`` lists what to look after, ``load`` asks the gateway, ``start`` starts one instance.
    """

    instances: Instances
    clock: Clock
    revisions: Callable[[], Iterable[Scaled]]
    load: Callable[[], Awaitable[Mapping[str, Any]]]
    start: Callable[[Revision], Awaitable[object]]
    _samples: dict[str, deque[Sample]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[object]] = field(default_factory=set)

    async def run(self) -> None:
        """Scale for ever; a gateway that does not answer changes nothing."""
        try:
            while True:
                await asyncio.sleep(TICK_SECONDS)
                await self._tick()
        finally:
            for task in self._tasks:
                task.cancel()

    async def _tick(self) -> None:
        watched = [item for item in self.revisions() if self._matters(item)]
        if not watched:
            self._samples.clear()
            return
        try:
            load = await self.load()
        except ShoalError as error:
            log.warning("no load figures: %s", error.message)
            return
        self._step(watched, load)

    def _matters(self, item: Scaled) -> bool:
        return self.instances.active(item.revision.name) > 0 or item.policy().minimum > 0

    def _step(self, watched: list[Scaled], load: Mapping[str, Any]) -> None:
        names = {item.revision.name for item in watched}
        self._samples = {name: samples for name, samples in self._samples.items() if name in names}
        for item in watched:
            self._note(item.revision.name, load.get(item.revision.name, {}))
            self._adjust(item)

    def _note(self, name: str, seen: Mapping[str, Any]) -> None:
        now = self.clock.monotonic()
        newest = max((instance.ready_at for instance in self.instances.ready(name)), default=now)
        idle_s = min(float(seen.get("idle_s", now)), now - newest)
        sample = Sample(now, int(seen.get("in_flight", 0)), int(seen.get("held", 0)), idle_s)
        self._samples.setdefault(name, deque(maxlen=_SAMPLES_MAX)).append(sample)

    def _adjust(self, item: Scaled) -> None:
        name = item.revision.name
        current = self.instances.active(name)
        wanted = desired(tuple(self._samples[name]), item.policy(), current)
        for _ in range(current, wanted):
            self._spawn(self.start(item.revision))
        ready = self.instances.ready(name)
        surplus = min(current - wanted, len(ready))
        for instance in ready[len(ready) - surplus :] if surplus > 0 else []:
            self._spawn(self.instances.drain(instance))

    def _spawn(self, work: Awaitable[object]) -> None:
        task = asyncio.ensure_future(_quiet(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _quiet(work: Awaitable[object]) -> None:
    """Do the work; a failure is noted here, and tried again at the next tick if it is still wanted."""
    try:
        await work
    except ShoalError as error:
        log.warning("%s", error.message)
