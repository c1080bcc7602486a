"""Instances as real processes: starts are shared and paced, ends happen whatever fails on the way."""

from __future__ import annotations

import asyncio
import signal
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal.core.clock import FakeClock
from shoal.core.errors import DeployError, NotRunningError
from shoal.platform.local.instances import Hooks, Instance, Instances, Phase
from shoal.platform.local.layout import Home
from shoal.platform.local.records import Revision, RunSpec

WAIT_SECONDS = 90.0
CODE = "from shoal import http\n@http\ndef f():\n    return {}\n"
STUCK = """
    import asyncio
    from shoal import http, start

    @start
    async def never() -> None:
        await asyncio.sleep(600)

    @http
    def f():
        return {}
"""


class Node:
    """What instances need around them; ``settling`` and ``pool`` can be made to fail or to wait."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.home.make()
        self.clock = FakeClock()
        self.clock.advance(1.0)
        self.failure: Exception | None = None
        self.settling = asyncio.Event()
        self.settling.set()
        self.pool = asyncio.Event()
        self.pool.set()
        self.gone = 0
        hooks = Hooks(lambda: None, self.settled, self.ended, self.addresses)
        self.instances = Instances(self.home, self.clock, hooks)

    async def settled(self) -> None:
        await self.settling.wait()
        if self.failure:
            raise self.failure

    def ended(self) -> None:
        self.gone += 1

    async def addresses(self) -> tuple[str, ...]:
        await self.pool.wait()
        return ("127.0.0.1:1",)

    def revision(self, code: str = CODE, models: dict[str, str] | None = None) -> Revision:
        folder = self.home.revisions / "f-00001"
        folder.mkdir(exist_ok=True)
        (folder / "handler.py").write_text(textwrap.dedent(code))
        return Revision("f-00001", "f", 1, "d", RunSpec(timeout_s=5.0), models or {}, 0.0, ready=True)

    async def until_gone(self, instance: Instance) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while instance.phase is not Phase.GONE:
                await asyncio.sleep(0.01)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    yield made
    made.settling.set()
    made.pool.set()
    await made.instances.end(0.0)


async def test_all_who_need_an_instance_share_one_start(node: Node) -> None:
    revision = node.revision()
    starting = asyncio.create_task(node.instances.start(revision))
    await asyncio.sleep(0)
    await asyncio.gather(starting, *(node.instances.ensure(revision) for _ in range(5)))
    assert (len(node.instances.alive()), node.instances.active(revision.name)) == (1, 1)
    await node.instances.ensure(revision)
    assert len(node.instances.alive()) == 1


async def test_a_start_that_waits_for_the_pool_counts(node: Node) -> None:
    revision = node.revision(models={"m": "m--1"})
    node.pool.clear()
    waiting = [asyncio.create_task(node.instances.ensure(revision)) for _ in range(3)]
    await asyncio.sleep(0.1)
    assert (node.instances.active(revision.name), node.instances.used(revision.name)) == (1, True)
    await node.instances.drain_revision(revision.name)
    for task in waiting:
        with pytest.raises(DeployError, match="stopped while it started"):
            await task
    assert not node.instances.used(revision.name)


async def test_who_leaves_does_not_end_the_start_of_others(node: Node) -> None:
    revision = node.revision()
    first, second = (asyncio.create_task(node.instances.ensure(revision)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    assert len(node.instances.ready(revision.name)) == 1


@pytest.mark.parametrize("failure", [NotRunningError("no gateway"), RuntimeError("a defect")])
async def test_a_drain_ends_the_process_whatever_fails(node: Node, failure: Exception) -> None:
    await node.instances.ensure(node.revision())
    (instance,) = node.instances.alive()
    node.failure = failure
    (outcome,) = await asyncio.gather(node.instances.drain(instance), return_exceptions=True)
    assert outcome in (None, failure)
    assert not instance.process.running


async def test_a_drain_that_is_cancelled_ends_the_process(node: Node) -> None:
    await node.instances.ensure(node.revision())
    (instance,) = node.instances.alive()
    node.settling.clear()
    drain = asyncio.create_task(node.instances.drain(instance))
    await asyncio.sleep(0.05)
    assert (instance.process.running, node.instances.used("f-00001")) == (True, True)
    drain.cancel()
    await asyncio.wait([drain])
    assert not instance.process.running


async def test_an_instance_that_keeps_dying_is_started_ever_more_slowly(node: Node) -> None:
    revision = node.revision()
    for _ in range(5):
        await node.instances.ensure(revision)
        (instance,) = node.instances.alive()
        instance.process.signal(signal.SIGKILL)
        await node.until_gone(instance)
    with pytest.raises(DeployError, match="SIGKILL") as raised:
        await node.instances.ensure(revision)
    assert raised.value.retry_after_s == pytest.approx(1.6)
    node.clock.advance(2.0)
    await node.instances.ensure(revision)
    assert node.instances.reason(revision.name) == ""


async def test_a_death_after_a_steady_life_counts_as_the_first(node: Node) -> None:
    revision = node.revision()
    for _ in range(6):
        await node.instances.ensure(revision)
        (instance,) = node.instances.alive()
        node.clock.advance(60.0)
        instance.process.signal(signal.SIGKILL)
        await node.until_gone(instance)
    await node.instances.ensure(revision)


async def test_nothing_starts_once_the_platform_stops(node: Node) -> None:
    revision = node.revision(STUCK)
    starting = asyncio.create_task(node.instances.start(revision))
    async with asyncio.timeout(WAIT_SECONDS):
        while not node.instances.alive():
            await asyncio.sleep(0.01)
    await node.instances.refuse()
    with pytest.raises(DeployError, match="stopped while it started"):
        await starting
    for call in (node.instances.start, node.instances.ensure):
        with pytest.raises(NotRunningError, match="stopping"):
            await call(revision)
    async with asyncio.timeout(WAIT_SECONDS):
        while node.instances.alive():
            await asyncio.sleep(0.01)


async def test_instances_that_call_a_pool_elsewhere_end(node: Node) -> None:
    await node.instances.ensure(node.revision(models={}))
    await node.instances.drain_moved(("127.0.0.1:2",))
    assert len(node.instances.ready("f-00001")) == 1  # it calls no models
    await node.instances.drain_revision("f-00001")
    assert node.gone == 0
    (node.home.revisions / "g-00001").mkdir()
    (node.home.revisions / "g-00001" / "handler.py").write_text(CODE)
    other = Revision("g-00001", "g", 1, "d", RunSpec(timeout_s=5.0), {"m": "m--1"}, 0.0, ready=True)
    await node.instances.ensure(other)
    await node.instances.drain_moved(("127.0.0.1:1",))
    assert len(node.instances.ready("g-00001")) == 1
    await node.instances.drain_moved(("127.0.0.1:2",))
    assert (node.instances.ready("g-00001"), node.gone) == ([], 1)
