"""The real gateway process: holding requests while a function wakes, or while its instances are busy."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from helpers_gateway import Front, listen, routes, running_gateway, saying, until, upstream


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with running_gateway(tmp_path) as front:
        yield front


async def test_the_first_requests_are_held_and_wake_the_function_once(front: Front) -> None:
    async with upstream(saying("up")) as port:
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": []}))
        front.node.instances["f-1"] = [port]
        front.node.gate.clear()
        calls = [asyncio.ensure_future(front.fetch("POST", host="f.localhost", data=b"x")) for _ in range(30)]
        await until(lambda: front.has_load("f-1", in_flight=30, held=30))
        front.node.gate.set()
        assert Counter(await asyncio.gather(*calls)) == {(200, "up"): 30}
        assert front.node.activations == ["f-1"]
        await until(lambda: front.has_load("f-1", in_flight=0, held=0, requests=30))


async def test_instances_that_come_with_new_routes_serve_those_held(front: Front) -> None:
    async with upstream(saying("up")) as port:
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": []}))
        front.node.gate.clear()
        call = asyncio.ensure_future(front.fetch("GET", host="f.localhost"))
        await until(lambda: front.has_load("f-1", held=1))
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [port]}, generation=2))
        assert await call == (200, "up")
        front.node.gate.set()


async def test_the_nodes_reason_reaches_the_caller(front: Front) -> None:
    problem = {
        "type": "urn:shoal:problem:deploy",
        "detail": "handler.py:3: ImportError: torch",
        "hint": "shoal check f",
    }
    front.node.refusal = web.json_response(problem, status=500, content_type="application/problem+json")
    await front.put(routes({"f": {"f-1": 100}}, {"f-1": []}))
    async with front.call("GET", host="f.localhost") as answer:
        told = await answer.json(content_type="application/problem+json")
        assert (answer.status, told["component"]) == (503, "platform")
        assert told["detail"] == "f-1 cannot start: handler.py:3: ImportError: torch"
        assert told["hint"] == "shoal check f"
        assert int(answer.headers["Retry-After"]) >= 1


async def test_without_the_node_the_caller_is_told_at_once(front: Front) -> None:
    await front.put(routes({"f": {"f-1": 100}}, {"f-1": []}))
    front.home.socket("node").unlink()
    async with front.call("GET", host="f.localhost") as answer:
        assert answer.status == 503
        assert "node" in (await answer.json(content_type=None))["detail"]


async def test_a_refused_connection_wakes_the_function_again_and_loses_nothing(front: Front) -> None:
    gone, dead = listen()
    gone.close()
    async with upstream(saying("again")) as port:
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [dead]}))
        front.node.instances["f-1"] = [port]
        assert await front.fetch("POST", host="f.localhost", data=b"once") == (200, "again")
        assert front.node.activations == ["f-1"]


async def test_a_large_body_survives_a_refused_connection(front: Front) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    gone, dead = listen()
    gone.close()
    async with upstream(handler) as port:
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [dead]}))
        front.node.instances["f-1"] = [port]
        for size in (200_000, 3_000_000):
            await front.put(routes({"f": {"f-1": 100}}, {"f-1": [dead]}))
            assert await front.fetch("POST", host="f.localhost", data=io.BytesIO(bytes(size))) == (200, str(size))


async def test_a_refused_connection_goes_to_another_instance_first(front: Front) -> None:
    gone, dead = listen()
    gone.close()
    async with upstream(saying("other")) as port:
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [dead, port]}))
        answers = await asyncio.gather(*(front.fetch("GET", host="f.localhost") for _ in range(20)))
        assert set(answers) == {(200, "other")}
        assert front.node.activations == []


async def test_instances_that_never_take_a_connection_end_in_a_reason(front: Front) -> None:
    gone, dead = listen()
    gone.close()
    await front.put(routes({"f": {"f-1": 100}}, {"f-1": [dead]}))
    front.node.instances["f-1"] = [dead]
    async with front.call("GET", host="f.localhost") as answer:
        told = await answer.json(content_type=None)
        assert (answer.status, told["hint"]) == (503, "shoal logs f")
        assert "takes connections" in told["detail"]


async def test_no_instance_gets_more_than_its_concurrency(front: Front) -> None:
    busy = peak = 0

    async def handler(_: web.Request) -> web.Response:
        nonlocal busy, peak
        busy += 1
        peak = max(peak, busy)
        await asyncio.sleep(0)
        busy -= 1
        return web.Response(text="x")

    async with upstream(handler) as port:
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [port]}, concurrency=1))
        answers = await asyncio.gather(*(front.fetch("GET", host="f.localhost") for _ in range(100)))
        assert Counter(answers) == {(200, "x"): 100}
        assert peak == 1


async def test_load_goes_to_the_instance_with_least_in_flight(front: Front) -> None:
    stuck = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await stuck.wait()
        return web.Response(text="slow")

    async with upstream(slow) as one, upstream(saying("fast")) as two:
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [one, two]}, concurrency=0))
        calls = [asyncio.ensure_future(front.fetch("GET", host="f.localhost")) for _ in range(2)]
        await until(lambda: front.has_load("f-1", in_flight=1, requests=2))
        for _ in range(10):
            assert await front.fetch("GET", host="f.localhost") == (200, "fast")
        stuck.set()
        assert sorted(await asyncio.gather(*calls)) == [(200, "fast"), (200, "slow")]


async def test_a_budget_spent_in_waiting_ends_the_request(front: Front) -> None:
    await front.put(routes({"f": {"f-1": 100}}, {"f-1": []}))
    front.node.gate.clear()
    async with front.call("GET", host="f.localhost", headers={"shoal-timeout-ms": "50"}) as answer:
        assert answer.status == 504
    await until(lambda: front.has_load("f-1", in_flight=0, held=0))
    front.node.gate.set()


async def test_a_caller_who_leaves_the_line_takes_no_slot(front: Front) -> None:
    async with upstream(saying("up")) as port:
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": []}, concurrency=1))
        front.node.gate.clear()
        front.node.instances["f-1"] = [port]
        gone = asyncio.ensure_future(front.fetch("GET", host="f.localhost"))
        await until(lambda: front.has_load("f-1", held=1))
        gone.cancel()
        await until(lambda: front.has_load("f-1", in_flight=0, held=0))
        front.node.gate.set()
        assert await front.fetch("GET", host="f.localhost") == (200, "up")


async def test_sigterm_finishes_what_is_in_flight(front: Front) -> None:
    started, finish = asyncio.Event(), asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        started.set()
        await finish.wait()
        return web.Response(text="finished")

    async with upstream(handler) as port:
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [port]}))
        call = asyncio.ensure_future(front.call("GET", host="f.localhost"))
        await started.wait()
        process = front.child.process
        assert process is not None
        os.kill(process.pid, signal.SIGTERM)
        await until(lambda: any("stopping" in line["message"] for line in front.child.lines()))
        late = asyncio.ensure_future(front.fetch("GET", host="f.localhost"))  # waits in the backlog
        finish.set()
        async with await call as answer:
            assert (answer.status, await answer.text()) == (200, "finished")
            assert answer.headers["Connection"] == "close"
        assert await asyncio.to_thread(process.wait, 60) == 0
        front.child.start()
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [port]}))
        assert await late == (200, "finished")
