"""The real gateway process between real callers and real upstreams: where requests go."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from helpers_gateway import Child, FakeNode, control, make_home, routes, saying, until, upstream

from shoal.platform.local.layout import Home


@dataclass
class Front:
    home: Home
    child: Child
    node: FakeNode
    session: aiohttp.ClientSession

    async def put(self, document: Any) -> Any:
        return await control(self.home, "gateway", "PUT", "/routes", document)

    async def load(self, revision: str) -> Any:
        return (await control(self.home, "gateway", "GET", "/load"))["revisions"].get(revision)

    def call(self, method: str, path: str = "/", *, host: str = "", **options: Any) -> Any:
        headers = {**options.pop("headers", {})}
        if host:
            headers["Host"] = host
        url = f"http://127.0.0.1:{self.child.port}{path}"
        return self.session.request(method, url, headers=headers, allow_redirects=False, **options)


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    home = make_home(tmp_path)
    child = Child("shoal.platform.local.gateway", home)
    child.start()
    node = FakeNode(home)
    try:
        async with node.running(), aiohttp.ClientSession() as session:
            yield Front(home, child, node, session)
    finally:
        child.close()


async def test_host_path_and_tag_reach_their_revisions(front: Front) -> None:
    async with upstream(saying("one")) as one, upstream(saying("two")) as two:
        function = {"targets": [{"revision": "f-1", "percent": 100}], "tags": {"canary": "f-2"}, "timeout_s": 30}
        await front.put(routes({"f": function}, {"f-1": [one], "f-2": [two]}))
        for path, host, expected in [
            ("/", f"f.localhost:{front.child.port}", "one"),
            ("/", "F.localhost", "one"),
            ("/", "canary-f.localhost", "two"),
            ("/f/f/x", "", "one"),
            ("/f/canary-f", "", "two"),
        ]:
            async with front.call("GET", path, host=host) as answer:
                assert (answer.status, await answer.text()) == (200, expected)


async def test_requests_are_held_until_the_first_routes(front: Front) -> None:
    async with upstream(saying("late")) as port:
        request = front.call("GET", host="f.localhost")
        task = __import__("asyncio").ensure_future(request.__aenter__())
        await until(lambda: front.home.socket("gateway").exists())
        assert not task.done()
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [port]}))
        assert await (await task).text() == "late"


async def test_a_split_is_drawn_per_request(front: Front) -> None:
    async with upstream(saying("one")) as one, upstream(saying("two")) as two:
        await front.put(routes({"f": {"f-1": 90, "f-2": 10}}, {"f-1": [one], "f-2": [two]}))
        counts: Counter[str] = Counter()
        for _ in range(1000):
            async with front.call("GET", host="f.localhost") as answer:
                counts[await answer.text()] += 1
        assert counts["one"] + counts["two"] == 1000
        assert 50 <= counts["two"] <= 160  # 5 standard deviations and more on both sides
