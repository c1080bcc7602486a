"""The pool's control API: the wanted set in, states out, refusals as problems."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from helpers_triton import write_model
from shoal.core.errors import PoolUnreachableError
from shoal.core.limits import CONTROL_BODY_BYTES_MAX
from shoal.models.fake_pool import FakePool
from shoal.pool.agent import Agent
from shoal.pool.api import application
from shoal.triton.control import GrpcControl


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncIterator[Path]:
    """The control socket of an agent with a fake pool."""
    write_model(tmp_path / "models", "one--1", "identity")
    agent = Agent(FakePool(tmp_path / "models"), GrpcControl, tmp_path / "models")
    life = asyncio.create_task(agent.run())
    runner = web.AppRunner(application(agent), access_log=None)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    yield tmp_path / "s"
    await runner.cleanup()
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    await agent.close()


async def call(socket: Path, method: str, path: str, **body: Any) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
        session.request(method, f"http://pool{path}", **body) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


async def test_a_wanted_set_is_loaded_and_shown(socket: Path) -> None:
    models = {"one--1": {"state": "READY", "reason": ""}}
    assert await call(socket, "PUT", "/models", json={"models": ["one--1"]}) == (200, {"models": models})
    status, said = await call(socket, "GET", "/status")
    assert (status, said["ready"], said["models"], said["restarts"], said["reason"]) == (200, True, models, 0, "")
    assert set(said) == {"http", "grpc", "ready", "pid", "restarts", "reason", "models"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("PUT", "/models", {"json": {"modls": []}}, 400, "request"),
        ("PUT", "/models", {"json": {"models": [3]}}, 400, "request"),
        ("PUT", "/models", {"json": {"models": "one--1"}}, 400, "request"),
        ("PUT", "/models", {"json": []}, 400, "request"),
        ("PUT", "/models", {"data": b"{"}, 400, "request"),
        ("PUT", "/models", {"data": b"\xff\xfe"}, 400, "request"),
        ("PUT", "/models", {}, 400, "request"),
        ("PUT", "/models", {"json": {"models": ["../up"]}}, 400, "usage"),
        ("PUT", "/models", {"json": {"models": [f"m--{n}" for n in range(1_000)]}}, 400, "usage"),
        ("PUT", "/models", {"data": io.BytesIO(b" " * (CONTROL_BODY_BYTES_MAX + 1))}, 413, "body-too-large"),
        ("POST", "/models", {}, 405, "method"),
        ("GET", "/nothing", {}, 404, "not-found"),
    ],
)
async def test_a_refusal_is_a_problem_and_changes_nothing(
    socket: Path, method: str, path: str, body: dict[str, Any], status: int, kind: str
) -> None:
    found, problem = await call(socket, method, path, **body)
    assert (found, problem["status"], problem["type"]) == (status, status, f"urn:shoal:problem:{kind}")
    assert problem["component"] == "pool"
    assert problem["detail"]
    assert (await call(socket, "GET", "/status"))[1]["models"] == {}


async def test_a_refusal_says_when_to_come_again() -> None:
    class Busy:
        def status(self) -> None:
            raise PoolUnreachableError("not now", retry_after_s=2.5)

    async with TestClient(TestServer(application(Busy()))) as client:  # type: ignore[arg-type]
        answer = await client.get("/status")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "3")
        assert (await answer.json(content_type="application/problem+json"))["retry_after_s"] == 2.5
