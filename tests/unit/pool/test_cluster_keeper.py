"""The agent in a pod: what it holds after each change of the leases, and what it never lets go of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helpers_triton import write_model
from shoal.core import limits
from shoal.core.errors import ModelFaultError, PlatformError, ShoalError
from shoal.models.fake_pool import FakePool
from shoal.pool.agent import Agent
from shoal.pool.cluster import Keeper, keep, tell
from shoal.pool.cluster_models import Puller
from shoal.pool.cluster_triton import control_headers, ensure_key
from shoal.triton.control import GrpcControl

A, B, C = "a--000000000001", "b--000000000002", "c--000000000003"


@dataclass
class Shelf(Puller):
    """A registry on this machine: a version is written when it is pulled, unless it is ``absent``."""

    repository: Path
    absent: set[str] = field(default_factory=set)
    pulls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__("http://127.0.0.1:1", self.repository)

    async def pull(self, version: str) -> None:
        self.pulls.append(version)
        if version in self.absent:
            raise ModelFaultError(f"{version} is not in the registry")
        if not (self.repository / version).is_dir():
            write_model(self.repository, version, "identity")


class Neighbour(FakePool):
    """A server that somebody else keeps up: an agent that starts finds it with what it held."""

    async def up(self) -> None:
        if not self.running:
            await super().up()


class Counting(GrpcControl):
    """Real control, over gRPC, that notes what it was asked to change."""

    calls: list[str] = []
    watchers: list[Callable[[], None]] = []

    def load(self, name: str) -> None:
        self.calls.append(f"load {name}")
        for watcher in self.watchers:
            watcher()
        super().load(name)

    def unload(self, name: str) -> None:
        self.calls.append(f"unload {name}")
        super().unload(name)


@dataclass
class Pod:
    keeper: Keeper
    shelf: Shelf
    leases: asyncio.Queue[Mapping[str, str]]
    notes: list[str]
    calls: list[str]
    watchers: list[Callable[[], None]]

    def watch_loads(self, watcher: Callable[[], None]) -> None:
        self.watchers.append(watcher)

    def states(self) -> dict[str, str]:
        return {name: one["state"] for name, one in self.keeper.models().items()}

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(90):
            while not condition():
                await asyncio.sleep(0.01)

    async def lease(self, **leases: str) -> None:
        await self.leases.put(leases)


@asynccontextmanager
async def a_pod(server: FakePool, repository: Path) -> AsyncIterator[Pod]:
    """An agent beside ``server``; the server outlives it, as where only the agent's container ends."""
    calls: list[str] = []
    watchers: list[Callable[[], None]] = []
    control = type("Own", (Counting,), {"calls": calls, "watchers": watchers})
    agent = Agent(server, control, repository)
    shelf = Shelf(repository)
    keeper, leases, notes = Keeper(agent, shelf), asyncio.Queue[Mapping[str, str]](), list[str]()

    async def follow() -> AsyncIterator[Mapping[str, str]]:
        while True:
            yield await leases.get()

    works = [
        asyncio.create_task(keeper.run()),
        asyncio.create_task(keep(keeper, follow(), lambda level, message: notes.append(message))),
    ]
    try:
        yield Pod(keeper, shelf, leases, notes, calls, watchers)
    finally:
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FakePool]:
    (tmp_path / "models").mkdir()
    pool = Neighbour(tmp_path / "models")
    yield pool
    await pool.down()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "POOL_RESTART_SECONDS_MIN",
        "LEASE_RETRY_SECONDS_MIN",
        "LEASE_RETRY_SECONDS_MAX",
        "STATUS_TICK_SECONDS",
        "POOL_WATCH_SECONDS",
    ):
        monkeypatch.setattr(limits, name, 0.02)


async def test_it_holds_what_any_function_leases(server: FakePool, tmp_path: Path) -> None:
    async with a_pod(server, tmp_path / "models") as pod:
        assert not pod.keeper.ready
        await pod.lease(one=A, two=f"{A}\n{B}")
        await pod.until(lambda: pod.states() == {A: "READY", B: "READY"} and pod.keeper.ready)
        await pod.lease(two=B)
        await pod.until(lambda: pod.states() == {B: "READY"} and f"unload {A}" in pod.calls)
        await pod.lease()
        await pod.until(lambda: pod.states() == {} and f"unload {B}" in pod.calls)


async def test_an_agent_that_starts_anew_takes_nothing_away(server: FakePool, tmp_path: Path) -> None:
    async with a_pod(server, tmp_path / "models") as first:
        await first.lease(one=A, two=B)
        await first.until(lambda: first.states() == {A: "READY", B: "READY"})
    async with a_pod(server, tmp_path / "models") as second:
        second.shelf.absent = {A}  # whatever the registry does meanwhile
        await second.lease(one=B)
        await second.until(lambda: second.states() == {B: "READY"})
        assert f"unload {B}" not in second.calls
        await second.until(lambda: f"unload {A}" in second.calls)


async def test_a_replica_gets_no_calls_while_a_new_server_loads(server: FakePool, tmp_path: Path) -> None:
    async with a_pod(server, tmp_path / "models") as pod:
        pod.shelf.absent = {B}
        await pod.lease(one=A, two=B)
        await pod.until(lambda: pod.keeper.ready)  # one that FAILED does not take the others away
        ready: list[bool] = []
        before = len(pod.calls)
        pod.watch_loads(lambda: ready.append(pod.keeper.ready))
        await server.down()
        await pod.until(lambda: not pod.keeper.ready)
        await pod.until(lambda: pod.keeper.ready)
        assert pod.states() == {A: "READY", B: "FAILED"}
        assert f"load {A}" in pod.calls[before:]
        assert ready
        assert not any(ready)


async def test_one_that_cannot_be_pulled_is_told_and_tried_again(server: FakePool, tmp_path: Path) -> None:
    async with a_pod(server, tmp_path / "models") as pod:
        pod.shelf.absent = {B}
        await pod.lease(one=A, two=B)
        await pod.until(lambda: pod.states() == {A: "READY", B: "FAILED"} and pod.keeper.ready)
        assert "not in the registry" in pod.keeper.models()[B]["reason"]
        pod.shelf.absent = set()
        await pod.until(lambda: pod.states() == {A: "READY", B: "READY"})
        assert not any(call.startswith("unload") for call in pod.calls)


async def test_a_change_comes_through_while_something_fails(server: FakePool, tmp_path: Path) -> None:
    async with a_pod(server, tmp_path / "models") as pod:
        pod.shelf.absent = {B}
        await pod.lease(one=B)
        await pod.until(lambda: pod.states() == {B: "FAILED"})
        await pod.lease(one=C)
        await pod.until(lambda: pod.states() == {C: "READY"})


async def test_a_lease_that_is_no_version_is_told_and_the_rest_is_held(server: FakePool, tmp_path: Path) -> None:
    async with a_pod(server, tmp_path / "models") as pod:
        await pod.lease(one=f"{A}\n../../etc", two=B)
        await pod.until(lambda: pod.states() == {A: "READY", B: "READY"})
        assert any("the lease of one names '../../etc'" in note for note in pod.notes)


async def test_more_than_a_pool_holds_fails_with_the_figure(
    server: FakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "POOL_MODELS_MAX", 1)
    async with a_pod(server, tmp_path / "models") as pod:
        await pod.lease(one=A, two=B)
        await pod.until(lambda: pod.states() == {A: "FAILED", B: "FAILED"})
        assert "holds 1 at most" in pod.keeper.models()[A]["reason"]
        await pod.lease(one=A)
        await pod.until(lambda: pod.states() == {A: "READY"})


async def test_each_change_is_reported_once_and_again_after_a_refusal(server: FakePool, tmp_path: Path) -> None:
    told: list[Mapping[str, str | None]] = []
    failures: list[ShoalError] = [PlatformError("403: not yours"), PlatformError("500: away")]

    class Client:
        async def patch(self, namespace: str, name: str, data: Mapping[str, str | None]) -> None:
            if failures:
                raise failures.pop()
            told.append(data)

    async with a_pod(server, tmp_path / "models") as pod:
        teller = asyncio.create_task(tell(pod.keeper, Client(), "ns", "pod-a", lambda *_: None))  # type: ignore[arg-type]
        await pod.lease(one=A)
        await pod.until(lambda: told and '"READY"' in str(told[-1]["pod-a"]))
        await asyncio.sleep(0.1)
        teller.cancel()
    assert len(told) == len({str(one) for one in told})


def test_the_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = ensure_key(path)
    assert len(key) == 64
    assert ensure_key(path) == key
    assert path.stat().st_mode & 0o077 == 0
    assert control_headers(key) == {"triton-grpc-protocol-shoal": key}
