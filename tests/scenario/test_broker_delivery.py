"""The real broker process before a real gateway-shaped upstream: acceptance, delivery, retry, dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from helpers_gateway import Child, control, make_home, until, upstream

from shoal.platform.local.layout import Home

PROBLEM = "application/problem+json"


@dataclass
class Functions:
    """Stands where the gateway does: records what arrives and answers as told."""

    answers: dict[str, list[web.Response]] = field(default_factory=dict)  # function -> its next answers; then 204
    seen: list[dict[str, Any]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        function = request.host.removesuffix(".localhost")
        body = await request.read()
        self.seen.append({"function": function, "headers": dict(request.headers), "body": body})
        waiting = self.answers.get(function, [])
        return waiting.pop(0) if waiting else web.Response(status=204)

    def ids(self, function: str) -> list[str]:
        return [one["headers"]["ce-id"] for one in self.seen if one["function"] == function]


@dataclass
class Mail:
    home: Home
    child: Child
    functions: Functions
    gateway: str
    session: aiohttp.ClientSession
    generation: int = 0

    async def triggers(self, *triggers: dict[str, Any]) -> None:
        self.generation += 1
        full = [
            {"broker": "default", "filter": {}, "retry": 3, "backoff_delay_s": 0.01, "timeout_s": 30.0} | one
            for one in triggers
        ]
        document = {"generation": self.generation, "gateway": self.gateway, "triggers": full}
        await control(self.home, "broker", "PUT", "/triggers", document)

    def publish(self, identity: str, kind: str = "x", *, body: bytes = b"{}", path: str = "/default", **extra: str) -> Any:
        headers = {"ce-id": identity, "ce-source": "/t", "ce-type": kind, "ce-specversion": "1.0"}
        headers |= {"content-type": "application/json"} | {f"ce-{key}": value for key, value in extra.items()}
        return self.session.post(f"http://127.0.0.1:{self.child.port}{path}", headers=headers, data=body)

    async def stats(self) -> dict[str, int]:
        return await control(self.home, "broker", "GET", "/stats")

    async def settled(self, **wanted: int) -> None:
        async def reached() -> bool:
            stats = await self.stats()
            return all(stats[name] == count for name, count in wanted.items())

        await until(reached, f"for {wanted}")


@pytest.fixture
async def mail(tmp_path: Path) -> AsyncIterator[Mail]:
    home = make_home(tmp_path)
    child = Child("shoal.platform.local.broker", home)
    child.start()
    functions = Functions()
    try:
        async with upstream(functions.handle) as port, aiohttp.ClientSession() as session:
            yield Mail(home, child, functions, f"http://127.0.0.1:{port}", session)
    finally:
        child.close()


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
    (letter,) = (await control(mail.home, "broker", "GET", "/dead"))["dead"]
    assert letter["code"] == 503
    assert letter["attempts"] == 3
    assert "no room" in letter["reason"]
    await control(mail.home, "broker", "POST", f"/dead/{letter['id']}/redrive")
    await mail.settled(dead=0, delivered=1, pending=0)


async def test_a_reply_is_published_with_the_completion(mail: Mail) -> None:
    await mail.triggers(
        {"name": "a-0", "function": "a", "filter": {"type": "x"}}, {"name": "b-0", "function": "b", "filter": {"type": "z"}}
    )
    headers = {"ce-id": "r", "ce-source": "/a", "ce-type": "z", "ce-specversion": "1.0"}
    mail.functions.answers["a"] = [web.Response(body=b"hello", headers={**headers, "content-type": "text/plain"})]
    async with mail.publish("1") as answer:
        assert answer.status == 202
    await mail.settled(delivered=2, pending=0, retrying=0)
    assert mail.functions.ids("b") == ["r"]
    assert mail.functions.seen[-1]["headers"]["ce-shoalhops"] == "1"
