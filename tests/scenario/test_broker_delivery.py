"""The real broker process before a real gateway-shaped upstream: acceptance, delivery, retry, dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from helpers_gateway import Mail, control, running_broker

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
