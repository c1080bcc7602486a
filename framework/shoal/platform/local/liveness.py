"""Whether an instance still answers: one whose event loop is blocked for good runs on, yet no request ever ends.

Its process is there and its socket takes connections, so nothing else notices. The question is the liveness path's,
which needs no slot and no handler; as in Kubernetes, only silences in a row count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import aiohttp

from shoal.core import limits
from shoal.platform.local import sockets

PATH: Final = "/_shoal/live"
_SILENT_SECONDS: Final = limits.LIVE_SECONDS * limits.LIVE_SILENCES_MAX
VERDICT: Final = (
    f"it did not answer {PATH} for {_SILENT_SECONDS:g} s and was killed: "
    "an async handler that does not await holds up all others"
)


async def answers(port: int) -> bool:
    """Say whether an instance on ``port`` answers in time.

    What is not silence counts as an answer: the end of the process is seen elsewhere, and a question that could not
    be asked says nothing about the instance.
    """
    timeout = aiohttp.ClientTimeout(total=limits.LIVE_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://{sockets.LOOPBACK}:{port}{PATH}"),
        ):
            return True
    except TimeoutError:
        return False
    except (aiohttp.ClientError, OSError):
        return True


async def until_silent(
    port: int, *, ask: Callable[[int], Awaitable[bool]] = answers, every_s: float = limits.LIVE_SECONDS
) -> None:
    """Ask every ``every_s`` seconds; back once there was no answer LIVE_SILENCES_MAX times in a row."""
    silences = 0
    while silences < limits.LIVE_SILENCES_MAX:
        answered, _ = await asyncio.gather(ask(port), asyncio.sleep(every_s))
        silences = 0 if answered else silences + 1
