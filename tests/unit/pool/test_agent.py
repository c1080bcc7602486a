"""The agent where a server misbehaves in ways neither the fake nor a real one does on request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers_triton import write_model
from shoal.core import limits
from shoal.core.errors import ModelFaultError, PoolError, PoolUnreachableError, UsageError
from shoal.pool.agent import Agent
from shoal.triton.tensors import Signature, TensorSpec

STATED = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))


class Scripted:
    """Server and control at once: a dictionary of models, and attributes that say how it fails."""

    http, grpc = "127.0.0.1:1", "127.0.0.1:2"

    def __init__(self) -> None:
        self.index_: dict[str, tuple[str, str]] = {}
        self.calls: list[str] = []
        self.starts = self.kills = 0
        self.running = False
        self.silent = False
        self.up_error: Exception | None = None
        self.served = STATED
        self.stubs_: dict[str, int] = {}

    @property
    def pid(self) -> int:
        return 77 if self.running else 0

    async def up(self) -> None:
        self.starts += 1
        if self.up_error:
            raise self.up_error
        self.running, self.index_ = True, {}

    async def down(self) -> None:
        self.running = False

    async def answers(self) -> bool:
        return not self.silent

    def kill(self) -> None:
        self.kills += 1
        self.running, self.silent = False, False

    def stubs(self) -> Mapping[str, int]:
        return self.stubs_

    def load(self, name: str) -> None:
        self.calls.append(f"load {name}")
        if not self.running:
            raise PoolUnreachableError("nobody there")
        if name.startswith("bad"):
            raise ModelFaultError("it does not load")
        self.index_[name] = ("READY", "")

    def unload(self, name: str) -> None:
        self.calls.append(f"unload {name}")
        self.index_[name] = ("UNAVAILABLE", "unloaded")

    def index(self) -> dict[str, tuple[str, str]]:
        if not self.running:
            raise PoolUnreachableError("nobody there")
        return dict(self.index_)

    def metadata(self, name: str) -> Signature:
        return self.served

    def config(self, name: str) -> dict[str, Any]:
        return {}

    def server_ready(self) -> bool:
        return self.running

    def server_live(self) -> bool:
        return self.running

    def close(self) -> None:
        self.calls.append("close")


@asynccontextmanager
async def agent_of(server: Scripted, tmp_path: Path) -> AsyncIterator[Agent]:
    for name in ("a--1", "b--2", "bad--3"):
        write_model(tmp_path, name, "identity")
    agent = Agent(server, lambda address: server, tmp_path)
    life = asyncio.create_task(agent.run())
    try:
        yield agent
    finally:
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        await agent.close()


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch and restart without waiting."""
    for name in ("POOL_WATCH_SECONDS", "POOL_RESTART_SECONDS_MIN", "POOL_RESTART_SECONDS_MAX"):
        monkeypatch.setattr(limits, name, 0.01)
    monkeypatch.setattr(limits, "TRITON_ANSWER_SECONDS_MAX", 0.01)


async def test_a_model_served_otherwise_than_stated_fails_and_is_unloaded(tmp_path: Path) -> None:
    server = Scripted()
    server.served = Signature(STATED.inputs, (TensorSpec("y", "FP64", (-1,)),))
    async with agent_of(server, tmp_path) as agent:
        states = await agent.want(["a--1"])
        assert states["a--1"]["state"] == "FAILED"
        assert "y: FP32[-1] is stated, y: FP64[-1] is served" in states["a--1"]["reason"]
        assert server.calls == ["load a--1", "unload a--1"]


async def test_a_load_that_fails_keeps_its_reason_and_the_rest_loads(tmp_path: Path) -> None:
    server = Scripted()
    async with agent_of(server, tmp_path) as agent:
        states = await agent.want(["a--1", "bad--3"])
        assert states["bad--3"] == {"state": "FAILED", "reason": "it does not load"}
        assert states["a--1"]["state"] == "READY"


async def test_a_server_that_does_not_come_up_is_tried_again_with_its_reason_shown(tmp_path: Path) -> None:
    server = Scripted()
    server.up_error = PoolError("the port burns")
    async with agent_of(server, tmp_path) as agent:
        wanting = asyncio.create_task(agent.want(["a--1"]))
        await until(lambda: server.starts >= 3)
        assert (agent.status()["ready"], agent.status()["reason"]) == (False, "the port burns")
        assert not wanting.done()
        server.up_error = None
        assert (await wanting)["a--1"]["state"] == "READY"
        assert agent.status()["reason"] == ""


async def test_a_machine_that_cannot_run_it_is_told_to_everyone(tmp_path: Path) -> None:
    server = Scripted()
    server.up_error = UsageError("no libpython", hint="apt-get install libpython3.11")
    async with agent_of(server, tmp_path) as agent:
        for _ in range(2):
            with pytest.raises(UsageError, match="no libpython"):
                await agent.want(["a--1"])
        assert server.starts == 1
        assert agent.status()["reason"] == "no libpython"


async def test_a_server_that_stops_answering_is_killed_and_replaced(tmp_path: Path) -> None:
    server = Scripted()
    async with agent_of(server, tmp_path) as agent:
        await agent.want(["a--1"])
        server.silent = True
        await until(lambda: server.starts == 2 and agent.models()["a--1"]["state"] == "READY")
        assert server.kills == 1


async def test_models_of_a_server_that_died_are_not_called_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "POOL_RESTART_SECONDS_MIN", 60.0)
    server = Scripted()
    async with agent_of(server, tmp_path) as agent:
        await agent.want(["a--1"])
        server.running = False
        await until(lambda: not agent.status()["ready"])
        assert agent.models() == {"a--1": {"state": "LOADING", "reason": ""}}
        assert "ended" in agent.status()["reason"]


async def test_restarts_wait_longer_each_time_until_a_server_stays_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoal.core.clock import FakeClock
    from shoal.pool import agent as module

    waits: list[float] = []
    clock, sleep = FakeClock(), asyncio.sleep

    async def sleeping(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(seconds)
        await sleep(0)

    monkeypatch.setattr(limits, "POOL_RESTART_SECONDS_MIN", 1.0)
    monkeypatch.setattr(limits, "POOL_RESTART_SECONDS_MAX", 5.0)
    monkeypatch.setattr(module.asyncio, "sleep", sleeping)
    server = Scripted()
    server.up_error = PoolError("no")
    agent = Agent(server, lambda address: server, tmp_path, clock=clock)
    life = asyncio.create_task(agent.run())
    while len(waits) < 5:
        await sleep(0)
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    assert waits[:5] == [1.0, 2.0, 4.0, 5.0, 5.0]


async def test_a_short_silence_is_forgiven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    server = Scripted()

    async def answers() -> bool:
        asked.append(len(asked) % limits.TRITON_SILENCES_MAX == 0)
        return asked[-1]

    monkeypatch.setattr(server, "answers", answers)
    async with agent_of(server, tmp_path):
        await until(lambda: len(asked) > 3 * limits.TRITON_SILENCES_MAX)
        assert (server.kills, server.starts) == (0, 1)


async def test_a_model_with_one_of_two_stubs_dead_is_loaded_afresh(tmp_path: Path) -> None:
    server = Scripted()
    server.stubs_ = {"a--1": 2}
    async with agent_of(server, tmp_path) as agent:
        await agent.want(["a--1"])
        server.calls.clear()
        server.stubs_ = {"a--1": 1}
        await until(lambda: "load a--1" in server.calls)
        assert server.calls[:2] == ["unload a--1", "load a--1"]
        await until(lambda: agent.models()["a--1"]["state"] == "READY")


async def test_closing_ends_server_and_control(tmp_path: Path) -> None:
    server = Scripted()
    async with agent_of(server, tmp_path) as agent:
        await agent.want([])
    assert (server.running, server.calls) == (False, ["close"])
