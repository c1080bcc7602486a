"""Keeps the platform's own processes running: start, restart with growing delays, stop.

What a supervised process may do is the table ``TRANSITIONS``; the loop only does the I/O that a state asks for.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Final, NoReturn

from shoal.core import limits
from shoal.core.clock import Clock
from shoal.core.errors import PlatformError, ShoalError
from shoal.core.problems import from_problem
from shoal.platform.local import logfiles, serving
from shoal.platform.local.processes import Command, Process, describe_end

BACKOFF_FIRST_SECONDS: Final = 0.1
BACKOFF_SECONDS_MAX: Final = 10.0
STEADY_SECONDS: Final = 10.0  # a process that lived this long starts its delays anew
STOP_SECONDS_MAX: Final = limits.PART_STOP_SECONDS_MAX
_AFTER_DEFECT_SECONDS: Final = 1.0

log = logging.getLogger(__name__)


class State(StrEnum):
    """Where a supervised process is."""

    IDLE = "idle"
    RUNNING = "running"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Event(StrEnum):
    """What happens to it."""

    STARTED = "started"
    FAILED = "failed"  # to start
    EXITED = "exited"
    STOP = "stop"


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.IDLE, Event.STARTED): State.RUNNING,
    (State.IDLE, Event.FAILED): State.BACKOFF,
    (State.IDLE, Event.STOP): State.STOPPED,
    (State.RUNNING, Event.EXITED): State.BACKOFF,
    (State.RUNNING, Event.STOP): State.STOPPING,
    (State.BACKOFF, Event.STARTED): State.RUNNING,
    (State.BACKOFF, Event.FAILED): State.BACKOFF,
    (State.BACKOFF, Event.STOP): State.STOPPED,
    (State.STOPPING, Event.EXITED): State.STOPPED,
    (State.STOPPING, Event.STOP): State.STOPPING,
    (State.STOPPED, Event.STOP): State.STOPPED,
}


def step(state: State, event: Event) -> State:
    """Give the next state; ValueError for what cannot happen in this one."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"a process that is {state} cannot be {event}") from None


def backoff(failures: int) -> float:
    """Seconds to wait before the start after the ``failures``-th quick end in a row: 0.1, 0.2, 0.4 … 10."""
    return min(BACKOFF_SECONDS_MAX, BACKOFF_FIRST_SECONDS * 2.0 ** min(failures - 1, 10))


def failures_after(failures: int, lived_s: float) -> int:
    """Count the quick ends in a row after another end: one that came after a steady life is the first again."""
    return 1 if lived_s >= STEADY_SECONDS else failures + 1


async def for_ever(work: Callable[[], Awaitable[None]]) -> None:
    """Run work that never ends by itself; a mistake in it is logged, and it begins again."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("a task of the node failed")
        await asyncio.sleep(_AFTER_DEFECT_SECONDS)


async def first_refusal(parts: Iterable[Supervised]) -> NoReturn:
    """Wait until a process says that it cannot start, and raise its reason."""
    waits = {asyncio.create_task(part.refused.wait()): part for part in parts}
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    raise waits[done.pop()].refusal or PlatformError("a part of the platform does not start")


def _refusal(lines: Sequence[str]) -> ShoalError | None:
    """Read the problem a process wrote as its last line; None when that line is something else."""
    try:
        return from_problem(json.loads(lines[0]))
    except (IndexError, ValueError, TypeError, AttributeError):
        return None


class Supervised:
    """One process that is started again whenever it ends.

    ``prepare`` is called before each start, to clear what the last one left; ``started`` after each.
    """

    def __init__(
        self,
        name: str,
        command: Command,
        clock: Clock,
        *,
        prepare: Callable[[], object] = lambda: None,
        started: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        self.state = State.IDLE
        self.starts = 0
        self.reason = ""  # why it last ended
        self.refusal: ShoalError | None = None  # what it cannot start for, however often it is tried
        self.refused = asyncio.Event()
        self._command = command
        self._clock = clock
        self._prepare, self._started = prepare, started
        self._failures = 0
        self._process: Process | None = None
        self._loop: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Process id, 0 when it does not run."""
        return self._process.pid if self._process is not None and self._process.running else 0

    @property
    def restarts(self) -> int:
        """Starts after the first."""
        return max(0, self.starts - 1)

    def launch(self) -> None:
        """Start it, and keep it running from now on."""
        self._start()
        self._loop = asyncio.create_task(for_ever(self._watch), name=f"supervise-{self.name}")

    async def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL; back when it is gone."""
        self.state = step(self.state, Event.STOP)
        if self._process is not None and self._process.running:
            await self._process.stop(STOP_SECONDS_MAX)
        if self._loop is not None:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop
        if self.state is State.STOPPING:
            self.state = step(self.state, Event.EXITED)

    async def _watch(self) -> None:
        while self.state in (State.RUNNING, State.BACKOFF):
            if self.state is State.RUNNING and self._process is not None:
                await self._outlive(self._process)
            if self.state is State.BACKOFF:
                await asyncio.sleep(backoff(self._failures))
                self._start()

    async def _outlive(self, process: Process) -> None:
        started = self._clock.monotonic()
        offset = logfiles.size(self._command.log)
        code = await process.wait()
        if self.state is not State.RUNNING:
            return
        self._failures = failures_after(self._failures, self._clock.monotonic() - started)
        self.state = step(self.state, Event.EXITED)
        last = logfiles.lines_since(self._command.log, offset, 1)
        self.reason = f"{describe_end(code)}" + (f": {last[0]}" if last else "")
        if code == serving.REFUSED_EXIT and (refusal := _refusal(last)):
            self.refusal, self.reason = refusal, refusal.message
            self.refused.set()

    def _start(self) -> None:
        try:
            self._prepare()
            self._process = Process(self._command)
        except (ShoalError, OSError) as error:
            self._failures += 1
            self.reason = error.message if isinstance(error, ShoalError) else f"it cannot be started: {error}"
            self.state = step(self.state, Event.FAILED)
            return
        self.starts += 1
        self.state = step(self.state, Event.STARTED)
        self._started()
