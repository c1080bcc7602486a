"""Telling the other processes: news are told until taken, whatever fails in between."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shoal.core.errors import UsageError
from shoal.platform.local import problems
from shoal.platform.local.control import Follower

WAIT_SECONDS = 60.0


@asynccontextmanager
async def listener(socket: Path, taken: list[Any], refusal: Exception | None = None) -> AsyncIterator[None]:
    """Take what is told at ``/news``."""

    async def take(request: web.Request) -> web.Response:
        if isinstance(refusal, UsageError):
            return problems.response(refusal)
        taken.append(json.loads(await request.read()))
        return web.json_response({"taken": len(taken)})

    app = web.Application()
    app.router.add_put("/news", take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    yield
    await runner.cleanup()


async def test_news_survive_a_message_that_could_not_be_made(tmp_path: Path) -> None:
    taken: list[Any] = []
    failures = [sqlite3.OperationalError("database or disk is full")]

    def body() -> Any:
        if failures:
            raise failures.pop()
        return "news"

    follower = Follower(tmp_path / "s", "/news", body, timeout_s=WAIT_SECONDS)
    ticket = follower.poke()
    async with listener(tmp_path / "s", taken):
        with pytest.raises(sqlite3.OperationalError):
            await follower.run()
        assert (ticket, follower.up_to_date) == (1, False)
        again = asyncio.create_task(follower.run())  # as the node does; nothing pokes it again
        async with asyncio.timeout(WAIT_SECONDS):
            while not follower.up_to_date:
                await asyncio.sleep(0.01)
        again.cancel()
    assert (taken, follower.sent, follower.answer) == (["news"], "news", {"taken": 1})


async def test_news_wait_for_a_process_that_is_not_there_yet(tmp_path: Path) -> None:
    taken: list[Any] = []
    follower = Follower(tmp_path / "s", "/news", lambda: "news", timeout_s=WAIT_SECONDS)
    running = asyncio.create_task(follower.run())
    told = asyncio.create_task(follower.settled(WAIT_SECONDS))
    await asyncio.sleep(0.2)
    assert not told.done()
    async with listener(tmp_path / "s", taken):
        assert await told == {"taken": 1}
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_a_refusal_is_told_and_not_repeated(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "s", "/news", lambda: "bad", timeout_s=WAIT_SECONDS)
    running = asyncio.create_task(follower.run())
    async with listener(tmp_path / "s", [], UsageError("no news at all")):
        with pytest.raises(UsageError, match="no news at all"):
            await follower.settled(WAIT_SECONDS)
        assert (follower.up_to_date, follower.reason) == (True, "no news at all")
        running.cancel()
