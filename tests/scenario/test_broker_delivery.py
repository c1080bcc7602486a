"""The real broker process before a real gateway-shaped upstream: acceptance, delivery, retry, dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from helpers_gateway import Mail, control, listen, running_broker, until
from shoal.core import limits

PROBLEM = "application/problem+json"


@pytest.fixture
async def mail(tmp_path: Path) -> AsyncIterator[Mail]:
    async with running_broker(tmp_path) as mail:
        yield mail


async def test_an_event_reaches_its_functions_byte_for_byte(mail: Mail) -> None:
    await mail.triggers({"name": "a-0", "function": "a"}, {"name": "b-0", "function": "b", "filter": {"type": "y"}})
    body = b'{"n": 1.10, "s": "\\u00e9" }'
    async with mail.publish("1", subject="Caf%C3%A9", body=body) as answer:
        assert (answer.status, await answer.read()) == (202, b"")
    await mail.settled(delivered=1, pending=0, retrying=0)
    (seen,) = mail.functions.seen
    assert (seen["function"], seen["body"]) == ("a", body)
    headers = {name.lower(): value for name, value in seen["headers"].items()}
    assert headers["host"] == "a.localhost"
    assert headers["prefer"] == "reply"
    assert headers["ce-subject"] == "Caf%C3%A9"
    assert headers["content-type"] == "application/json"


async def test_failures_are_retried_and_then_dead_and_then_redriven(mail: Mail) -> None:
    await mail.triggers({"name": "a-0", "function": "a", "retry": 2})
    problem = '{"detail": "no room"}'
    mail.functions.answers["a"] = [web.Response(status=503, text=problem, content_type=PROBLEM) for _ in range(3)]
    async with mail.publish("1") as answer:
        assert answer.status == 202
    await mail.settled(dead=1, pending=0, retrying=0, delivered=0)
    assert mail.functions.ids("a") == ["1", "1", "1"]
    (letter,) = (await control(mail.child, "GET", "/dead"))["dead"]
    assert letter["code"] == 503
    assert letter["attempts"] == 3
    assert "no room" in letter["reason"]
    await control(mail.child, "POST", f"/dead/{letter['id']}/redrive")
    await mail.settled(dead=0, delivered=1, pending=0)


async def test_a_reply_is_published_with_the_completion(mail: Mail) -> None:
    await mail.triggers(
        {"name": "a-0", "function": "a", "filter": {"type": "x"}},
        {"name": "b-0", "function": "b", "filter": {"type": "z"}},
    )
    headers = {"ce-id": "r", "ce-source": "/a", "ce-type": "z", "ce-specversion": "1.0"}
    mail.functions.answers["a"] = [web.Response(body=b"hello", headers={**headers, "content-type": "text/plain"})]
    async with mail.publish("1") as answer:
        assert answer.status == 202
    await mail.settled(delivered=2, pending=0, retrying=0)
    assert mail.functions.ids("b") == ["r"]
    assert mail.functions.seen[-1]["headers"]["ce-shoalhops"] == "1"


async def test_filters_compare_every_attribute(mail: Mail) -> None:
    await mail.triggers(
        {"name": "a-0", "function": "a", "filter": {"type": "x", "subject": "s"}},
        {"name": "b-0", "function": "b", "filter": {"subject": ""}},
        {"name": "c-0", "function": "c", "filter": {"datacontenttype": "application/json"}},
        {"name": "d-0", "function": "d", "broker": "other"},
        {"name": "e-0", "function": "e", "filter": {"flavour": "sweet"}},
    )
    async with mail.publish("1", subject="s") as answer:
        assert answer.status == 202
    async with mail.publish("2", flavour="sweet") as answer:
        assert answer.status == 202
    async with mail.publish("3", path="/other") as answer:
        assert answer.status == 202
    await mail.settled(pending=0, retrying=0, delivered=6)
    got = {function: sorted(mail.functions.ids(function)) for function in "abcde"}
    assert got == {"a": ["1"], "b": ["1"], "c": ["1", "2"], "d": ["3"], "e": ["2"]}


FINAL = [400, 401, 403, 410, 413, 422, 301, 307]
RETRIED = [404, 408, 409, 429, 500, 502, 504]


async def test_statuses_are_final_or_retried_as_in_knative(mail: Mail) -> None:
    statuses = [*FINAL, *RETRIED]
    for status in statuses:
        headers = {"Location": "/elsewhere"} if status < 400 else {}
        mail.functions.answers[f"f{status}"] = [web.Response(status=status, headers=headers)]
    await mail.triggers(*({"name": f"t{status}", "function": f"f{status}", "retry": 1} for status in statuses))
    async with mail.publish("1") as answer:
        assert answer.status == 202
    await mail.settled(pending=0, retrying=0, dead=len(FINAL), delivered=len(RETRIED))
    tried = {status: len(mail.functions.ids(f"f{status}")) for status in statuses}
    assert tried == dict.fromkeys(FINAL, 1) | dict.fromkeys(RETRIED, 2)


NO_REPLIES: list[dict[str, Any]] = [
    {"text": "OK"},
    {"body": b"[]", "headers": {"content-type": "application/cloudevents-batch+json"}},
    {"body": b"{}", "headers": {"content-type": "application/cloudevents+json"}},
    {"body": b"", "headers": {"ce-specversion": "1.0", "ce-id": "r"}},
]


async def test_a_body_that_is_no_event_is_a_failure(mail: Mail) -> None:
    for index, reply in enumerate(NO_REPLIES):
        mail.functions.answers[f"f{index}"] = [web.Response(**reply) for _ in range(2)]
    await mail.triggers(*({"name": f"t{n}", "function": f"f{n}", "retry": 1} for n in range(len(NO_REPLIES))))
    async with mail.publish("1") as answer:
        assert answer.status == 202
    await mail.settled(dead=len(NO_REPLIES), pending=0, retrying=0)
    assert [len(mail.functions.ids(f"f{n}")) for n in range(len(NO_REPLIES))] == [2] * len(NO_REPLIES)


async def test_no_answer_at_all_is_retried(mail: Mail) -> None:
    await mail.triggers({"name": "a-0", "function": "a", "retry": 0})
    gone, port = listen()
    gone.close()
    mail.gateway = f"http://127.0.0.1:{port}"
    await mail.triggers({"name": "a-0", "function": "a", "retry": 1})
    async with mail.publish("1") as answer:
        assert answer.status == 202
    await mail.settled(dead=1, pending=0, retrying=0)
    (letter,) = (await control(mail.child, "GET", "/dead"))["dead"]
    assert letter["attempts"] == 2
    assert letter["code"] is None


async def test_a_function_over_its_time_is_a_failure(mail: Mail) -> None:
    async def never() -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    mail.functions.making["a"] = [never]
    await mail.triggers({"name": "a-0", "function": "a", "timeout_s": 0.1})
    async with mail.publish("1") as answer:
        assert answer.status == 202
    await mail.settled(delivered=1, pending=0, retrying=0)
    assert mail.functions.ids("a") == ["1", "1"]


async def test_a_loop_of_replies_ends(mail: Mail) -> None:
    async def again() -> web.Response:
        headers = {"ce-id": "r", "ce-source": "/a", "ce-type": "x", "ce-specversion": "1.0"}
        return web.Response(status=200, headers=headers)

    mail.functions.making["a"] = [again] * (2 * limits.EVENT_HOPS_MAX)
    await mail.triggers({"name": "a-0", "function": "a"})
    async with mail.publish("1") as answer:
        assert answer.status == 202
    await mail.settled(dead=1, pending=0, retrying=0)
    assert len(mail.functions.seen) == limits.EVENT_HOPS_MAX + 1
    (letter,) = (await control(mail.child, "GET", "/dead"))["dead"]
    assert "loop" in letter["reason"]


async def test_a_slow_function_delays_nobody_else(mail: Mail) -> None:
    stuck = asyncio.Event()

    async def slow() -> web.Response:
        await stuck.wait()
        return web.Response(status=204)

    count = 3 * limits.TRIGGER_CONCURRENCY_MAX
    mail.functions.making["a"] = [slow] * count
    await mail.triggers({"name": "a-0", "function": "a"}, {"name": "b-0", "function": "b"})
    for number in range(count):
        async with mail.publish(str(number)) as answer:
            assert answer.status == 202
    await until(lambda: len(mail.functions.ids("b")) == count)
    await until(lambda: len(mail.functions.ids("a")) == limits.TRIGGER_CONCURRENCY_MAX)
    stuck.set()
    await mail.settled(delivered=2 * count, pending=0)
    assert sorted(mail.functions.ids("a")) == sorted(map(str, range(count)))


async def test_deliveries_of_a_trigger_that_is_gone_are_dropped_and_logged(mail: Mail) -> None:
    mail.functions.answers["a"] = [web.Response(status=503, headers={"Retry-After": "500"})]
    await mail.triggers({"name": "a-0", "function": "a"}, {"name": "b-0", "function": "b"})
    async with mail.publish("1") as answer:
        assert answer.status == 202
    await mail.settled(retrying=1, delivered=1, pending=0)
    await mail.triggers({"name": "b-0", "function": "b"})
    await mail.settled(retrying=0, dropped=1, dead=0)
    assert await until(lambda: [line for line in mail.child.lines() if line.get("trigger") == "a-0"])
    assert mail.functions.ids("a") == ["1"]


async def test_redriving_needs_a_dead_letter_and_its_trigger(mail: Mail) -> None:
    mail.functions.answers["a"] = [web.Response(status=400)]
    await mail.triggers({"name": "a-0", "function": "a"})
    async with mail.publish("1") as answer:
        assert answer.status == 202
    await mail.settled(dead=1)
    (letter,) = (await control(mail.child, "GET", "/dead"))["dead"]
    assert letter["event"] == {"id": "1", "source": "/t", "type": "x", "data_bytes": 2}
    await mail.triggers()
    assert (await mail.refused("POST", f"/dead/{letter['id']}/redrive"))["status"] == 409
    assert (await mail.refused("POST", "/dead/999/redrive"))["status"] == 404
    assert (await mail.stats())["dead"] == 1


async def test_triggers_that_are_none_are_refused_and_change_nothing(mail: Mail) -> None:
    await mail.triggers({"name": "a-0", "function": "a"})
    bad: list[Any] = [[], {"generation": 9}, {"generation": 9, "gateway": "", "triggers": [{}]}]
    for document in bad:
        assert (await mail.refused("PUT", "/triggers", document))["status"] == 400, document
    async with mail.publish("1") as answer:
        assert answer.status == 202
    await mail.settled(delivered=1)
