"""What the gateway and its server make of requests that are broken, huge or never end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from helpers_gateway import PATIENCE_S, Front, listen, routes, running_gateway, saying, upstream
from shoal.core import limits
from shoal.platform.local import serving

HOST = b"Host: f.localhost\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with running_gateway(tmp_path) as front, upstream(saying("up")) as port:
        await front.put(routes({"f": {"f-1": 100}}, {"f-1": [port]}))
        yield front


BROKEN = {
    "length and chunked": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "negative length": (POST + b"Content-Length: -3\r\n\r\nabc", 400),
    "signed length": (POST + b"Content-Length: +3\r\n\r\nabc", 400),
    "chunk of no size": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", 400),
    "unknown coding": (POST + b"Transfer-Encoding: gzip, identity\r\n\r\nabc", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    "host with a path": (b"GET / HTTP/1.1\r\nHost: f.localhost/x\r\nConnection: close\r\n\r\n", 400),
    "host with markup": (b"GET / HTTP/1.1\r\nHost: <script>\r\nConnection: close\r\n\r\n", 400),
    "folded header": (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n", 400),
    "space before the colon": (b"GET / HTTP/1.1\r\n" + HOST + b"X : a\r\n\r\n", 400),
    "unknown method": (b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "connect": (b"CONNECT f.localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "long target": (b"GET /" + b"a" * limits.GATEWAY_FIELD_BYTES_MAX + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
    "long field": (
        b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * (limits.GATEWAY_FIELD_BYTES_MAX + 1) + b"\r\n\r\n",
        431,
    ),
    "many fields": (b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: a\r\n" % i for i in range(300)) + b"\r\n", 400),
    "large head": (
        b"GET / HTTP/1.1\r\nConnection: close\r\n"
        + HOST
        + b"".join(b"X-%d: %s\r\n" % (i, b"a" * 10_000) for i in range(8))
        + b"\r\n",
        431,
    ),
    "endless length": (POST + b"Content-Length: 99999999999\r\n\r\n", 413),
}


async def test_broken_requests_get_a_problem_and_the_next_one_an_answer(front: Front) -> None:
    for what, (data, status) in BROKEN.items():
        answer = await front.raw(data, until_eof=status != 413)
        assert answer.split(b" ", 2)[1] == str(status).encode(), (what, answer)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"application/problem+json" in head, what
        if body:
            assert json.loads(body)["status"] == status, what
        assert await front.fetch("GET", host="f.localhost") == (200, "up"), what
    assert all("Traceback" not in line["message"] for line in front.child.lines())  # and every line is JSON


async def test_a_body_that_never_comes_is_given_up(front: Front) -> None:
    document = {"targets": [{"revision": "f-1", "percent": 100}], "tags": {}, "timeout_s": 0.2}
    await front.put(routes({"g": document}, {"f-1": []}, generation=2))
    answer = await front.raw(
        b"POST / HTTP/1.1\r\nHost: g.localhost\r\nContent-Length: 5\r\n\r\nab", until_eof=False
    )
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_pipelined_requests_are_answered_in_order(front: Front) -> None:
    one = b"GET /%d HTTP/1.1\r\n" + HOST
    data = b"".join(one % i + b"\r\n" for i in range(40)) + one % 40 + b"Connection: close\r\n\r\n"
    assert (await front.raw(data)).count(b"HTTP/1.1 200 OK") == 41


@asynccontextmanager
async def small_server(connections_max: int, idle_s: float) -> AsyncIterator[int]:
    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="ok")

    server = serving.Server(handler, connections_max, idle_s=idle_s)
    sock, port = listen()
    sock.setblocking(False)
    listener = await asyncio.get_running_loop().create_server(server, sock=sock)
    try:
        yield port
    finally:
        listener.close()
        await server.shutdown(0.1)


async def test_a_head_that_comes_byte_by_byte_is_cut_off() -> None:
    async with small_server(10, idle_s=0.3) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def drip() -> None:
            while not writer.is_closing():
                writer.write(b"G" if writer.get_extra_info("peername") else b"")
                await asyncio.sleep(0.05)

        writer.write(b"GET / HTTP/1.1\r\nX: ")
        dripping = asyncio.ensure_future(drip())
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):  # a reset is a cut, too
                assert await reader.read() == b""
        dripping.cancel()
        writer.close()


async def test_connections_over_the_limit_are_closed_and_those_within_it_served() -> None:
    async with small_server(2, idle_s=60) as port:
        within = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for reader, writer in within:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"ok")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
        writer.close()
        for reader, kept in within:
            kept.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"ok")
            kept.close()
