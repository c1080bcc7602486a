"""One connection against a server that behaves, and one that does not."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import AsyncIterator

import pytest

from helpers_triton_http import (
    Behaviour,
    Exchange,
    ScriptedServer,
    close_after_headers,
    close_after_request,
    hang,
    http,
    ok,
    raw,
    refused_address,
    reset_after_headers,
    reset_before_headers,
    scripted,
    until,
)
from shoal.core.errors import ModelDeadlineError, PoolProtocolError, PoolUnreachableError, ShoalError
from shoal.core.limits import POOL_HEADER_BYTES_MAX, POOL_RESPONSE_BYTES_MAX
from shoal.triton import connection as module
from shoal.triton.connection import Connection, connect

PATIENCE_S = 60.0
GET = b"GET /v2 HTTP/1.1\r\nHost: pool\r\n\r\n"


async def opened(server: ScriptedServer) -> Connection:
    host, _, port = server.address.rpartition(":")
    return await connect(host, int(port), now() + PATIENCE_S, lambda _: None)


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted() as running:
        yield running


async def test_a_connection_is_used_again(server: ScriptedServer) -> None:
    connection = await opened(server)
    for _ in range(3):
        reply = await connection.exchange([GET], now() + PATIENCE_S)
        assert (reply.status, reply.body, reply.header_length) == (200, b"{}", None)
        assert connection.usable()
    assert server.connections == 1
    connection.close()


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000])
async def test_bodies_of_any_size_pass_both_ways(server: ScriptedServer, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    server.otherwise = raw(http(200, body))
    connection = await opened(server)
    head = f"POST /x HTTP/1.1\r\nHost: pool\r\nContent-Length: {size}\r\n\r\n".encode()
    reply = await connection.exchange([head, memoryview(body)], now() + PATIENCE_S)
    assert reply.body == body
    assert server.seen[0].body == body
    connection.close()


@pytest.mark.parametrize("piece", [1, 7])
async def test_an_answer_in_pieces_is_put_together(server: ScriptedServer, piece: int) -> None:
    data = http(200, b"0123456789", "Inference-Header-Content-Length: 4")

    async def drip(exchange: Exchange) -> None:
        for start in range(0, len(data), piece):
            await exchange.send(data[start : start + piece])
            await asyncio.sleep(0)

    server.otherwise = drip
    connection = await opened(server)
    reply = await connection.exchange([GET], now() + PATIENCE_S)
    assert (reply.header_length, reply.body) == (4, b"0123456789")
    assert connection.usable()
    connection.close()


async def test_an_interim_answer_is_passed_by(server: ScriptedServer) -> None:
    server.otherwise = raw(b"HTTP/1.1 100 Continue\r\n\r\n" + http(200, b"yes"))
    connection = await opened(server)
    assert (await connection.exchange([GET], now() + PATIENCE_S)).body == b"yes"
    connection.close()


async def test_connection_close_is_honoured(server: ScriptedServer) -> None:
    server.otherwise = raw(http(200, b"bye", "Connection: close"))
    connection = await opened(server)
    assert (await connection.exchange([GET], now() + PATIENCE_S)).body == b"bye"
    assert not connection.reusable
    connection.close()


BROKEN: list[tuple[bytes, str]] = [
    (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP/1.1"),
    (b"\x00\xff" * 50, "not HTTP/1.1"),
    (b"HTTP/1.1 200 OK\r\n\r\n", "no Content-Length"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "not HTTP/1.1"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "not HTTP/1.1"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", "transfer-encoding"),
    (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\na", "content-encoding"),
    (f"HTTP/1.1 200 OK\r\nContent-Length: {POOL_RESPONSE_BYTES_MAX + 1}\r\n\r\n".encode(), "announces"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9" + b"9" * 30 + b"\r\n\r\n", "not HTTP/1.1"),
    (b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: -1\r\nContent-Length: 1\r\n\r\na", "-1"),
    (b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: " + b"9" * 40 + b"\r\n\r\n", "999"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"a" * (POOL_HEADER_BYTES_MAX + 10), "headers pass"),
    (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "not HTTP/1.1"),
]


@pytest.mark.parametrize(("data", "message"), BROKEN, ids=range(len(BROKEN)))
async def test_what_is_not_the_protocol_is_one_error(server: ScriptedServer, data: bytes, message: str) -> None:
    server.otherwise = raw(data)
    connection = await opened(server)
    with pytest.raises(PoolProtocolError, match=message):
        await connection.exchange([GET], now() + PATIENCE_S)
    assert not connection.reusable


async def test_a_second_answer_closes_the_connection_and_leaves_the_first_alone(server: ScriptedServer) -> None:
    server.otherwise = raw(http(200, b"a" * 10) + http(200, b"b" * 10))
    connection = await opened(server)
    assert (await connection.exchange([GET], now() + PATIENCE_S)).body == b"a" * 10
    assert not connection.usable()


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (reset_before_headers, "without an answer"),
        (close_after_request, "without an answer"),
        (close_after_headers, "in the middle of its answer"),
        (reset_after_headers, "closed the connection"),
    ],
)
async def test_a_connection_that_ends_says_how_far_it_came(
    server: ScriptedServer, behaviour: Behaviour, message: str
) -> None:
    server.otherwise = behaviour
    connection = await opened(server)
    with pytest.raises(PoolUnreachableError, match=message):
        await connection.exchange([GET], now() + PATIENCE_S)
    assert not connection.reusable


@pytest.mark.parametrize("behaviour", [hang, raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")])
async def test_a_deadline_ends_exchange_and_connection(server: ScriptedServer, behaviour: Behaviour) -> None:
    server.otherwise = behaviour
    connection = await opened(server)
    with pytest.raises(ModelDeadlineError):
        await connection.exchange([GET], now() + 0.05)
    await until(lambda: server.ended == 1)


async def test_a_cancel_closes_the_connection(server: ScriptedServer) -> None:
    server.otherwise = hang
    connection = await opened(server)
    task = asyncio.create_task(connection.exchange([GET], now() + PATIENCE_S))
    await until(lambda: len(server.seen) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: server.ended == 1)


async def test_an_idle_connection_the_server_closed_is_seen_before_the_loop_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_once, args=(listener,))
        thread.start()
        connection = await connect("127.0.0.1", listener.getsockname()[1], now() + PATIENCE_S, lambda _: None)
        await connection.exchange([GET], now() + PATIENCE_S)
        thread.join(PATIENCE_S)  # blocks the loop: it cannot hear that the server is gone
        assert connection.reusable
        assert not connection.usable()
        connection.close()


def answer_once(listener: socket.socket) -> None:
    accepted, _ = listener.accept()
    with accepted:
        accepted.recv(1000)
        accepted.sendall(http(200, b"{}"))


async def test_bytes_on_an_idle_connection_end_it(server: ScriptedServer) -> None:
    async def babble(exchange: Exchange) -> None:
        await ok(exchange)
        await exchange.send(b"HTTP/1.1 408 Too slow\r\n\r\n")

    server.otherwise = babble
    connection = await opened(server)
    await connection.exchange([GET], now() + PATIENCE_S)
    await until(lambda: not connection.usable())


async def test_nothing_listens() -> None:
    host, _, port = refused_address().rpartition(":")
    with pytest.raises(PoolUnreachableError, match=f"no connection to the pool at {host}:{port}"):
        await connect(host, int(port), now() + PATIENCE_S, lambda _: None)


async def test_opening_a_connection_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never, raising=False)
    monkeypatch.setattr(module, "POOL_CONNECT_SECONDS_MAX", 0.01)
    with pytest.raises(PoolUnreachableError, match="in time"):
        await connect("127.0.0.1", 1, now() + PATIENCE_S, lambda _: None)


async def test_random_bytes_never_hang_or_escape(server: ScriptedServer) -> None:
    rng = random.Random(11)
    parts = [
        b"HTTP/1.1 200 OK\r\n",
        b"Content-Length: 3\r\n",
        b"\r\n",
        b"abc",
        b": ",
        b"\n",
        b"Transfer-Encoding: x\r\n",
    ]
    for _ in range(200):
        chosen = rng.choices([*parts, rng.randbytes(5)], k=rng.randrange(1, 8))
        server.otherwise = raw(b"".join(chosen))
        connection = await opened(server)
        try:
            reply = await connection.exchange([GET], now() + 0.02)
            assert reply.status >= 200
        except ShoalError:
            pass
        connection.close()
