"""The agent keeps a server and its models as wanted: on the fake pool and on a real Triton alike."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helpers_triton import prepared, write_model
from shoal.core.errors import UsageError
from shoal.models.fake_pool import FakePool
from shoal.pool.agent import Agent, Server
from shoal.pool.embedded import EmbeddedTriton
from shoal.triton.control import GrpcControl

PATIENCE_SECONDS = 90.0


@dataclass
class Rig:
    """One pool under test: its server, its agent, and the means to do it harm."""

    server: Server
    agent: Agent
    repository: Path
    notes: list[str]
    life: asyncio.Task[None] = field(init=False)

    def __post_init__(self) -> None:
        self.life = asyncio.create_task(self.agent.run())

    async def held(self) -> dict[str, str]:
        """What the server itself says it holds."""
        control = GrpcControl(self.server.grpc)
        try:
            index = await asyncio.to_thread(control.index)
        finally:
            control.close()
        return {name: state for name, (state, _) in index.items() if state == "READY"}

    async def answers(self, model: str) -> bool:
        """Whether a model answers an inference with what it got."""
        return (await infer(self.server.grpc, model, b"\x05\x00\x00\x00")) == b"\x05\x00\x00\x00"

    def kill_server(self) -> None:
        if isinstance(self.server, FakePool):
            self.server.kill()
        else:
            os.kill(self.server.pid, signal.SIGKILL)

    def kill_stub(self, model: str) -> None:
        if isinstance(self.server, FakePool):
            self.server.models.turn(model, stub_dead=True)
            return
        for listing in Path(f"/proc/{self.server.pid}/task").glob("*/children"):
            for pid in map(int, listing.read_text().split()):
                if f"/{model}/1/".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (await found if asyncio.iscoroutine(found := condition()) else found):
            assert time.monotonic() < deadline, f"waited for {what}; {self.agent.status()}; {self.notes}"
            assert not self.life.done(), self.life
            await asyncio.sleep(0.05)


async def infer(address: str, model: str, data: bytes) -> bytes:
    """One INT32 element through gRPC; empty when the call fails."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[data])
    request.inputs.add(name="x", datatype="INT32", shape=[1])
    async with grpc.aio.insecure_channel(address) as channel:
        with suppress(grpc.aio.AioRpcError):
            answer = await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
            return bytes(answer.raw_output_contents[0])
    return b""


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.triton)])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    repository, notes = tmp_path / "models", []  # type: tuple[Path, list[str]]
    repository.mkdir()
    for name in ("one--1", "two--2"):
        write_model(repository, name, "identity", datatype="INT32")
    if request.param == "real":
        prepared()
        server: Server = EmbeddedTriton(
            repository=repository, state=tmp_path / "state", log=tmp_path / "log", progress=notes.append
        )
    else:
        server = FakePool(repository)
    rig = Rig(server, _agent(server, repository, notes), repository, notes)
    try:
        yield rig
    finally:
        rig.life.cancel()
        await asyncio.gather(rig.life, return_exceptions=True)
        rig.server.kill()  # an orderly end takes Triton two seconds
        await rig.agent.close()


def _agent(server: Server, repository: Path, notes: list[str]) -> Agent:
    return Agent(server, GrpcControl, repository, note=lambda level, message: notes.append(message))


async def test_the_wanted_set_is_loaded_and_the_rest_unloaded(rig: Rig) -> None:
    assert await rig.agent.want(["one--1"]) == {"one--1": {"state": "READY", "reason": ""}}
    assert await rig.held() == {"one--1": "READY"}
    assert await rig.answers("one--1")
    assert list(await rig.agent.want(["two--2"])) == ["two--2"]
    await rig.until(lambda: _holds(rig, {"two--2"}), "only two--2")
    assert list(await rig.agent.want([])) == []
    await rig.until(lambda: _holds(rig, set()), "nothing held")


async def _holds(rig: Rig, names: set[str]) -> bool:
    return set(await rig.held()) == names


async def test_a_model_that_is_held_stays_untouched(rig: Rig) -> None:
    await rig.agent.want(["one--1"])
    await rig.agent.want(["one--1", "two--2"])
    assert rig.notes.count("one--1 is READY") == 1
    assert set(await rig.held()) == {"one--1", "two--2"}


async def test_one_bad_model_fails_alone_with_its_reason(rig: Rig) -> None:
    (rig.repository / "bad--3" / "1").mkdir(parents=True)
    (rig.repository / "bad--3" / "config.pbtxt").write_text("what is this")
    states = await rig.agent.want(["one--1", "bad--3", "absent--4"])
    assert states["one--1"]["state"] == "READY"
    assert (states["bad--3"]["state"], "config.pbtxt:1:" in states["bad--3"]["reason"]) == ("FAILED", True)
    assert (states["absent--4"]["state"], "No such file" in states["absent--4"]["reason"]) == ("FAILED", True)
    assert rig.agent.status()["ready"]


async def test_a_failed_model_is_tried_again_when_it_is_wanted_again(rig: Rig) -> None:
    assert (await rig.agent.want(["late--5"]))["late--5"]["state"] == "FAILED"
    write_model(rig.repository, "late--5", "identity", datatype="INT32")
    assert (await rig.agent.want(["late--5"]))["late--5"]["state"] == "READY"


async def test_the_newest_of_several_sets_wins(rig: Rig) -> None:
    await rig.agent.want(["one--1"])
    await asyncio.gather(rig.agent.want(["one--1", "two--2"]), rig.agent.want([]), rig.agent.want(["two--2"]))
    await rig.until(lambda: _holds(rig, {"two--2"}), "the newest set")
    assert list(rig.agent.models()) == ["two--2"]


async def test_a_killed_server_comes_back_with_its_models_at_its_address(rig: Rig) -> None:
    await rig.agent.want(["one--1", "two--2"])
    before = rig.agent.status()
    rig.kill_server()
    await rig.until(lambda: rig.agent.status()["restarts"] == 1, "the restart")
    await rig.until(lambda: rig.answers("one--1"), "an answer")
    await rig.until(lambda: all(one["state"] == "READY" for one in rig.agent.models().values()), "both models")
    after = rig.agent.status()
    assert (after["http"], after["grpc"]) == (before["http"], before["grpc"])
    assert set(await rig.held()) == {"one--1", "two--2"}


async def test_a_server_killed_again_and_again_comes_back(rig: Rig) -> None:
    await rig.agent.want(["one--1"])
    for restarts in (1, 2, 3):
        rig.kill_server()
        await rig.until(lambda wanted=restarts: rig.agent.status()["restarts"] >= wanted, "the restart")
        await rig.until(lambda: rig.agent.status()["ready"] and rig.answers("one--1"), "an answer")


async def test_a_model_whose_stub_died_is_loaded_afresh(rig: Rig) -> None:
    await rig.agent.want(["one--1", "two--2"])
    rig.kill_stub("one--1")
    assert await rig.answers("two--2")
    await rig.until(lambda: any("stub process of one--1" in note for note in rig.notes), "the dead stub to be seen")
    await rig.until(lambda: rig.answers("one--1"), "an answer")
    await rig.until(lambda: rig.agent.models()["one--1"]["state"] == "READY", "READY")
    assert rig.agent.status()["restarts"] == 0
    assert rig.notes.count("two--2 is READY") == 1


async def test_what_is_wanted_before_the_server_is_up_is_loaded_once_it_is(rig: Rig) -> None:
    wanting = asyncio.create_task(rig.agent.want(["one--1"]))
    await asyncio.sleep(0)
    assert rig.agent.models() == {"one--1": {"state": "LOADING", "reason": ""}}
    assert (await wanting)["one--1"]["state"] == "READY"


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
async def test_a_name_that_is_no_folder_is_refused(rig: Rig, name: str) -> None:
    with pytest.raises(UsageError):
        await rig.agent.want(["one--1", name])
    assert rig.agent.models() == {}
