"""Instances of revisions: processes that start with a socket already listening, and end after their last request.

Connections made while an instance imports its handler wait in the socket's backlog, so that readiness is one
request and no polling. The node closes its own copy of the socket: when the process dies, callers see it at once.
"""

from __future__ import annotations

import asyncio
import json
import shutil
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
from shoal.core.errors import DeployError, PlatformError
from shoal.platform.local import environment, logfiles, sockets
from shoal.platform.local.layout import Home
from shoal.platform.local.processes import Command, Process, describe_end
from shoal.platform.local.records import Revision
from shoal.platform.local.supervisor import backoff

STARTUP_EXIT: Final = 3  # the runtime could not start and said why in one JSON line
REASON_LINES: Final = 5
_READY_RETRY_SECONDS: Final = 0.05
_DRAIN_MARGIN_SECONDS: Final = 5.0


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
    phase: Phase = Phase.STARTING
    ready_at: float = 0.0  # monotonic seconds

    def enter(self, phase: Phase) -> bool:
        """Move to ``phase`` if that can follow; says whether it did."""
        if phase not in _NEXT[self.phase]:
            return False
        self.phase = phase
        return True


@dataclass(slots=True)
class Failures:
    """Starts of one revision that failed in a row, and when the next is allowed."""

    count: int = 0
    not_before: float = 0.0
    reason: str = ""


@dataclass(slots=True)
class Crew:
    """What exists of one revision."""

    instances: list[Instance] = field(default_factory=list)
    failures: Failures = field(default_factory=Failures)
    starting: int = 0


class Instances:
    """All instances; ``changed`` is called whenever a set of ready ones changed, ``settled`` waits until told."""

    def __init__(
        self, home: Home, clock: Clock, changed: Callable[[], None], settled: Callable[[], Awaitable[object]]
    ) -> None:
        self._home, self._clock, self._changed, self._settled = home, clock, changed, settled
        self._crews: dict[str, Crew] = {}
        self._ids = count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    def ready(self, revision: str) -> list[Instance]:
        """List a revision's ready instances."""
        return [instance for instance in self._crew(revision).instances if instance.phase is Phase.READY]

    def active(self, revision: str) -> int:
        """Count the instances that are ready or will be."""
        return len(self.ready(revision)) + self._crew(revision).starting

    def alive(self) -> list[Instance]:
        """List every instance whose process runs."""
        return [instance for crew in self._crews.values() for instance in crew.instances]

    def reason(self, revision: str) -> str:
        """Say why the last start of a revision failed, or its last instance died; empty when all is well."""
        return self._crew(revision).failures.reason

    def forgive(self, revision: str) -> None:
        """Let the next start of a revision happen at once, whatever came before."""
        self._crew(revision).failures = Failures()

    async def start(self, revision: Revision, pool: tuple[str, ...]) -> Instance:
        """Start one instance and wait until it answers; DeployError with the one reason when it does not.

        After failures in a row the next attempt is refused until a growing delay has passed.
        """
        crew = self._crew(revision.name)
        self._check_pace(revision, crew.failures)
        crew.starting += 1
        try:
            instance = await self._start(revision, crew, pool)
        finally:
            crew.starting -= 1
        crew.failures = Failures()
        self._changed()
        return instance

    async def drain(self, instance: Instance) -> None:
        """End an instance: no new requests, then SIGTERM, then SIGKILL past the function's own timeout."""
        if not instance.enter(Phase.DRAINING):
            return
        self._changed()
        with suppress(PlatformError):  # a gateway that does not answer sends no requests either
            await self._settled()
        await instance.process.stop(instance.revision.spec.timeout_s + _DRAIN_MARGIN_SECONDS)

    async def drain_revision(self, revision: str) -> None:
        """End all instances of a revision, and forget how it fared."""
        await asyncio.gather(*(self.drain(instance) for instance in list(self._crew(revision).instances)))
        await self._gone(revision)
        self._crews.pop(revision, None)

    async def end(self, grace_s: float) -> None:
        """End every instance within ``grace_s`` seconds; back when all processes are gone."""
        for instance in self.alive():
            instance.enter(Phase.DRAINING)
        await asyncio.gather(*(instance.process.stop(grace_s) for instance in self.alive()))
        await asyncio.gather(*self._tasks)

    # Inside.

    def _crew(self, revision: str) -> Crew:
        return self._crews.setdefault(revision, Crew())

    def _check_pace(self, revision: Revision, failures: Failures) -> None:
        wait_s = failures.not_before - self._clock.monotonic()
        if wait_s > 0:
            raise _refusal(revision, failures.reason, round(wait_s, 1))

    async def _start(self, revision: Revision, crew: Crew, pool: tuple[str, ...]) -> Instance:
        instance = self._spawn(revision, pool)
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
            raise DeployError(f"{revision.name} was stopped while it started")
        instance.ready_at = self._clock.monotonic()
        return instance

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
            command = Command(environment.runtime_command(), env, log, source, (listener.fileno(),))
            return Instance(identity, revision, port, Process(command), scratch, log, start)

    async def _answer(self, instance: Instance) -> None:
        """Wait until the instance answers its readiness path with 200, or dies, or takes too long."""
        ended = asyncio.ensure_future(instance.process.wait())
        ready = asyncio.ensure_future(_until_ready(instance.port))
        try:
            await asyncio.wait({ended, ready}, return_when="FIRST_COMPLETED", timeout=limits.READY_SECONDS_MAX)
            if ready.done() and not ready.cancelled() and ready.exception() is None:
                return
            reason = self._reason(instance, ended.result() if ended.done() else None)
            self._count_failure(instance.revision.name, reason)
            raise _refusal(instance.revision, reason)
        finally:
            ended.cancel()
            ready.cancel()

    async def _attend(self, instance: Instance) -> None:
        """Wait for the end of an instance and clear up after it, whatever ended it."""
        code = await instance.process.wait()
        crashed = instance.phase is Phase.READY
        if crashed:
            self._crew(instance.revision.name).failures.reason = self._reason(instance, code)
        instance.enter(Phase.GONE)
        self._crew(instance.revision.name).instances.remove(instance)
        shutil.rmtree(instance.scratch, ignore_errors=True)
        if crashed:
            self._changed()

    def _count_failure(self, revision: str, reason: str) -> None:
        failures = self._crew(revision).failures
        failures.count += 1
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
        return f"{when} ({describe_end(code)})" + _quoted(lines[-REASON_LINES:])

    async def _gone(self, revision: str) -> None:
        while self._crew(revision).instances:
            await asyncio.gather(*(instance.process.wait() for instance in self._crew(revision).instances))
            await asyncio.sleep(0)


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
