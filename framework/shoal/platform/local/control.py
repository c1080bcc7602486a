"""Calls between the platform's processes: JSON over HTTP on unix sockets, refusals as the errors they were."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp

from shoal.core import limits
from shoal.core.errors import NotRunningError, PlatformError, ShoalError
from shoal.core.problems import from_problem

RETRY_SECONDS: Final = 0.1


async def call(
    socket: Path, method: str, path: str, body: Any = None, *, timeout_s: float = limits.CONTROL_SECONDS_MAX
) -> Any:
    """Call the process behind ``socket``; raises the error it answers, or NotRunningError when there is none."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=timeout) as session,
            session.request(method, f"http://shoal{path}", json=body) as response,
        ):
            return _answer(response.status, await response.read(), socket.stem)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise NotRunningError(f"{socket.stem} does not answer: {error or type(error).__name__}") from error


def _answer(status: int, text: bytes, component: str) -> Any:
    try:
        answer = json.loads(text) if text else {}
    except ValueError:
        raise PlatformError(f"{component} answered {status} with something else than JSON") from None
    if status >= 400:
        raise from_problem(answer if isinstance(answer, Mapping) else {})
    return answer


class Follower:
    """Tells one process what it must know: the newest only, until it has taken it, again after each start."""

    def __init__(self, socket: Path, path: str, body: Callable[[], Any], *, timeout_s: float) -> None:
        self._socket, self._path, self._body, self._timeout_s = socket, path, body, timeout_s
        self._wanted = 0  # news so far; what is untold is the difference, which no failure can lose
        self._told = 0
        self._changed = asyncio.Event()
        self._news = asyncio.Condition()
        self.sent: Any = None  # the newest message, perhaps still under way
        self.answer: Any = None  # to the newest message taken
        self.error: ShoalError | None = None  # why the newest was not taken

    @property
    def up_to_date(self) -> bool:
        """Whether it has taken all there is to tell."""
        return self._told >= self._wanted

    @property
    def reason(self) -> str:
        """Why it has not taken the newest, if it refused."""
        return self.error.message if self.error is not None else ""

    def poke(self) -> int:
        """Note that there is something to tell; gives a ticket for ``settled``."""
        self._wanted += 1
        self._changed.set()
        return self._wanted

    async def settled(self, timeout_s: float) -> Any:
        """Tell it now and give its answer; NotRunningError when it took nothing within ``timeout_s`` seconds."""
        ticket = self.poke()
        try:
            async with asyncio.timeout(timeout_s), self._news:
                await self._news.wait_for(lambda: self._told >= ticket)
        except TimeoutError:
            raise self.error or NotRunningError(f"{self._socket.stem} did not answer in {timeout_s:g} s") from None
        if self.error is not None:
            raise self.error
        return self.answer

    async def run(self) -> None:
        """Tell it whatever ``poke`` announces, for ever."""
        while True:
            self._changed.clear()
            if self.up_to_date:
                await self._changed.wait()
            elif not await self._tell(self._wanted):
                await asyncio.sleep(RETRY_SECONDS)

    async def _tell(self, ticket: int) -> bool:
        try:
            self.sent = self._body()
            answer = await call(self._socket, "PUT", self._path, self.sent, timeout_s=self._timeout_s)
        except ShoalError as error:
            await self._done(ticket if error.status < 500 else self._told, self.answer, error)
            return error.status < 500
        await self._done(ticket, answer, None)
        return True

    async def _done(self, ticket: int, answer: Any, error: ShoalError | None) -> None:
        async with self._news:
            self._told, self.answer, self.error = ticket, answer, error
            self._news.notify_all()
