"""Clearing up after what ended: files, folders and processes that nothing uses any more."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Collection

from shoal.core import proctree
from shoal.platform.local import logfiles, strays
from shoal.platform.local.layout import Home
from shoal.platform.local.state import State

log = logging.getLogger(__name__)


def clear(home: Home, state: State) -> None:
    """Remove what interrupted deployments and ended processes left; nothing may run yet."""
    for revision in state.unfinished():
        state.remove_revision(revision.name)
    known = {item.name for name in state.function_names() for item in state.revisions(name)}
    for folder in home.revisions.iterdir():
        if folder.name not in known:
            discard(home, folder.name)
    for part in home.models.glob(".*--*"):
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(home.scratch, ignore_errors=True)
    home.scratch.mkdir(mode=0o700)


def discard(home: Home, revision: str) -> None:
    """Remove the files of a revision that is no more."""
    shutil.rmtree(home.revisions / revision, ignore_errors=True)
    logfiles.remove(home.log(revision))


def remove_models(home: Home, held: Collection[str]) -> None:
    """Remove the files of versions not in ``held``; those just being prepared have hidden names."""
    for folder in home.models.glob("*--*"):
        if folder.name not in held and not folder.name.startswith("."):
            shutil.rmtree(folder, ignore_errors=True)


def end_orphans(home: Home) -> None:
    """End the processes a dead inference server, or a dead node's function, left to this one."""
    for pid in proctree.end_orphans(home.run, os.getpid()):
        log.warning("ended process %d, which was left by a dead one", pid)


async def tidy(home: Home) -> None:
    """End processes that belong to nothing any more, and cut the log files that are past their bound."""
    end_orphans(home)
    await strays.end()
    for path in home.logs.glob("*.log"):
        await asyncio.to_thread(logfiles.rotate, path)
