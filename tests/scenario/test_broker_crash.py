"""The real broker process killed, and its disk full or locked: 202 is a promise."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from helpers_gateway import Mail, running_broker, until


@pytest.fixture
async def mail(tmp_path: Path) -> AsyncIterator[Mail]:
    async with running_broker(tmp_path) as mail:
        yield mail


async def storm(mail: Mail, worker: int, accepted: list[str], stop: asyncio.Event) -> None:
    """Publish without pause until told; note what was answered 202 and nothing else."""
    number = 0
    while not stop.is_set():
        identity = f"{worker}-{number}"
        number += 1
        try:
            async with mail.publish(identity) as answer:
                if answer.status == 202:
                    accepted.append(identity)
        except aiohttp.ClientError:
            await asyncio.sleep(0.01)


async def test_every_accepted_event_is_delivered_over_kill_9(mail: Mail) -> None:
    trigger = {"name": "a-0", "function": "a", "retry": 10}
    await mail.triggers(trigger)
    accepted: list[str] = []
    stop = asyncio.Event()
    workers = [asyncio.ensure_future(storm(mail, index, accepted, stop)) for index in range(8)]
    for kill in range(1, 6):
        goal = kill * 60
        await until(lambda goal=goal: len(accepted) >= goal)
        mail.child.kill()
        mail.child.start()
        if kill % 2:  # sometimes events come before the node has told the triggers
            seen = len(accepted)
            await until(lambda seen=seen: len(accepted) > seen)
        await mail.triggers(trigger)
    stop.set()
    await asyncio.gather(*workers)
    await until(lambda: set(accepted) <= set(mail.functions.ids("a")), "for every accepted event")
    await mail.settled(pending=0, retrying=0, dead=0, held=0)
    assert len(accepted) >= 300


async def test_a_delivery_under_way_at_the_crash_is_tried_again(mail: Mail) -> None:
    first = asyncio.Event()

    async def never() -> web.Response:
        first.set()
        await asyncio.Event().wait()
        raise AssertionError

    mail.functions.making["a"] = [never]
    await mail.triggers({"name": "a-0", "function": "a"})
    async with mail.publish("1") as answer:
        assert answer.status == 202
    await first.wait()
    mail.child.kill()
    mail.child.start()
    await mail.triggers({"name": "a-0", "function": "a"})
    await mail.settled(delivered=1, pending=0, retrying=0)
    assert mail.functions.ids("a") == ["1", "1"]


async def test_events_wait_for_the_first_triggers(mail: Mail) -> None:
    for number in range(5):
        async with mail.publish(str(number)) as answer:
            assert answer.status == 202
    assert (await mail.stats())["held"] == 5
    await mail.triggers({"name": "a-0", "function": "a"})
    await mail.settled(held=0, delivered=5)
    assert sorted(mail.functions.ids("a")) == ["0", "1", "2", "3", "4"]


async def test_dead_letters_and_counts_outlive_a_crash(mail: Mail) -> None:
    trigger = {"name": "a-0", "function": "a", "retry": 0}
    mail.functions.answers["a"] = [web.Response(status=400)]
    await mail.triggers(trigger)
    for identity in ("1", "2"):
        async with mail.publish(identity) as answer:
            assert answer.status == 202
    await mail.settled(dead=1, delivered=1)
    mail.child.kill()
    mail.child.start()
    await mail.triggers(trigger)
    stats = await mail.stats()
    assert (stats["accepted"], stats["delivered"], stats["dead"]) == (2, 1, 1)


async def test_a_full_disk_is_never_a_202_and_passes(tmp_path: Path) -> None:
    async with running_broker(tmp_path, "--bytes-max", str(2 * 2**20)) as mail:
        accepted, refused = [], 0
        for number in range(60):
            async with mail.publish(str(number), body=b'"' + b"x" * 50_000 + b'"') as answer:
                if answer.status == 202:
                    accepted.append(str(number))
                    continue
                refused += 1
                assert answer.status == 503
                problem = await answer.json(content_type="application/problem+json")
                assert "full" in problem["detail"]
                assert int(answer.headers["Retry-After"]) >= 1
        assert accepted
        assert refused
        await mail.triggers({"name": "a-0", "function": "a"})
        await mail.settled(held=0, delivered=len(accepted))
        assert sorted(mail.functions.ids("a")) == sorted(accepted)
        async with mail.publish("later", body=b'"' + b"x" * 50_000 + b'"') as answer:
            assert answer.status == 202  # finished events have given way


async def test_a_locked_database_is_a_503_and_passes(mail: Mail) -> None:
    await mail.triggers({"name": "a-0", "function": "a"})
    other = sqlite3.connect(mail.home.root / "broker.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with mail.publish("1") as answer:
        assert answer.status == 503
        assert "locked" in (await answer.json(content_type=None))["detail"]
    other.execute("ROLLBACK")
    other.close()
    async with mail.publish("2") as answer:
        assert answer.status == 202
    await mail.settled(delivered=1)
    assert mail.functions.ids("a") == ["2"]


async def test_sigterm_records_what_is_under_way(mail: Mail) -> None:
    started, finish = asyncio.Event(), asyncio.Event()

    async def slow() -> web.Response:
        started.set()
        await finish.wait()
        return web.Response(status=204)

    mail.functions.making["a"] = [slow]
    await mail.triggers({"name": "a-0", "function": "a"})
    async with mail.publish("1") as answer:
        assert answer.status == 202
    await started.wait()
    process = mail.child.process
    assert process is not None
    os.kill(process.pid, signal.SIGTERM)
    finish.set()
    assert await asyncio.to_thread(process.wait, 60) == 0
    mail.child.start()
    await mail.triggers({"name": "a-0", "function": "a"})
    await mail.settled(delivered=1, pending=0, retrying=0)
    assert mail.functions.ids("a") == ["1"]


async def test_what_is_no_database_stops_the_broker_with_the_reason(mail: Mail) -> None:
    mail.child.kill()
    for file in mail.home.root.glob("broker.db*"):
        file.unlink()
    (mail.home.root / "broker.db").write_bytes(b"not a database at all" * 1000)
    mail.child.start()
    assert mail.child.process is not None
    assert await asyncio.to_thread(mail.child.process.wait, 60) == 3
    assert "is not a usable database" in mail.child.lines()[-1]["message"]
