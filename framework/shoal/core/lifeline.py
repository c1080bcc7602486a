"""Processes that die with the one that started them, also after its ``kill -9`` (PR_SET_PDEATHSIG, prctl(2)).

The kernel watches the thread that started the child, so that thread must live as long as its process. The child
arranges it itself: this file, run as a program, does so and then becomes the program it was asked for. Code of
Python between fork and exec could wait for ever for a lock that another thread held at the fork.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)  # the next program would inherit that


def die_with_parent(parent: int = 0) -> None:
    """Have the kernel kill this process when its parent ends; leave at once if ``parent`` is gone already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(1)


def tied(argv: Sequence[str]) -> list[str]:
    """Give the command that runs ``argv`` as a child which dies with this process; FileNotFoundError without it."""
    import shutil  # not needed, and slow to come, where this file is the program

    program = shutil.which(argv[0])
    if program is None:
        raise FileNotFoundError(2, os.strerror(2), argv[0])
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), program, *argv[1:]]


def _main(parent: str, *argv: str) -> None:
    die_with_parent(int(parent))
    for number in _IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    _main(*sys.argv[1:])
