"""The engine's changes of state, beside parts that answer what a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shoal.core import limits
from shoal.core.errors import NotRunningError
from shoal.platform.local import problems, sockets
from shoal.platform.local.engine import Engine
from shoal.platform.local.layout import Home
from shoal.platform.local.records import RunSpec
from shoal.platform.local.state import State
from shoal.platform.port import Target

WAIT_SECONDS = 60.0


class Parts:
    """Gateway, broker and pool in one: what each was told, and how it answers."""

    def __init__(self) -> None:
        self.told: dict[str, list[Any]] = {"gateway": [], "broker": [], "pool": []}
        self.takes: Callable[[str, Any], bool] = lambda name, body: True
        self.loading = asyncio.Event()  # while clear, the pool keeps its answer back
        self.loading.set()
        self.http = "127.0.0.1:1"

    def states(self) -> dict[str, dict[str, str]]:
        newest = self.told["pool"][-1]["models"] if self.told["pool"] else []
        return {name: {"state": "READY", "reason": ""} for name in newest}

    def application(self, name: str) -> web.Application:
        async def take(request: web.Request) -> web.Response:
            body = json.loads(await request.read())
            if not self.takes(name, body):
                return problems.response(NotRunningError(f"{name} is away"))
            self.told[name].append(body)
            if name == "pool":
                await self.loading.wait()
            return web.json_response({"models": self.states()})

        async def status(_: web.Request) -> web.Response:
            return web.json_response({"http": self.http, "ready": True, "models": self.states()})

        app = web.Application()
        path = {"gateway": "/routes", "broker": "/triggers", "pool": "/models"}[name]
        app.add_routes([web.put(path, take), web.get("/status", status)])
        return app


@pytest.fixture
async def parts() -> Parts:
    return Parts()


@pytest.fixture
async def engine(tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    """An engine whose followers run, without any process: six revisions of ``f``, each with a model of its own."""
    monkeypatch.setattr(limits, "CONTROL_SECONDS_MAX", 2.0)
    home = Home(tmp_path)
    home.make()
    async with AsyncExitStack() as stack:
        state = State(home.database)
        stack.callback(state.close)
        listeners = {name: stack.enter_context(sockets.listen()) for name in ("gateway", "broker")}
        made = Engine(home, state, listeners)
        for name in parts.told:
            runner = web.AppRunner(parts.application(name), shutdown_timeout=0.1)
            stack.push_async_callback(runner.cleanup)
            await runner.setup()
            await web.UnixSite(runner, str(home.socket(name))).start()
        for number in range(1, 7):
            one = state.add_revision("f", digest="d", spec=RunSpec(), models={"m": f"m--{number}"}, now=0.0)
            state.publish_revision(one.name, [Target(one.name, 100)], 0.0)
        tasks = [asyncio.create_task(follower.run()) for follower in made.followers.values()]
        yield made
        parts.loading.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def only(number: int) -> list[Target]:
    return [Target(f"f-{number:05d}", 100)]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def test_changes_at_the_same_time_all_hold_their_models(engine: Engine, parts: Parts) -> None:
    parts.loading.clear()
    changes = [asyncio.create_task(engine.set_traffic("f", only(number))) for number in (1, 2, 3)]
    await until(lambda: parts.told["pool"])
    parts.loading.set()
    for number, change in zip((1, 2, 3), changes, strict=True):
        assert (await change).traffic == tuple(only(number))
    split = [table["functions"]["f"]["targets"][0]["revision"] for table in parts.told["gateway"]]
    for number in (1, 2, 3):  # each had its model before it had traffic
        assert f"f-{number:05d}" in split
        assert any(f"m--{number}" in told["models"] for told in parts.told["pool"])
    assert engine.leases == {}


async def test_rollbacks_at_the_same_time_each_go_one_step(engine: Engine) -> None:
    ends = await asyncio.gather(*(engine.rollback("f") for _ in range(3)))
    assert [end.traffic for end in ends] == [tuple(only(number)) for number in (5, 4, 3)]
    assert engine.leases == {}


async def test_a_change_of_traffic_does_not_wait_for_a_deployment(engine: Engine) -> None:
    async with engine.deploying("f"), asyncio.timeout(WAIT_SECONDS):
        assert (await engine.set_traffic("f", only(5))).traffic == tuple(only(5))


@pytest.mark.parametrize("part", ["gateway", "broker"])
async def test_a_change_is_refused_and_not_kept_while_a_part_is_away(
    engine: Engine, parts: Parts, part: str
) -> None:
    parts.takes = lambda name, body: name != part
    for change in (engine.set_traffic("f", only(5)), engine.rollback("f")):
        with pytest.raises(NotRunningError, match=f"{part} is away"):
            await change
    revision = engine.state.add_revision("f", digest="e", spec=RunSpec(), models={}, now=1.0)
    async with engine.changing("f"):
        with pytest.raises(NotRunningError, match=f"{part} is away"):
            await engine.publish(revision, [Target(revision.name, 100)])
    assert engine.state.traffic("f") == tuple(only(6))
    assert not engine.state.revision(revision.name).ready


async def test_a_change_that_is_kept_is_a_success_also_when_it_is_not_in_effect_yet(
    engine: Engine, parts: Parts
) -> None:
    def away_for_new_splits(name: str, body: Any) -> bool:
        return name != "gateway" or body["functions"]["f"]["targets"][0]["revision"] == "f-00006"

    parts.takes = away_for_new_splits
    changed = await engine.set_traffic("f", only(5))
    late = "in effect when the gateway is back"
    assert (changed.traffic, changed.ready, changed.reason) == (tuple(only(5)), False, late)
    parts.takes = lambda name, body: True
    await until(lambda: engine.followers["gateway"].up_to_date)
    assert parts.told["gateway"][-1]["functions"]["f"]["targets"][0]["revision"] == "f-00005"
    parts.takes = lambda name, body: name != "gateway" or "f-00007" not in str(body)
    made = engine.state.add_revision("f", digest="e", spec=RunSpec(), models={}, now=1.0)
    async with engine.changing("f"):
        assert await engine.publish(made, [Target(made.name, 100)]) == late
    assert engine.state.revision(made.name).ready


async def test_models_the_pool_serves_wait_for_no_others(engine: Engine, parts: Parts) -> None:
    await engine.load_models({"m--6"})
    parts.loading.clear()
    engine.leases["of another deployment"] = {"slow--1"}
    slow = asyncio.create_task(engine.load_models({"slow--1"}))
    await until(lambda: "slow--1" in parts.told["pool"][-1]["models"])
    async with asyncio.timeout(WAIT_SECONDS):
        await engine.load_models({"m--6"})
    assert not slow.done()
    parts.loading.set()
    await slow


async def test_the_pools_address_is_asked_for_each_time(engine: Engine, parts: Parts) -> None:
    assert await engine.pool_addresses() == ("127.0.0.1:1",)
    parts.http = "127.0.0.1:2"
    assert await engine.pool_addresses() == ("127.0.0.1:2",)
