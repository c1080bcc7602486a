"""The real gateway process between real callers and real upstreams: where requests go."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from helpers_gateway import Front, routes, running_gateway, saying, until, upstream


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with running_gateway(tmp_path) as front:
        yield front


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
        task = asyncio.ensure_future(front.fetch("GET", host="f.localhost"))
        await until(lambda: front.home.socket("gateway").exists())
        assert not task.done()
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [port]}))
        assert await task == (200, "late")


async def test_a_split_is_drawn_per_request(front: Front) -> None:
    async with upstream(saying("one")) as one, upstream(saying("two")) as two:
        await front.put(routes({"f": {"f-1": 90, "f-2": 10}}, {"f-1": [one], "f-2": [two]}))
        counts: Counter[str] = Counter()
        for _ in range(1000):
            async with front.call("GET", host="f.localhost") as answer:
                counts[await answer.text()] += 1
        assert counts["one"] + counts["two"] == 1000
        assert 50 <= counts["two"] <= 160  # 5 standard deviations and more on both sides


async def test_an_unknown_function_is_named_with_those_there_are(front: Front) -> None:
    await front.put(routes({"aa": {"aa-1": 100}, "bb": {"bb-1": 100}}, {}))
    for path, host in [("/", "nope.localhost"), ("/f/nope/x", "")]:
        async with front.call("GET", path, host=host) as answer:
            problem = await answer.json(content_type="application/problem+json")
            assert answer.status == problem["status"] == 404
            assert problem["component"] == "platform"
            assert "aa, bb" in problem["detail"]


async def test_foreign_hosts_reach_nothing(front: Front) -> None:
    async with upstream(saying("one")) as port:
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [port]}))
        for path in ("/", "/f/f/", "/_page/state"):
            async with front.call("GET", path, host="evil.example") as answer:
                assert answer.status == 404
                assert "shoal-revision" not in answer.headers


async def test_reserved_paths_stay_inside(front: Front) -> None:
    async with upstream(saying("one")) as port:
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [port]}))
        for path in ("/metrics", "/_shoal/ready", "/%5Fshoal/live", "/x/../metrics", "//metrics"):
            head = f"GET {path} HTTP/1.1\r\nHost: f.localhost\r\nConnection: close\r\n\r\n"
            assert (await front.raw(head.encode())).startswith(b"HTTP/1.1 404 "), path
            assert (await front.fetch("GET", "/f/f" + path.replace("..", "%2e%2e")))[0] == 404, path
        assert await front.fetch("GET", "/f/f/metrics-of-mine") == (200, "one")


async def test_new_routes_are_in_effect_once_they_are_answered(front: Front) -> None:
    async with upstream(saying("one")) as one, upstream(saying("two")) as two:
        for generation in range(1, 21):
            revision = ("f-1", "f-2")[generation % 2]
            table = routes({"f": {revision: 100}}, {"f-1": [one], "f-2": [two]}, generation=generation)
            assert await front.put(table) == {"generation": generation}
            assert await front.fetch("GET", host="f.localhost") == (200, ("one", "two")[generation % 2])


async def test_an_older_table_changes_nothing(front: Front) -> None:
    async with upstream(saying("one")) as port:
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [port]}, generation=9))
        assert await front.put(routes({}, {}, generation=8)) == {"generation": 9}
        assert await front.fetch("GET", host="f.localhost") == (200, "one")


async def test_connections_wait_while_the_gateway_restarts(front: Front) -> None:
    async with upstream(saying("back")) as port:
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [port]}))
        front.child.kill()
        waiting = asyncio.ensure_future(front.fetch("GET", host="f.localhost"))
        front.child.start()
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [port]}))
        assert await waiting == (200, "back")


async def test_a_function_without_traffic_is_unavailable_for_now(front: Front) -> None:
    await front.put(routes({"f": {}}, {}))
    async with front.call("GET", host="f.localhost") as answer:
        assert answer.status == 503
        assert "no revision with traffic" in (await answer.json(content_type=None))["detail"]
        assert answer.headers["Retry-After"] == "1"


async def test_requests_leave_a_line_that_can_be_joined_with_the_functions(front: Front) -> None:
    seen: dict[str, str] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update((name.lower(), value) for name, value in request.headers.items())
        return web.Response(text="x")

    trace = "0af7651916cd43dd8448eb211c80319c"
    async with upstream(handler) as port:
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [port]}))
        headers = {"x-request-id": "mine-1", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        assert (await front.fetch("GET", "/p?secret=1", host="f.localhost", headers=headers))[0] == 200
    (line,) = await until(lambda: [one for one in front.child.lines() if one.get("request_id") == "mine-1"])
    assert (line["trace_id"], line["service"], line["revision"]) == (trace, "f", "f-1")
    assert (line["method"], line["path"], line["status"]) == ("GET", "/p", 200)
    assert seen["x-request-id"] == "mine-1"
    assert seen["traceparent"].split("-")[1] == trace
