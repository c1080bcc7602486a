"""The real broker process: which messages it takes, in which form it keeps them, and what it says to the others."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from helpers_gateway import Mail, running_broker, until
from shoal.core import limits

EVENT = {"specversion": "1.0", "id": "s1", "source": "/t", "type": "x"}
BINARY = {f"ce-{name}": value for name, value in EVENT.items()}
STRUCTURED = {"content-type": "application/cloudevents+json"}
BATCH = {"content-type": "application/cloudevents-batch+json"}


@pytest.fixture
async def mail(tmp_path: Path) -> AsyncIterator[Mail]:
    async with running_broker(tmp_path) as mail:
        await mail.triggers({"name": "a-0", "function": "a"})
        yield mail


async def post(
    mail: Mail, headers: dict[str, str], body: bytes, path: str = "/default", method: str = "POST"
) -> Any:
    url = f"http://127.0.0.1:{mail.child.port}{path}"
    async with mail.session.request(method, url, headers=headers, data=io.BytesIO(body)) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if text else None, answer.headers


async def test_structured_and_batched_events_arrive_in_binary_mode(mail: Mail) -> None:
    one = EVENT | {"data": {"a": [1, 2.5, "é"]}, "myext": 7}
    assert (await post(mail, STRUCTURED, json.dumps(one).encode()))[0] == 202
    text = EVENT | {"id": "s2", "datacontenttype": "text/plain", "data": "hello"}
    raw = EVENT | {"id": "s3", "data_base64": "AAEC"}
    assert (await post(mail, BATCH, json.dumps([text, raw]).encode(), path="/"))[0] == 202
    await mail.settled(accepted=3, delivered=3, pending=0)
    got = {one["headers"]["ce-id"]: one for one in mail.functions.seen}
    assert json.loads(got["s1"]["body"]) == {"a": [1, 2.5, "é"]}
    assert got["s1"]["headers"]["Content-Type"] == "application/json"
    assert got["s1"]["headers"]["ce-myext"] == "7"
    assert (got["s2"]["body"], got["s2"]["headers"]["Content-Type"]) == (b"hello", "text/plain")
    assert got["s3"]["body"] == b"\x00\x01\x02"


REFUSED = {
    "no event": ({}, b"{}", "/default", "POST", 415),
    "other format": ({"content-type": "application/cloudevents+xml"}, b"<x/>", "/default", "POST", 415),
    "compressed": (BINARY | {"content-encoding": "gzip"}, b"x", "/default", "POST", 415),
    "no id": ({k: v for k, v in BINARY.items() if k != "ce-id"}, b"", "/default", "POST", 400),
    "old version": (BINARY | {"ce-specversion": "0.3"}, b"", "/default", "POST", 400),
    "bad time": (BINARY | {"ce-time": "yesterday"}, b"", "/default", "POST", 400),
    "data that is not what it says": (BINARY | {"content-type": "application/json"}, b"{", "/default", "POST", 400),
    "not json": (STRUCTURED, b"{", "/default", "POST", 400),
    "not an event": (STRUCTURED, b"[]", "/default", "POST", 400),
    "one of a batch is illegal": (BATCH, json.dumps([EVENT, {"id": "2"}]).encode(), "/default", "POST", 400),
    "too large": (BINARY, b"x" * (limits.EVENT_BYTES_MAX + 1), "/default", "POST", 413),
    "unknown broker": (BINARY, b"", "/nope", "POST", 404),
    "reading": ({}, b"", "/default", "GET", 405),
    "foreign host": (BINARY | {"Host": "evil.example"}, b"", "/default", "POST", 400),
}


async def test_what_is_not_kept_is_refused_with_the_rule(mail: Mail) -> None:
    for what, (headers, body, path, method, status) in REFUSED.items():
        got, problem, answered = await post(mail, headers, body, path, method)
        assert got == status, (what, problem)
        assert answered["Content-Type"] == "application/problem+json", what
        assert (problem["status"], problem["component"]) == (status, "platform"), what
        assert problem["detail"], what
        assert answered.get("Allow") == ("POST" if what == "reading" else None)
        assert what != "unknown broker" or "default" in problem["detail"]
    assert (await mail.stats())["accepted"] == 0


async def test_an_event_of_the_largest_size_passes(mail: Mail) -> None:
    body = bytes(range(256)) * (limits.EVENT_BYTES_MAX // 256)
    assert (await post(mail, BINARY | {"content-type": "application/octet-stream"}, body))[0] == 202
    await mail.settled(delivered=1)
    assert mail.functions.seen[0]["body"] == body


async def test_the_same_event_twice_is_two_events(mail: Mail) -> None:
    for _ in range(2):
        assert (await post(mail, BINARY, b""))[0] == 202
    await mail.settled(accepted=2, delivered=2)
    assert mail.functions.ids("a") == ["s1", "s1"]


async def test_an_event_nobody_wants_is_kept_and_done(mail: Mail) -> None:
    await mail.triggers({"name": "a-0", "function": "a", "filter": {"type": "other"}})
    assert (await post(mail, BINARY, b""))[0] == 202
    stats = await mail.stats()
    assert (stats["accepted"], stats["pending"], stats["delivered"]) == (1, 0, 0)


async def test_an_event_whose_publisher_hangs_up_at_once_is_delivered(mail: Mail) -> None:
    """The broker may or may not have read it; what it has kept is delivered without another event's help."""
    head = "".join(f"{name}: {value}\r\n" for name, value in BINARY.items())
    message = f"POST /default HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n{head}\r\n".encode()
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", mail.child.port)
        writer.write(message)
        await writer.drain()
        writer.transport.abort()

    async def all_delivered() -> bool:
        stats = await mail.stats()
        return bool(stats["delivered"] == stats["accepted"] > 0)

    await until(all_delivered, "for every kept event to be delivered")
    stats = await mail.stats()
    assert stats["delivered"] <= len(mail.functions.seen)
