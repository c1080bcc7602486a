"""The real gateway process: what becomes of a request's and an answer's bytes on their way."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict

from helpers_gateway import PATIENCE_S, Front, Handler, routes, running_gateway, until, upstream
from helpers_process import spawned
from shoal.core import limits
from shoal.platform.local import gateway

MIB = 2**20


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with running_gateway(tmp_path) as front:
        yield front


async def serve(front: Front, port: int, **function: Any) -> None:
    document = {"targets": [{"revision": "f-1", "percent": 100}], "tags": {}, "timeout_s": 30.0} | function
    await front.put(routes({"f": document}, {"f-1": [port]}))


def recording(into: list[Any], answer: Handler | None = None) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = [(name.decode().lower(), value.decode()) for name, value in request.raw_headers]
        into.append({"method": request.method, "target": request._message.path, "headers": headers, "body": body})
        return await answer(request) if answer else web.Response(text="ok")

    return handler


async def test_the_target_passes_unchanged(front: Front) -> None:
    seen: list[Any] = []
    targets = ["/a%2Fb//c/../d?x=%20y&z=%C3%A9", "/?", "//other.example/x", "/%2e%2e/é".replace("é", "%C3%A9")]
    async with upstream(recording(seen)) as port:
        await serve(front, port)
        for target in targets:
            head = f"GET {target} HTTP/1.1\r\nHost: f.localhost\r\nConnection: close\r\n\r\n"
            assert (await front.raw(head.encode())).startswith(b"HTTP/1.1 200 ")
        await front.raw(b"GET /f/f/x//y?z HTTP/1.1\r\nHost: localhost:99\r\nConnection: close\r\n\r\n")
    assert [one["target"] for one in seen] == ["/a%2Fb//c/../d?x=%20y&z=%C3%A9", "/", *targets[2:], "/x//y?z"]
    headers = dict(seen[-1]["headers"])
    assert headers["host"] == "f.localhost:99"
    assert headers["x-forwarded-prefix"] == "/f/f"
    assert headers["x-forwarded-host"] == "localhost:99"


async def test_headers_of_the_connection_stay_and_the_way_is_told(front: Front) -> None:
    seen: list[Any] = []
    async with upstream(recording(seen)) as port:
        await serve(front, port)
        await front.raw(
            b"POST / HTTP/1.1\r\nHost: f.localhost\r\nConnection: close, X-Private\r\nX-Private: 1\r\n"
            b"TE: trailers\r\nKeep-Alive: 5\r\nProxy-Authorization: secret\r\nX-Forwarded-For: 1.2.3.4\r\n"
            b"X-Twice: a\r\nX-Twice: b\r\nAccept-Encoding: br\r\nContent-Length: 2\r\n\r\nhi"
        )
    (one,) = seen
    names = [name for name, _ in one["headers"]]
    assert not {"x-private", "te", "keep-alive", "proxy-authorization", "connection", "user-agent"} & set(names)
    assert [value for name, value in one["headers"] if name == "x-twice"] == ["a", "b"]
    headers = dict(one["headers"])
    assert headers["x-forwarded-for"] == "1.2.3.4, 127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert headers["forwarded"] == 'for=127.0.0.1;host="f.localhost";proto=http'
    assert headers["accept-encoding"] == "br"
    assert (headers["content-length"], one["body"]) == ("2", b"hi")


async def test_answers_pass_unchanged(front: Front) -> None:
    packed = gzip.compress(b"hello")

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/gzip":
            return web.Response(body=packed, headers={"Content-Encoding": "gzip", "Content-Type": "text/plain"})
        if request.path == "/moved":
            return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/never"})
        if request.path == "/nothing":
            return web.Response(status=204)
        headers = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Connection", "X-Own"), ("X-Own", "1")]
        return web.Response(status=418, reason="Teapot", text="x", headers=CIMultiDict(headers))

    async with upstream(handler) as port:
        await serve(front, port)
        async with front.call("GET", "/gzip", host="f.localhost") as answer:
            assert (await answer.read(), answer.headers["Content-Encoding"]) == (packed, "gzip")
        async with front.call("GET", "/moved", host="f.localhost") as answer:
            assert (answer.status, answer.headers["Location"]) == (302, "http://127.0.0.1:1/never")
        async with front.call("GET", "/nothing", host="f.localhost") as answer:
            assert (answer.status, await answer.read()) == (204, b"")
        async with front.call("GET", "/", host="f.localhost") as answer:
            assert (answer.status, answer.reason, await answer.text()) == (418, "Teapot", "x")
            assert answer.headers.getall("Set-Cookie") == ["a=1", "b=2"]
            assert "X-Own" not in answer.headers


async def test_head_keeps_the_length_and_has_no_body(front: Front) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 1000)

    async with upstream(handler) as port:
        await serve(front, port)
        answer = await front.raw(b"HEAD / HTTP/1.1\r\nHost: f.localhost\r\nConnection: close\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"content-length: 1000" in head.lower()
        assert body == b""


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_bodies_stream_through_whole(front: Front, chunked: bool) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for chunk in request.content.iter_any():
            await response.write(chunk)
        return response

    block = bytes(range(256)) * 256

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(320):
            yield block

    async with upstream(handler) as port:
        await serve(front, port)
        data = pieces() if chunked else io.BytesIO(block * 320)
        async with front.call("PUT", "/", host="f.localhost", data=data) as answer:
            digest, size = hashlib.sha256(), 0
            async for chunk in answer.content.iter_any():
                digest.update(chunk)
                size += len(chunk)
    assert size == 20 * MIB
    assert digest.digest() == hashlib.sha256(block * 320).digest()


async def test_a_streamed_answer_arrives_while_it_is_made(front: Front) -> None:
    more = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        await more.wait()
        await response.write(b"second")
        return response

    async with upstream(handler) as port:
        await serve(front, port)
        async with front.call("GET", host="f.localhost") as answer:
            assert await answer.content.readany() == b"first"
            more.set()
            assert await answer.content.read() == b"second"


async def test_a_body_over_the_limit_is_refused(front: Front) -> None:
    taken = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal taken
        async for chunk in request.content.iter_any():
            taken += len(chunk)
        return web.Response(text="whole")

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(2 * limits.BODY_BYTES_MAX // MIB):
            yield bytes(MIB)

    async with upstream(handler) as port:
        await serve(front, port)
        length = limits.BODY_BYTES_MAX + 1
        head = f"POST / HTTP/1.1\r\nHost: f.localhost\r\nContent-Length: {length}\r\n\r\n".encode()
        assert (await front.raw(head, until_eof=False)).startswith(b"HTTP/1.1 413 ")
        try:
            status, text = await front.fetch("POST", host="f.localhost", data=endless())
            assert status == 413, text
        except aiohttp.ClientOSError:
            pass  # the gateway may end the connection while the rest is still being sent
        assert taken <= limits.BODY_BYTES_MAX
        assert await until(lambda: any(line.get("status") == 413 for line in front.child.lines()))


async def test_a_caller_who_leaves_ends_the_work(front: Front) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with upstream(handler, handler_cancellation=True) as port:
        await serve(front, port)
        task = asyncio.ensure_future(front.fetch("GET", host="f.localhost"))
        await started.wait()
        assert (await front.load("f-1"))["in_flight"] == 1
        task.cancel()
        async with asyncio.timeout(60):
            await ended.wait()
        await until(lambda: front.idle("f-1"))
        assert await until(lambda: any(line.get("status") == 499 for line in front.child.lines()))


async def test_an_instance_that_breaks_off_is_told_apart_and_not_asked_twice(front: Front) -> None:
    asked = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with upstream(handler) as port:
        await serve(front, port)
        async with front.call("POST", host="f.localhost", data=b"x") as answer:
            problem = await answer.json(content_type=None)
            assert (answer.status, problem["component"]) == (502, "platform")
            assert "not repeated" in problem["detail"]
    assert asked == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_a_request_that_ends_its_instance_runs_once(front: Front, tmp_path: Path, method: str) -> None:
    code = """
        import os, pathlib
        from shoal import http

        record = pathlib.Path(__file__).with_name("record")

        @http
        def fine():
            return {}

        @http(path="/deadly")
        def deadly():
            with record.open("a") as file:
                file.write("ran\\n")
            os._exit(7)
    """
    with spawned(tmp_path, code) as function:
        await until(lambda: asyncio.to_thread(function.ready))
        front.node.refusal = web.Response(status=503)
        await serve(front, function.port)
        assert (await front.fetch(method, host="f.localhost"))[0] == 200  # on a connection that is kept
        status, text = await front.fetch(method, "/deadly", host="f.localhost")
        assert (status, "is not repeated" in text) == (502, True), text
    assert (tmp_path / "function" / "record").read_text() == "ran\n"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_kept_connection_that_was_closed_meanwhile_is_no_error(front: Front, method: str) -> None:
    answered, noticed = [], asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            answered.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.write_eof()
            await reader.read(-1)  # ends when the gateway has closed its side, too
            noticed.set()
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        await serve(front, server.sockets[0].getsockname()[1])
        for count in (1, 2, 3):
            noticed.clear()
            assert (await front.fetch(method, host="f.localhost"))[0] == 200
            await asyncio.wait_for(noticed.wait(), PATIENCE_S)
            assert len(answered) == count


async def test_the_client_library_still_has_the_switch_for_its_own_repeats() -> None:
    async with aiohttp.ClientSession() as plain, gateway.to_instances() as session:
        assert plain._retry_connection is True
        assert session._retry_connection is False


def test_idle_connections_end_here_well_before_the_instance_ends_them() -> None:
    assert limits.GATEWAY_POOL_IDLE_SECONDS_MAX <= 0.7 * limits.KEEP_ALIVE_SECONDS


async def test_an_answer_cut_short_does_not_look_whole(front: Front) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with upstream(handler) as port:
        await serve(front, port)
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
            await front.fetch("GET", host="f.localhost")


async def test_a_function_over_its_time_is_cut_off(front: Front) -> None:
    async def handler(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with upstream(handler, handler_cancellation=True) as port:
        await serve(front, port, timeout_s=0.2)
        async with front.call("GET", host="f.localhost") as answer:
            assert answer.status == 504
            assert "within 0.2 s" in (await answer.json(content_type=None))["detail"]


async def test_the_callers_budget_is_passed_on_less_what_is_spent(front: Front) -> None:
    seen: list[Any] = []
    async with upstream(recording(seen)) as port:
        await serve(front, port, timeout_s=20.0)
        for value in ("5000", "99999999", "soon"):
            await front.fetch("GET", host="f.localhost", headers={"shoal-timeout-ms": value})
    budgets = [dict(one["headers"])["shoal-timeout-ms"] for one in seen]
    assert 0 <= int(budgets[0]) <= 5000
    assert 5000 < int(budgets[1]) <= 20_000
    assert budgets[2] == "soon"  # judged by the function, in one place


async def test_an_upgrade_is_not_passed_on_and_its_body_is(front: Front) -> None:
    seen: list[Any] = []
    async with upstream(recording(seen)) as port:
        await serve(front, port)
        answer = await front.raw(
            b"POST / HTTP/1.1\r\nHost: f.localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAA\r\nContent-Length: 5\r\n\r\nhello"
        )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert seen[0]["body"] == b"hello"
    assert not {"upgrade", "http2-settings"} & {name for name, _ in seen[0]["headers"]}


async def test_a_caller_may_wait_for_100_continue(front: Front) -> None:
    seen: list[Any] = []
    async with upstream(recording(seen)) as port:
        await serve(front, port)
        reader, writer = await asyncio.open_connection("127.0.0.1", front.child.port)
        writer.write(
            b"POST / HTTP/1.1\r\nHost: f.localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
            b"Connection: close\r\n\r\n"
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hi")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
    assert seen[0]["body"] == b"hi"
