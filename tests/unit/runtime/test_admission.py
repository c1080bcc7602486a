"""Slots, the queue and refusal: order, bounds, and no slot lost when waiters give up."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.errors import OverloadError
from shoal.runtime.admission import Admission


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_free_slots_are_taken_without_waiting() -> None:
    admission = Admission(2, 0)
    await admission.enter()
    await admission.enter()
    assert (admission.in_flight, admission.queued) == (2, 0)


async def test_waiters_get_slots_in_order_of_arrival() -> None:
    admission, order = Admission(1, 3), []
    await admission.enter()

    async def wait(name: str) -> None:
        await admission.enter()
        order.append(name)

    tasks = [asyncio.create_task(wait(name)) for name in "abc"]
    await settle()
    assert (admission.in_flight, admission.queued) == (1, 3)
    for _ in range(3):
        admission.leave()
        await settle()
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c"]
    admission.leave()
    assert (admission.in_flight, admission.queued) == (0, 0)


async def test_a_full_queue_refuses_at_once_and_says_when_to_return() -> None:
    admission = Admission(1, 1)
    await admission.enter()
    waiting = asyncio.create_task(admission.enter())
    await settle()
    with pytest.raises(OverloadError, match="all 1 slots are taken and 1 requests wait") as caught:
        await admission.enter()
    assert caught.value.retry_after_s is not None
    assert admission.queued == 1
    admission.leave()
    await waiting


async def test_a_waiter_that_gives_up_leaves_the_queue() -> None:
    admission = Admission(1, 2)
    await admission.enter()
    waiting = asyncio.create_task(admission.enter())
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (admission.in_flight, admission.queued) == (1, 0)
    admission.leave()
    assert admission.in_flight == 0


async def test_a_slot_handed_to_a_waiter_being_cancelled_goes_to_the_next() -> None:
    admission = Admission(1, 2)
    await admission.enter()
    first, second = asyncio.create_task(admission.enter()), asyncio.create_task(admission.enter())
    await settle()
    admission.leave()  # hands the slot to the first ...
    first.cancel()  # ... which is cancelled before it runs again
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.wait_for(second, 30)
    assert (admission.in_flight, admission.queued) == (1, 0)


@given(st.integers(1, 4), st.integers(0, 4), st.lists(st.integers(0, 9), max_size=60))
def test_under_any_sequence_bounds_hold_and_no_slot_is_lost(slots: int, queue_max: int, moves: list[int]) -> None:
    async def play() -> None:
        admission = Admission(slots, queue_max)
        tasks: list[asyncio.Task[None]] = []
        holders = 0
        for move in moves:
            waiting = [task for task in tasks if not task.done()]
            if move < 5:
                tasks.append(asyncio.create_task(admission.enter()))
            elif move < 8 and holders:
                admission.leave()
                holders -= 1
            elif waiting:
                waiting[move % len(waiting)].cancel()
            await settle()
            done = [task for task in tasks if task.done()]
            holders += sum(1 for task in done if not task.cancelled() and task.exception() is None)
            tasks = [task for task in tasks if not task.done()]
            assert admission.in_flight == holders <= slots
            assert admission.queued == len(tasks) <= queue_max
            assert not admission.queued or admission.in_flight == slots
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(play())
