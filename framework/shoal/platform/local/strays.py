"""What functions leave behind: processes a handler started that outlive its own.

The node adopts them, being the kernel's subreaper, so that none gets out of its sight. One that still is in the
session of a running instance, or was started with its TMPDIR, belongs to that instance; any other is nobody's.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from contextlib import suppress
from typing import Final

from shoal.core import proctree
from shoal.platform.local import processes

_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37
_ROUNDS_MAX: Final = 500  # a killed process hands over its children, which are the next round's
_ROUND_SECONDS: Final = 0.02
_LIBC: Final = ctypes.CDLL(None, use_errno=True)

log = logging.getLogger(__name__)


def adopt() -> None:
    """Make this process the parent of every orphan below it, from now on."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


async def end() -> None:
    """Kill and reap the adopted processes that belong to no running instance; nothing where none are adopted."""
    if not _adopts():
        return
    for _ in range(_ROUNDS_MAX):
        left = _unclaimed()
        if not left:
            return
        for pid, child in left.items():
            _reap(pid) if child.ended else _kill(pid)
        await asyncio.sleep(_ROUND_SECONDS)
    log.warning("processes that functions left do not end: %s", ", ".join(map(str, _unclaimed())))


async def end_all() -> None:
    """Kill every process below this one, whatever it belongs to, and reap those it adopted."""
    _kill(os.getpid())
    await end()


def _unclaimed() -> dict[int, proctree.Child]:
    """Find the adopted processes to kill or reap.

    A child in the node's own session was started here, by a thread that waits for it.
    """
    own, known = os.getsid(0), processes.running()
    found = proctree.children(os.getpid()).items()
    adopted = {pid: child for pid, child in found if child.session != own and pid not in known}
    return {pid: child for pid, child in adopted.items() if child.ended or not _claimed(pid, child)}


def _claimed(pid: int, child: proctree.Child) -> bool:
    owners = {owner: command for owner, command in processes.running().items() if command.session}
    if child.session in owners:
        return True
    places = {os.fsencode(f"TMPDIR={command.env.get('TMPDIR')}") for command in owners.values()}
    return not places.isdisjoint(proctree.environment(pid))


def _kill(root: int) -> None:
    for pid, born in proctree.family(root).items():
        if pid != os.getpid():
            proctree.kill(pid, born)


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _adopts() -> bool:
    found = ctypes.c_int(0)
    _LIBC.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0)
    return bool(found.value)
