"""Who descends from whom, read from /proc: to wait for the end of a whole family, and to find its orphans.

A number alone names no process for long, since numbers are used again; with the moment of its birth it does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_PARENT, _BORN = 1, 19  # places in /proc/PID/stat, counted from the state


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
    """Kill processes whose program lies below ``folder`` and that no longer descend from ``root``; give their ids.

    An inference server that was killed leaves helper processes, which keep its listening sockets open: part of the
    connections to its successor would wait in a dead queue.
    """
    # In this order: a process born after the first look is no candidate, one born before is in its family by now.
    candidates = [pid for pid in _pids() if _program(pid).startswith(f"{folder}/")]
    alive = family(root)
    return [pid for pid in candidates if pid not in alive and _kill(pid, folder)]


def _kill(pid: int, folder: Path) -> bool:
    """Kill through a handle, and only if the process behind it is still the one that was found."""
    with suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            if _program(pid).startswith(f"{folder}/"):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                return True
        finally:
            os.close(handle)
    return False


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


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
