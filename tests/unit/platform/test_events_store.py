"""The event store: what is kept, found again, settled, pruned; and its writer's groups."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.core import limits
from shoal.core.errors import ConflictError, NotFoundError, OverloadError, StoreError
from shoal.platform.local.delivery import Trigger
from shoal.platform.local.events_store import EventStore, NewEvent, Settlement
from shoal.platform.local.eventwriter import EventWriter

A, B = Trigger("a-0", "a"), Trigger("b-0", "b", filter={"type": "y"})
KNOWN = [A, B]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    store = EventStore(tmp_path / "broker.db")
    yield store
    store.close()


def event(identity: str, kind: str = "x", **options: Any) -> NewEvent:
    attributes = {"id": identity, "source": "/t", "type": kind}
    headers = {f"ce-{name}": value for name, value in attributes.items()}
    return NewEvent("default", attributes, headers, options.pop("body", b"data"), **options)


def only_due(store: EventStore, trigger: str, now: float = 0.0) -> int:
    ((identity,), _) = store.due(trigger, now, (), 10)
    return identity


def test_an_event_is_found_by_each_of_its_triggers(store: EventStore) -> None:
    assert store.accept([event("1"), event("2", "y")], KNOWN, 5.0) == {"a-0", "b-0"}
    due, upcoming = store.due("a-0", 5.0, (), 10)
    assert len(due) == 2
    assert upcoming is None
    found = store.load(only_due(store, "b-0", 5.0))
    assert found is not None
    assert (found.headers["ce-id"], found.body, found.attempts, found.hops) == ("2", b"data", 0, 0)


def test_due_respects_time_number_and_what_is_under_way(store: EventStore) -> None:
    for second in range(5):
        store.accept([event(str(second))], [A], float(second))
    ids, upcoming = store.due("a-0", 2.0, (), 10)
    assert (len(ids), upcoming) == (3, 3.0)
    first, upcoming = store.due("a-0", 9.0, (), 2)
    assert (first, upcoming) == (ids[:2], 2.0)
    rest, upcoming = store.due("a-0", 9.0, set(first), 10)
    assert (len(rest), upcoming) == (3, None)


def test_looking_for_what_is_due_uses_its_index(store: EventStore) -> None:
    plans: list[str] = []
    store.connection.set_trace_callback(plans.append)
    store.due("a-0", 0.0, (), 5)
    store.connection.set_trace_callback(None)
    (query,) = plans
    plan = store.connection.execute("EXPLAIN QUERY PLAN " + query).fetchall()
    assert "USING INDEX open" in plan[0][3]
    assert not any("TEMP B-TREE" in row[3] for row in plan)


def test_a_failure_waits_and_a_success_ends(store: EventStore) -> None:
    store.accept([event("1")], [A], 0.0)
    delivery = only_due(store, "a-0")
    store.settle(delivery, Settlement("retry", 503, "busy", due=7.0), [A], 1.0)
    assert store.due("a-0", 1.0, (), 5) == ([], 7.0)
    found = store.load(delivery)
    assert found is not None
    assert found.attempts == 1
    assert store.stats()["retrying"] == 1
    store.settle(delivery, Settlement("done", 204), [A], 8.0)
    assert store.due("a-0", 99.0, (), 5) == ([], None)
    assert store.load(delivery) is None
    assert store.stats() == {
        "accepted": 1, "delivered": 1, "dropped": 0, "pending": 0, "retrying": 0, "dead": 0, "held": 0,
    }  # fmt: skip


def test_a_settled_delivery_is_not_settled_again_and_its_reply_not_published(store: EventStore) -> None:
    store.accept([event("1")], [A], 0.0)
    delivery = only_due(store, "a-0")
    store.settle(delivery, Settlement("done"), [A], 1.0)
    assert store.settle(delivery, Settlement("done", reply=event("r")), [A], 2.0) == set()
    assert store.settle(999, Settlement("done", reply=event("r")), [A], 2.0) == set()
    assert (store.stats()["accepted"], store.stats()["delivered"]) == (1, 1)


def test_a_reply_fans_out_with_the_completion(store: EventStore) -> None:
    store.accept([event("1")], KNOWN, 0.0)
    reply = event("r", "y", hops=1)
    assert store.settle(only_due(store, "a-0"), Settlement("done", reply=reply), KNOWN, 1.0) == {"a-0", "b-0"}
    found = store.load(only_due(store, "b-0", 1.0))
    assert found is not None
    assert (found.headers["ce-id"], found.hops) == ("r", 1)


def test_events_are_held_until_triggers_are_known(store: EventStore) -> None:
    store.accept([event(str(number)) for number in range(5)], None, 0.0)
    assert store.stats()["held"] == 5
    assert store.prune(10**9) == 0
    assert [store.fan_out_held(KNOWN, 1.0, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert len(store.due("a-0", 1.0, (), 10)[0]) == 5


def test_orphans_are_dropped_and_counted(store: EventStore) -> None:
    store.accept([event("1", "y"), event("2", "y")], KNOWN, 0.0)
    assert store.drop_orphans({"b-0"}, 1.0) == {"a-0": 2}
    assert store.drop_orphans({"b-0"}, 1.0) == {}
    assert (store.stats()["dropped"], store.stats()["pending"]) == (2, 2)


def test_a_dead_letter_comes_back_with_all_its_retries(store: EventStore) -> None:
    store.accept([event("1")], [A], 0.0)
    delivery = only_due(store, "a-0")
    store.settle(delivery, Settlement("dead", 400, "no"), [A], 1.0)
    (letter,) = store.dead(10)
    assert (letter["id"], letter["attempts"], letter["code"], letter["reason"]) == (delivery, 1, 400, "no")
    with pytest.raises(ConflictError, match="gone"):
        store.redrive(delivery, [], 2.0)
    assert store.redrive(delivery, ["a-0"], 2.0) == "a-0"
    found = store.load(only_due(store, "a-0", 2.0))
    assert found is not None
    assert found.attempts == 0
    with pytest.raises(NotFoundError):
        store.redrive(delivery, ["a-0"], 3.0)
    store.settle(delivery, Settlement("done"), [A], 4.0)
    assert store.dead(10) == []


def test_old_events_and_dead_letters_go_and_unfinished_ones_stay(store: EventStore) -> None:
    store.accept([event("done")], [A], 0.0)
    store.settle(only_due(store, "a-0"), Settlement("done"), [A], 0.0)
    store.accept([event("dead")], [A], 0.0)
    store.settle(only_due(store, "a-0"), Settlement("dead"), [A], 0.0)
    store.accept([event("open")], [A], 0.0)
    assert store.prune(limits.BROKER_KEPT_SECONDS_MAX) == 0
    assert store.prune(limits.BROKER_KEPT_SECONDS_MAX + 1) == 1
    late = limits.BROKER_DEAD_KEPT_SECONDS_MAX + 1
    assert store.prune(late) == 1  # the dead letter is dropped, its event finished now
    assert store.stats()["dead"] == 0
    assert store.prune(late + limits.BROKER_KEPT_SECONDS_MAX + 1) == 1
    assert [row[0] for row in store.connection.execute("SELECT id FROM events")] == ["open"]
    assert store.connection.execute("SELECT count(*) FROM deliveries").fetchone() == (1,)


def test_the_number_of_finished_events_and_dead_letters_is_bounded(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BROKER_EVENTS_KEPT_MAX", 3)
    monkeypatch.setattr(limits, "BROKER_DEAD_KEPT_MAX", 2)
    for number in range(10):
        store.accept([event(f"d{number}")], [A], float(number))
        store.settle(only_due(store, "a-0", 99.0), Settlement("dead"), [A], float(number))
        store.accept([event(f"f{number}")], [], float(number))
    while store.prune(20.0):
        pass
    assert [letter["event"]["id"] for letter in store.dead(99)] == ["d9", "d8"]
    left = store.connection.execute("SELECT count(*) FROM events WHERE finished IS NOT NULL").fetchone()[0]
    assert left == 3


def test_newcomers_leave_room_for_what_was_promised(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "small.db", bytes_max=2**20)
    big = b"x" * 20_000
    count = 0
    while store._room() > 10:
        store.admit([event(str(count), body=big)], None, 0.0)
        count += 1
    with pytest.raises(StoreError, match="full"):
        store.admit([event("no", body=big), event("no", body=big)], None, 0.0)
    assert store.stats()["accepted"] == count > 20
    assert store.fan_out_held([A], 1.0, 100) == count
    due, _ = store.due("a-0", 1.0, (), 100)
    for delivery in due[:-1]:
        store.settle(delivery, Settlement("done"), [A], 2.0)
    store.settle(due[-1], Settlement("done", reply=event("reply", body=big)), [A], 2.0)
    assert store.stats()["delivered"] == count
    for number in range(10):
        store.admit([event(f"late{number}", body=big)], [A], 3.0)
    assert len(store.due("a-0", 3.0, (), 100)[0]) == 11
    store.close()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    EventStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="format 99"):
        EventStore(path)


async def test_one_failing_operation_fails_alone(tmp_path: Path) -> None:
    writer = EventWriter(lambda: EventStore(tmp_path / "broker.db"))
    await writer.start()
    gate = threading.Event()

    def broken(store: EventStore) -> None:
        store.accept([event("broken")], [A], 0.0)
        raise ZeroDivisionError

    def full(store: EventStore) -> None:
        store.accept([event("full")], [A], 0.0)
        raise sqlite3.OperationalError("database or disk is full")

    def refused(_: EventStore) -> None:
        raise NotFoundError("none")

    held = asyncio.ensure_future(writer.read(lambda _: gate.wait(60)))
    group = [broken, full, refused, lambda store: store.accept([event("kept")], [A], 0.0)]
    operations = [asyncio.ensure_future(writer.write(one)) for one in group]
    await asyncio.sleep(0)  # all are queued behind the one that waits: one group
    gate.set()
    results = await asyncio.gather(*operations, return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError, StoreError, NotFoundError, set]
    assert await held
    assert (await writer.read(lambda store: store.stats()))["accepted"] == 1
    assert (await writer.read(lambda store: store.stats()))["pending"] == 1
    await writer.stop()


async def test_the_writers_queue_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BROKER_WRITES_QUEUED_MAX", 3)
    writer = EventWriter(lambda: EventStore(tmp_path / "broker.db"))
    await writer.start()
    gate, entered = threading.Event(), threading.Event()

    def wait(_: EventStore) -> None:
        entered.set()
        gate.wait(60)

    first = asyncio.ensure_future(writer.write(wait))
    await asyncio.to_thread(entered.wait, 60)
    queued = [asyncio.ensure_future(writer.write(lambda store: store.stats())) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadError):
        await writer.write(lambda store: store.stats())
    gate.set()
    await asyncio.gather(first, *queued)
    await writer.stop()


async def test_stop_finishes_what_is_queued(tmp_path: Path) -> None:
    writer = EventWriter(lambda: EventStore(tmp_path / "broker.db"))
    await writer.start()
    writes = [
        asyncio.ensure_future(writer.write(lambda store, n=n: store.accept([event(str(n))], [A], 0.0)))
        for n in range(20)
    ]
    await asyncio.sleep(0)
    await writer.stop()
    await asyncio.gather(*writes)
    store = EventStore(tmp_path / "broker.db")
    assert store.stats()["accepted"] == 20
    store.close()


async def test_a_store_that_does_not_open_says_why(tmp_path: Path) -> None:
    writer = EventWriter(lambda: EventStore(tmp_path / "missing" / "broker.db"))
    with pytest.raises(StoreError, match="cannot be opened"):
        await writer.start()
