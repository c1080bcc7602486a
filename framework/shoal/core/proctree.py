"""Who descends from whom, read from /proc: to wait for the end of a whole family, and to find its orphans.

A number alone names no process for long, since numbers are used again; with the moment of its birth it does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
_PARENT, _SESSION, _BORN = 1, 3, 19  # places in /proc/PID/stat, counted from the state


class Child(NamedTuple):
    """A process below another: when it was born, in which session it is, and whether it only waits to be reaped."""

    born: str
    session: int
    ended: bool


def children(parent: int) -> dict[int, Child]:
    """Map the processes directly below ``parent`` to what is known of them."""
    found = {}
    for pid in _pids():
        fields = _stat(pid)
        if fields and int(fields[_PARENT]) == parent:
            found[pid] = Child(fields[_BORN], int(fields[_SESSION]), fields[0] == "Z")
    return found


def family(root: int) -> dict[int, str]:
    """Map a process and all below it to the moments they were born; empty when ``root`` is none."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        if fields := _stat(pid):
            children.setdefault(int(fields[_PARENT]), []).append(pid)
    found: dict[int, str] = {}
    waiting = [root] if root else []
    while waiting:
        pid = waiting.pop()
        if fields := _stat(pid):
            found[pid] = fields[_BORN]
            waiting += children.get(pid, [])
    return found


def same(pid: int, born: str) -> bool:
    """Say whether the process born at that moment still runs."""
    fields = _stat(pid)
    return bool(fields) and fields[_BORN] == born and fields[0] != "Z"


def end_orphans(folder: Path, root: int) -> list[int]:
    """Kill processes that belong to ``folder`` and no longer descend from ``root``; give their ids.

    Those are the processes whose program lies below it, or that were started with their TMPDIR below it. An
    inference server that was killed leaves helper processes, which keep its listening sockets open: part of the
    connections to its successor would wait in a dead queue. A function may leave processes, too.
    """
    # In this order: a process born after the first look is no candidate, one born before is in its family by now.
    candidates = [pid for pid in _pids() if _belongs(pid, folder)]
    alive = family(root)
    return [pid for pid in candidates if pid not in alive and _kill(pid, partial(_belongs, pid, folder))]


def kill(pid: int, born: str) -> bool:
    """Kill the process born at that moment; says whether it was there."""
    return _kill(pid, partial(same, pid, born))


def environment(pid: int) -> list[bytes]:
    """Give the variables a process was started with, as ``NAME=value``; empty when there is no such process."""
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _kill(pid: int, is_meant: Callable[[], bool]) -> bool:
    """Kill through a handle, and only if the process behind it is still the one that was found."""
    with suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            if is_meant():
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                return True
        finally:
            os.close(handle)
    return False


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _belongs(pid: int, folder: Path) -> bool:
    if _program(pid).startswith(f"{folder}/"):
        return True
    temporary = os.fsencode(f"TMPDIR={folder}/")
    return pid != os.getpid() and any(variable.startswith(temporary) for variable in environment(pid))


def _program(pid: int) -> str:
    """Give what a process was started as; empty for one that ended."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().partition(b"\0")[0].decode("utf-8", "replace")
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """Give /proc/PID/stat from the state on; empty when there is no such process."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
