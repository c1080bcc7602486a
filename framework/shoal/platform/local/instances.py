"""Instances of revisions: processes that start with a socket already listening, and end after their last request.

Connections made while an instance imports its handler wait in the socket's backlog, so that readiness is one
request and no polling. The node closes its own copy of the socket: when the process dies, callers see it at once.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Final

import aiohttp

from shoal.core import limits
from shoal.core.clock import Clock
from shoal.core.errors import DeployError, NotRunningError, ShoalError
from shoal.platform.local import environment, liveness, logfiles, sockets, strays
from shoal.platform.local.layout import Home
from shoal.platform.local.processes import Command, Process, describe_end
from shoal.platform.local.records import Revision
from shoal.platform.local.supervisor import backoff, failures_after

STARTUP_EXIT: Final = 3  # the runtime could not start and said why in one JSON line
REASON_LINES: Final = 5
_READY_RETRY_SECONDS: Final = 0.05
_GONE_RETRY_SECONDS: Final = 0.01  # past its end, an instance is cleared up after
_DRAIN_MARGIN_SECONDS: Final = 5.0
_PATIENCE_SECONDS: Final = 1.0  # a start that has to wait this long is not refused: its callers wait with it


class Phase(StrEnum):
    """Where an instance is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    GONE = "gone"


_NEXT: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.STARTING: frozenset({Phase.READY, Phase.DRAINING, Phase.GONE}),
    Phase.READY: frozenset({Phase.DRAINING, Phase.GONE}),
    Phase.DRAINING: frozenset({Phase.GONE}),
    Phase.GONE: frozenset(),
}


@dataclass(eq=False, slots=True)
class Instance:
    """One process of a revision."""

    id: str
    revision: Revision
    port: int
    process: Process
    scratch: Path
    log: Path
    log_start: int  # where in the log it began
    pool: tuple[str, ...]  # where it was told to call models
    phase: Phase = Phase.STARTING
    ready_at: float = 0.0  # monotonic seconds
    told_to_end: bool = False
    verdict: str = ""  # why the node killed it
    watch: asyncio.Task[None] | None = None  # asks it whether it still answers

    def enter(self, phase: Phase) -> bool:
        """Move to ``phase`` if that can follow; says whether it did."""
        if phase not in _NEXT[self.phase]:
            return False
        self.phase = phase
        self.told_to_end = self.told_to_end or phase is Phase.DRAINING
        return True


@dataclass(slots=True)
class Failures:
    """Starts and lives of one revision that ended too soon in a row, and when the next start is allowed."""

    count: int = 0
    not_before: float = 0.0
    reason: str = ""


@dataclass(slots=True)
class Crew:
    """What exists of one revision."""

    instances: list[Instance] = field(default_factory=list)
    failures: Failures = field(default_factory=Failures)
    starts: set[asyncio.Task[None]] = field(default_factory=set)  # under way


@dataclass(frozen=True, slots=True)
class Hooks:
    """What instances need of the node around them."""

    changed: Callable[[], None]  # called whenever a set of ready instances changed
    settled: Callable[[], Awaitable[object]]  # waits until the gateway knows of the change
    gone: Callable[[], None]  # called when a process that called models is gone
    pool: Callable[[], Awaitable[tuple[str, ...]]]  # gives the pool's addresses


class Instances:
    """All instances: each start is a task of its own, which anyone may wait for and nobody's leaving ends."""

    def __init__(self, home: Home, clock: Clock, hooks: Hooks) -> None:
        self._home, self._clock, self._hooks = home, clock, hooks
        self._ending = False
        self._crews: dict[str, Crew] = {}
        self._ids = count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    def ready(self, revision: str) -> list[Instance]:
        """List a revision's ready instances."""
        return [instance for instance in self._crew(revision).instances if instance.phase is Phase.READY]

    def active(self, revision: str) -> int:
        """Count the instances that are ready or will be."""
        return len(self.ready(revision)) + len(self._crew(revision).starts)

    def used(self, revision: str) -> bool:
        """Say whether any process of a revision runs, be it to finish its last request, or is about to."""
        crew = self._crew(revision)
        return bool(crew.instances or crew.starts)

    def alive(self) -> list[Instance]:
        """List every instance whose process runs."""
        return [instance for crew in self._crews.values() for instance in crew.instances]

    def reason(self, revision: str) -> str:
        """Say why the last start of a revision failed, or its last instance died; empty when all is well."""
        return self._crew(revision).failures.reason

    def forgive(self, revision: str) -> None:
        """Let the next start of a revision happen at once, whatever came before."""
        self._crew(revision).failures = Failures()

    async def start(self, revision: Revision) -> None:
        """Start one more instance and wait until it answers; DeployError with the one reason when it does not.

        After failures in a row the next attempt is refused until a growing delay has passed. NotRunningError while
        the platform stops, or when the pool, which the revision needs, has no address.
        """
        await _joined(revision, self._begin(revision))

    async def ensure(self, revision: Revision) -> None:
        """Wait until a revision has a ready instance, joining a start under way; raises as ``start``."""
        if not self.ready(revision.name):
            under_way = next(iter(self._crew(revision.name).starts), None)
            await _joined(revision, under_way or self._begin(revision))

    async def drain(self, instance: Instance) -> None:
        """End an instance: no new requests, then SIGTERM, then SIGKILL past the function's own timeout."""
        if not instance.enter(Phase.DRAINING):
            return
        self._hooks.changed()
        try:
            with suppress(ShoalError):  # a gateway that does not answer sends no requests either
                await self._hooks.settled()
        finally:
            await instance.process.stop(instance.revision.spec.timeout_s + _DRAIN_MARGIN_SECONDS)

    async def drain_moved(self, pool: tuple[str, ...]) -> None:
        """End the instances that call models at another address than ``pool``; others start when needed."""
        moved = [instance for instance in self.alive() if instance.revision.models and instance.pool != pool]
        await asyncio.gather(*(self.drain(instance) for instance in moved))

    async def drain_revision(self, revision: str) -> None:
        """End all instances of a revision, and forget how it fared."""
        await _cancelled(self._crew(revision).starts)
        await asyncio.gather(*(self.drain(instance) for instance in list(self._crew(revision).instances)))
        await self._gone(revision)
        self._crews.pop(revision, None)

    async def refuse(self) -> None:
        """Start nothing from now on; what is about to start ends."""
        self._ending = True
        await _cancelled({task for crew in self._crews.values() for task in crew.starts})

    async def end(self, grace_s: float) -> None:
        """End every instance within ``grace_s`` seconds; back when all processes are gone."""
        await self.refuse()
        for instance in self.alive():
            instance.enter(Phase.DRAINING)
        await asyncio.gather(*(instance.process.stop(grace_s) for instance in self.alive()))
        await asyncio.gather(*self._tasks)

    # Inside.

    def _crew(self, revision: str) -> Crew:
        return self._crews.setdefault(revision, Crew())

    def _begin(self, revision: Revision) -> asyncio.Task[None]:
        """Begin to start an instance, unless the revision failed too often of late."""
        if self._ending:
            raise NotRunningError(f"{revision.name} does not start: the platform is stopping", hint="shoal up")
        crew = self._crew(revision.name)
        wait_s = max(0.0, crew.failures.not_before - self._clock.monotonic())
        if wait_s > _PATIENCE_SECONDS:
            raise _refusal(revision, crew.failures.reason, round(wait_s, 1))
        task = asyncio.create_task(self._start(revision, crew, wait_s), name=f"start-{revision.name}")
        crew.starts.add(task)
        task.add_done_callback(lambda done: _noted(crew, done))
        return task

    async def _start(self, revision: Revision, crew: Crew, wait_s: float) -> None:
        try:
            await asyncio.sleep(wait_s)
            pool = await self._hooks.pool() if revision.models else ()
            await self._bring_up(self._spawn(revision, pool), crew)
            crew.failures.reason = ""  # how often it failed counts on until a life was steady
        finally:
            crew.starts -= {asyncio.current_task()}  # in the same step as it became ready: it counts once
        self._hooks.changed()

    async def _bring_up(self, instance: Instance, crew: Crew) -> None:
        crew.instances.append(instance)
        task = asyncio.create_task(self._attend(instance), name=f"attend-{instance.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._answer(instance)
        except BaseException:
            instance.enter(Phase.DRAINING)
            await asyncio.shield(instance.process.stop(0.0))
            raise
        if not instance.enter(Phase.READY):
            raise _stopped(instance.revision)
        instance.ready_at = self._clock.monotonic()
        instance.watch = asyncio.create_task(self._watch(instance), name=f"watch-{instance.id}")

    def _spawn(self, revision: Revision, pool: tuple[str, ...]) -> Instance:
        identity = f"{revision.name}-{next(self._ids)}"
        scratch = self._home.scratch / identity
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = self._home.log(revision.name)
        source = self._home.revisions / revision.name
        with closing(sockets.listen()) as listener:
            port = sockets.port_of(listener)
            env = environment.of_instance(revision, source, scratch, (listener.fileno(), port), pool)
            start = logfiles.size(log)
            command = Command(environment.runtime_command(), env, log, source, (listener.fileno(),), session=True)
            return Instance(identity, revision, port, Process(command), scratch, log, start, pool)

    async def _answer(self, instance: Instance) -> None:
        """Wait until the instance answers its readiness path with 200, or dies, or takes too long."""
        ended = asyncio.ensure_future(instance.process.wait())
        ready = asyncio.ensure_future(_until_ready(instance.port))
        try:
            await asyncio.wait({ended, ready}, return_when="FIRST_COMPLETED", timeout=limits.READY_SECONDS_MAX)
            if ready.done() and not ready.cancelled() and ready.exception() is None:
                return
            if instance.told_to_end:
                raise _stopped(instance.revision)
            reason = self._reason(instance, ended.result() if ended.done() else None)
            self._count_failure(instance.revision.name, reason)
            raise _refusal(instance.revision, reason)
        finally:
            ended.cancel()
            ready.cancel()

    async def _watch(self, instance: Instance) -> None:
        """Kill an instance that answers no more; one that drains has its time anyway."""
        await liveness.until_silent(instance.port)
        if instance.phase is Phase.READY:
            instance.verdict = liveness.VERDICT
            instance.process.signal(signal.SIGKILL)

    async def _attend(self, instance: Instance) -> None:
        """Wait for the end of an instance and clear up after it, whatever ended it."""
        code = await instance.process.wait()
        if instance.watch:
            instance.watch.cancel()
        crashed = instance.phase is Phase.READY
        if crashed:
            lived_s = self._clock.monotonic() - instance.ready_at
            self._count_failure(instance.revision.name, self._reason(instance, code), lived_s)
        elif instance.ready_at:
            self.forgive(instance.revision.name)
        instance.enter(Phase.GONE)
        if crashed:
            self._hooks.changed()
        await strays.end()  # what its handler started ends with it
        self._crew(instance.revision.name).instances.remove(instance)
        shutil.rmtree(instance.scratch, ignore_errors=True)
        if instance.revision.models:
            self._hooks.gone()

    def _count_failure(self, revision: str, reason: str, lived_s: float = 0.0) -> None:
        failures = self._crew(revision).failures
        failures.count = failures_after(failures.count, lived_s)
        failures.reason = reason
        failures.not_before = self._clock.monotonic() + backoff(failures.count)

    def _reason(self, instance: Instance, code: int | None) -> str:
        lines = logfiles.lines_since(instance.log, instance.log_start, REASON_LINES * 4)
        if code is None:
            return f"not ready within {limits.READY_SECONDS_MAX:g} s" + _quoted(lines[-1:])
        told = next((reason for line in reversed(lines) if (reason := _told(line))), "")
        if code == STARTUP_EXIT and told:
            return told
        when = "it ended" if instance.ready_at else "it ended before it was ready"
        return (instance.verdict or f"{when} ({describe_end(code)})") + _quoted(lines[-REASON_LINES:])

    async def _gone(self, revision: str) -> None:
        while self._crew(revision).instances:
            await asyncio.gather(*(instance.process.wait() for instance in self._crew(revision).instances))
            await asyncio.sleep(_GONE_RETRY_SECONDS)


async def _joined(revision: Revision, start: asyncio.Task[None]) -> None:
    """Wait for a start without ending it by leaving; raises what it raised."""
    await asyncio.wait([start])
    if start.cancelled():
        raise _stopped(revision)
    start.result()


async def _cancelled(starts: set[asyncio.Task[None]]) -> None:
    tasks = list(starts)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _noted(crew: Crew, start: asyncio.Task[None]) -> None:
    crew.starts.discard(start)
    if not start.cancelled():
        start.exception()  # seen: it reaches those who wait, if any still do


def _stopped(revision: Revision) -> DeployError:
    return DeployError(f"{revision.name} was stopped while it started", retry_after_s=1.0)


def _refusal(revision: Revision, reason: str, retry_after_s: float | None = None) -> DeployError:
    """Say why a revision does not start; the log of one whose deployment fails goes with it."""
    hint = f"shoal logs {revision.function}" if revision.ready else ""
    return DeployError(f"{revision.name} does not start: {reason}", hint=hint, retry_after_s=retry_after_s)


def _told(line: str) -> str:
    """Read the runtime's line about why it could not start; empty when the line is something else."""
    try:
        found = json.loads(line)
    except ValueError:
        return ""
    if not isinstance(found, dict) or "stage" not in found:
        return ""
    where = f" ({found['where']})" if found.get("where") else ""
    return f"{found['stage']}: {found.get('type', 'error')}: {found.get('message', '')}{where}"


def _quoted(lines: list[str]) -> str:
    return "".join(f"\n  | {line}" for line in lines)


async def _until_ready(port: int) -> None:
    """Ask until the answer is 200; the first question waits in the backlog while the process starts."""
    timeout = aiohttp.ClientTimeout(total=limits.READY_SECONDS_MAX)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            try:
                async with session.get(f"http://{sockets.LOOPBACK}:{port}/_shoal/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass  # the process died, which another wait sees, or it closed an early connection
            await asyncio.sleep(_READY_RETRY_SECONDS)
