"""Slots, waiting lines and wakings: the state the gateway keeps about instances."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoal.core.clock import FakeClock
from shoal.core.errors import DeadlineError, NotRunningError, OverloadError
from shoal.platform.local.activator import Activator
from shoal.platform.local.balancing import Balancer, Instance
from shoal.platform.local.routing import Endpoint, RevisionRoute, Table

ONE, TWO = Endpoint("i-1", 1001), Endpoint("i-2", 1002)


class Node:
    """Wakes revisions when told to."""

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.gate = asyncio.Event()
        self.calls: list[str] = []

    async def wake(self, revision: str) -> tuple[Endpoint, ...]:
        self.calls.append(revision)
        await self.gate.wait()
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


def routes(*endpoints: Endpoint, concurrency: int = 1, generation: int = 1) -> Table:
    return Table(generation, {}, {"r": RevisionRoute(endpoints, concurrency)}, {})


class Front:
    def __init__(self, node: Node, **options: Any) -> None:
        self.clock = FakeClock()
        self.balancer = Balancer(self.clock, held_max=options.pop("held_max", 100))
        self.activator = Activator(self.balancer, node.wake, **options)

    async def visit(self, finish: asyncio.Event | None = None, budget: float | None = None) -> Endpoint:
        revision = self.balancer.revision("r")
        self.balancer.enter(revision)
        try:
            async with self.activator.slot(revision, budget) as instance:
                if finish is not None:
                    await finish.wait()
                return instance.endpoint
        finally:
            self.balancer.leave(revision)

    @property
    def load(self) -> Any:
        return self.balancer.report()["r"]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_call_wakes_for_all_who_wait() -> None:
    node = Node((ONE,))
    front = Front(node)
    front.activator.apply(routes(concurrency=2))
    visits = [asyncio.ensure_future(front.visit()) for _ in range(10)]
    await settle()
    assert (front.load["in_flight"], front.load["held"], node.calls) == (10, 10, ["r"])
    node.gate.set()
    assert await asyncio.gather(*visits) == [ONE] * 10
    assert (front.load["in_flight"], front.load["held"], front.load["requests"]) == (0, 0, 10)


async def test_who_waits_is_served_in_order_and_within_the_concurrency() -> None:
    front = Front(Node())
    front.activator.apply(routes(ONE))
    order: list[int] = []
    gates = [asyncio.Event() for _ in range(5)]

    async def visit(number: int) -> None:
        await front.visit(gates[number])
        order.append(number)

    tasks = [asyncio.ensure_future(visit(number)) for number in range(5)]
    await settle()
    assert front.load["held"] == 4
    for number, gate in enumerate(gates):
        gate.set()
        await settle()
        assert order == list(range(number + 1))
    await asyncio.gather(*tasks)


async def test_a_failed_waking_fails_those_who_wait_and_only_them() -> None:
    node = Node(NotRunningError("no room"), (ONE,))
    node.gate.set()
    front = Front(node)
    front.activator.apply(routes())
    with pytest.raises(NotRunningError, match="no room"):
        await front.visit()
    assert await front.visit() == ONE
    assert node.calls == ["r", "r"]


async def test_a_waking_without_end_is_bounded() -> None:
    front = Front(Node(), patience_s=0.01)
    front.activator.apply(routes())
    with pytest.raises(NotRunningError):
        await front.visit()
    assert front.load["held"] == front.load["in_flight"] == 0
    await front.activator.stop()


async def test_the_callers_deadline_ends_the_wait_with_its_own_error() -> None:
    front = Front(Node())
    front.activator.apply(routes())
    for budget in (0.01, 0.0, -1.0):
        with pytest.raises(DeadlineError):
            await front.visit(budget=budget)
    assert front.load["held"] == 0
    await front.activator.stop()


async def test_the_line_has_an_end() -> None:
    front = Front(Node(), held_max=3)
    front.activator.apply(routes())
    visits = [asyncio.ensure_future(front.visit()) for _ in range(3)]
    await settle()
    with pytest.raises(OverloadError) as caught:
        await front.visit()
    assert caught.value.retry_after_s
    for visit in visits:
        visit.cancel()
    await asyncio.gather(*visits, return_exceptions=True)
    assert front.load["held"] == 0
    await front.activator.stop()


async def test_a_slot_that_comes_as_its_waiter_leaves_goes_to_the_next() -> None:
    front = Front(Node())
    front.activator.apply(routes(ONE))
    finish = asyncio.Event()
    holder = asyncio.ensure_future(front.visit(finish))
    await settle()
    leaving, staying = (asyncio.ensure_future(front.visit()) for _ in range(2))
    await settle()
    finish.set()
    await asyncio.sleep(0)  # the holder runs and hands its slot to the first in line, who has not run yet
    leaving.cancel()
    async with asyncio.timeout(30):
        assert await staying == ONE
    await asyncio.gather(holder, leaving, return_exceptions=True)
    assert front.balancer.take(front.balancer.revision("r")) is not None


async def test_losing_the_last_instance_wakes_it_for_those_in_line() -> None:
    node = Node((TWO,))
    node.gate.set()
    front = Front(node)
    front.activator.apply(routes(ONE))
    finish = asyncio.Event()
    holder = asyncio.ensure_future(front.visit(finish))
    await settle()
    waiting = asyncio.ensure_future(front.visit())
    await settle()
    assert node.calls == []
    front.activator.apply(routes(generation=2))
    assert await waiting == TWO
    assert node.calls == ["r"]
    finish.set()
    assert await holder == ONE


async def test_an_instance_that_refused_is_left_alone_until_the_node_names_it_again() -> None:
    front = Front(Node())
    front.activator.apply(routes(ONE, TWO, concurrency=0))
    revision = front.balancer.revision("r")
    first = front.balancer.take(revision)
    assert first is not None
    front.balancer.refuse(revision, first)
    taken = [front.balancer.take(revision) for _ in range(5)]
    assert all(one is not None and one is not first for one in taken)
    front.activator.apply(routes(ONE, TWO, concurrency=0, generation=2))
    assert len(revision.usable) == 2


async def test_the_last_instance_refusing_wakes_it_for_those_in_line() -> None:
    node = Node((TWO,))
    node.gate.set()
    front = Front(node)
    front.activator.apply(routes(ONE))
    revision = front.balancer.revision("r")
    async with asyncio.timeout(30), front.activator.slot(revision, None) as instance:
        waiting = asyncio.ensure_future(front.visit())
        await settle()
        front.balancer.refuse(revision, instance)
    async with asyncio.timeout(30):
        assert await waiting == TWO
    assert node.calls == ["r"]


async def test_idle_time_counts_from_the_last_request() -> None:
    front = Front(Node())
    front.activator.apply(routes(ONE))
    front.clock.advance(5)
    assert front.load["idle_s"] == 5
    finish = asyncio.Event()
    visit = asyncio.ensure_future(front.visit(finish))
    await settle()
    front.clock.advance(7)
    assert front.load["idle_s"] == 0
    finish.set()
    await visit
    front.clock.advance(2)
    assert front.load["idle_s"] == 2


async def test_a_revision_no_table_names_is_forgotten_once_it_is_quiet() -> None:
    front = Front(Node())
    front.activator.apply(routes(ONE))
    finish = asyncio.Event()
    visit = asyncio.ensure_future(front.visit(finish))
    await settle()
    front.activator.apply(Table(2))
    assert front.load["in_flight"] == 1
    finish.set()
    await visit
    front.activator.apply(Table(3))
    assert front.balancer.report() == {}


class Slots(RuleBasedStateMachine):
    """Any order of requests, ends, refusals and tables keeps every count exact."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.balancer = Balancer(FakeClock())
        self.revision = self.balancer.revision("r")
        self.held: list[Instance] = []
        self.waiting: list[asyncio.Future[Instance]] = []
        self.concurrency = 2
        self.revision.concurrency = 2

    @rule()
    def take(self) -> None:
        instance = self.balancer.take(self.revision)
        if instance is not None:
            self.held.append(instance)
            return

        async def line_up() -> asyncio.Future[Instance]:
            return self.balancer.line_up(self.revision)

        self.waiting.append(self.loop.run_until_complete(line_up()))

    @rule(index=st.integers(0, 20))
    def give_back(self, index: int) -> None:
        if self.held:
            self.balancer.give_back(self.revision, self.held.pop(index % len(self.held)))

    @rule(index=st.integers(0, 20))
    def give_up(self, index: int) -> None:
        if self.waiting:
            self.balancer.leave_line(self.revision, self.waiting.pop(index % len(self.waiting)))

    @rule(index=st.integers(0, 20))
    def refuse(self, index: int) -> None:
        if self.held:
            self.balancer.refuse(self.revision, self.held[index % len(self.held)])

    @rule(endpoints=st.sets(st.sampled_from([Endpoint(f"i-{n}", n) for n in range(1, 5)])))
    def table(self, endpoints: set[Endpoint]) -> None:
        self.revision.set_endpoints(tuple(sorted(endpoints, key=lambda one: one.port)))

    @invariant()
    def collect(self) -> None:
        for future in [one for one in self.waiting if one.done()]:
            self.waiting.remove(future)
            self.balancer.served()
            self.held.append(future.result())

    @invariant()
    def counts_are_exact(self) -> None:
        for instance in self.revision.instances.values():
            assert instance.in_flight == sum(one is instance for one in self.held)
            assert instance.in_flight <= self.concurrency
        assert self.balancer._held == len(self.waiting)

    @invariant()
    def nobody_waits_beside_a_free_slot(self) -> None:
        assert not (self.waiting and self.revision.free())

    def teardown(self) -> None:
        self.loop.close()


Slots.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSlots = Slots.TestCase
