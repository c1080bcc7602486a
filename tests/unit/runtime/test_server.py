"""The connection's bounds and the listening socket, each in this process."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shoal.core.clock import FakeClock
from shoal.core.errors import UsageError
from shoal.runtime import protocol, server
from shoal.runtime.accesslog import Log
from shoal.runtime.app import App
from shoal.runtime.handlers import Registry
from shoal.runtime.lines import LineWriter
from shoal.runtime.listener import listen
from shoal.runtime.protocol import Config, FunctionProtocol, ServerState
from shoal.runtime.settings import Settings

PATIENCE_S = 60.0


@asynccontextmanager
async def listening(keep_alive_s: float = 100) -> AsyncIterator[int]:
    """Serve an empty function on a port of loopback."""
    loop = asyncio.get_running_loop()
    fd = os.open(os.devnull, os.O_WRONLY)
    log = Log(LineWriter(fd), FakeClock(), "s", "s-1", "error")
    app = App(server.assemble(Settings(), Registry(), loop, log))
    config = Config(
        app, loop="none", http="httptools", ws="none", lifespan="off", log_config=None, access_log=False,
        interface="asgi3", proxy_headers=False, server_header=False, timeout_keep_alive=keep_alive_s,
    )  # fmt: skip
    config.load()
    state = ServerState()
    accepting = await loop.create_server(lambda: FunctionProtocol(config, state, {}, loop), "127.0.0.1", 0)
    try:
        yield accepting.sockets[0].getsockname()[1]
    finally:
        accepting.close()
        os.close(fd)


async def talk(port: int, *pieces: bytes) -> bytes:
    """Send pieces, each in a packet of its own, and read until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(PATIENCE_S):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        text = await reader.read()
    writer.close()
    return text


def problem(text: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = text.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def test_a_head_that_does_not_come_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_SECONDS_MAX", 0.05)
    async with listening() as port:
        status, document = problem(await talk(port, b"GET / HTTP/1.1\r\nhost: x\r\n"))
    assert (status, document["code"]) == (408, "slow-request")


async def test_a_head_in_pieces_is_one_request() -> None:
    async with listening() as port:
        text = await talk(port, b"GET /_shoal/li", b"ve HTTP/1.1\r\nho", b"st: x\r\nconnection: clo", b"se\r\n\r\n")
    assert text.startswith(b"HTTP/1.1 200 ")


async def test_a_head_that_grows_past_its_limit_in_pieces_is_431(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_BYTES_MAX", 1000)
    async with listening() as port:
        status, _ = problem(await talk(port, b"GET / HTTP/1.1\r\n", *[b"x: " + b"a" * 200 + b"\r\n"] * 6))
    assert status == 431


async def test_a_large_body_is_not_taken_for_a_large_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_BYTES_MAX", 1000)
    head = b"POST /_shoal/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 50000\r\n\r\n"
    async with listening() as port:
        assert (await talk(port, head + b"x" * 50_000)).startswith(b"HTTP/1.1 200 ")
        assert (await talk(port, head, b"x" * 50_000)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"", b"GET /_shoal/live HTTP/1.1\r\nhost: x\r\n\r\n"])
async def test_a_connection_that_stays_silent_is_closed(sent: bytes) -> None:
    async with listening(keep_alive_s=0.05) as port:
        text = await talk(port, sent)
    assert text.startswith(b"HTTP/1.1 200 ") == bool(sent)


async def test_an_upgrade_is_answered_as_a_plain_request() -> None:
    asked = b"GET /_shoal/live HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: h2c\r\n\r\n"
    async with listening() as port:
        assert (await talk(port, asked)).startswith(b"HTTP/1.1 200 ")


async def test_http_1_0_is_answered_and_closed() -> None:
    async with listening() as port:
        text = await talk(port, b"GET /_shoal/live HTTP/1.0\r\n\r\n")
    assert b"\r\nconnection: close\r\n" in text


def test_an_inherited_socket_is_used_as_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        inherited = os.dup(mine.fileno())
        with listen(replace(Settings(), listen_fd=inherited)) as listener:
            assert listener.getsockname() == mine.getsockname()
            assert not listener.getblocking()


def test_a_bound_socket_that_does_not_listen_yet_is_made_to() -> None:
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", 0))
        with (
            listen(replace(Settings(), listen_fd=os.dup(mine.fileno()))),
            socket.create_connection(mine.getsockname(), timeout=PATIENCE_S),
        ):
            pass


def test_a_descriptor_that_is_no_socket_is_told(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    with pytest.raises(UsageError, match="SHOAL_LISTEN_FD is"):
        listen(replace(Settings(), listen_fd=fd))
    os.close(fd)


def test_host_and_port_may_be_of_ip_6() -> None:
    if not socket.has_ipv6:
        pytest.skip("this system has no IPv6")
    with listen(Settings(host="::1", port=0)) as listener:
        assert listener.family is socket.AF_INET6


def test_a_host_that_is_none_is_told() -> None:
    with pytest.raises(UsageError, match="HOST and PORT are 'no such host'"):
        listen(Settings(host="no such host", port=0))


def test_handler_threads_are_noticed_and_not_waited_for() -> None:
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, name=f"{server._THREAD_NAME}_0", daemon=True)
    thread.start()
    assert not server.threads_ended()
    gate.set()
    thread.join()
    assert server.threads_ended()
