"""Child processes: none outlives its parent, each is signalled by handle, never by a number that may be reused.

The kernel kills a child when the thread that started it dies (core/lifeline.py), which covers ``kill -9`` of the
parent; so children start from the main thread only. Their output goes straight into a file.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shoal.core import lifeline
from shoal.core.errors import PlatformError


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: program and arguments, environment, folder, log file and inherited file descriptors."""

    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    cwd: Path | None = None
    fds: Sequence[int] = field(default=())
    session: bool = False  # whether it gets a session of its own, by which what it starts can be told


_running: Final[dict[int, Command]] = {}  # what this process started and has not reaped, by process id


def running() -> Mapping[int, Command]:
    """Map the process ids of all children started here that have not been seen to end to their commands."""
    return _running


class Process:
    """One running child; ``wait`` any number of times, from any task."""

    def __init__(self, command: Command) -> None:
        self._popen = start(command)
        self.pid = self._popen.pid
        _running[self.pid] = command
        self._handle = os.pidfd_open(self.pid)
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self._handle, self._reap)

    @property
    def running(self) -> bool:
        """Whether it has not been seen to end."""
        return not self._ended.done()

    @property
    def returncode(self) -> int | None:
        """Exit code, or minus the signal that ended it; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Wait for the end; gives the exit code, or minus the signal."""
        return await asyncio.shield(self._ended)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        if self.running:
            signal.pidfd_send_signal(self._handle, number)

    async def stop(self, grace_s: float) -> int:
        """SIGTERM, then SIGKILL after ``grace_s`` seconds; gives the exit code."""
        self.signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.wait(), grace_s)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.wait()

    def _reap(self) -> None:
        code = self._popen.poll()
        if code is None:
            return
        del _running[self.pid]
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        self._ended.set_result(code)


def start(command: Command) -> subprocess.Popen[bytes]:
    """Start a child that dies with this process; PlatformError when it cannot be started."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("children start from the main thread: they die with the thread that started them")
    try:
        with command.log.open("ab") as log:
            return subprocess.Popen(
                lifeline.tied(command.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(command.env),
                cwd=command.cwd,
                pass_fds=tuple(command.fds),
                start_new_session=command.session,
            )
    except OSError as error:
        raise PlatformError(f"{command.argv[0]} cannot be started: {error.strerror}") from error


def describe_end(code: int) -> str:
    """Say how a process ended, from its exit code or minus its signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
