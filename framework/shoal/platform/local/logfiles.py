"""Log files with a bound: written by the processes themselves, cut by the node, read by anyone.

A file past its bound is copied to ``<name>.log.1`` and emptied in place, since its writers keep it open in append
mode. What is written between the copy and the cut is lost: the price of no process between writer and file.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from shoal.core import limits

_POLL_SECONDS: Final = 0.1
_LINE_BYTES_MAX: Final = 16 * 2**10


def rotate(path: Path, bytes_max: int = limits.LOG_BYTES_MAX) -> bool:
    """Set a log file aside if it is larger than ``bytes_max``; says whether it was."""
    try:
        if path.stat().st_size <= bytes_max:
            return False
        shutil.copyfile(path, previous(path))
        os.truncate(path, 0)
    except FileNotFoundError:
        return False
    return True


def previous(path: Path) -> Path:
    """Name the file that holds what was set aside."""
    return path.with_name(path.name + ".1")


def remove(path: Path) -> None:
    """Remove a log file and what was set aside of it."""
    path.unlink(missing_ok=True)
    previous(path).unlink(missing_ok=True)


def size(path: Path) -> int:
    """Length of a log file in bytes, 0 if there is none: the offset at which the next line starts."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def lines_since(path: Path, offset: int, count: int) -> list[str]:
    """Give the last ``count`` non-empty lines written after ``offset``; all of the file if it was cut since."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            start = offset if offset <= end else 0
            file.seek(max(start, end - count * _LINE_BYTES_MAX))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def tail(paths: Sequence[Path], count: int) -> list[str]:
    """Give the last ``count`` lines of several logs, which follow each other in time."""
    found: deque[str] = deque(maxlen=count)
    for path in paths:
        for part in (previous(path), path):
            found.extend(lines_since(part, 0, count))
    return list(found)


def follow(paths: Callable[[], Sequence[Path]], ended: Callable[[], bool]) -> Iterator[str]:
    """Yield lines as they are written to the files ``paths`` names, until ``ended``; new files from their start."""
    offsets = {path: size(path) for path in paths()}
    while True:
        last_round = ended()
        lines = [line for path in paths() for line in _grown(path, offsets)]
        yield from lines
        if last_round:
            return
        if not lines:
            time.sleep(_POLL_SECONDS)


def _grown(path: Path, offsets: dict[Path, int]) -> list[str]:
    offset = offsets.get(path, 0)
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < offset:
                offset = 0  # cut meanwhile
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        offsets.pop(path, None)
        return []
    complete = data[: data.rfind(b"\n") + 1]
    offsets[path] = offset + len(complete)
    return complete.decode("utf-8", "replace").splitlines()
