"""A pool replica that behaves as scripted, one behaviour per request, and tritonclient's codec as the oracle."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

PATIENCE_S = 60.0  # for conditions: the machine may stand still for a while


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def header(self) -> dict[str, Any]:
        """The JSON part of an inference request."""
        length = int(self.headers["inference-header-content-length"])
        parsed: dict[str, Any] = json.loads(self.body[:length])
        return parsed

    @property
    def raw(self) -> bytes:
        """The binary part of an inference request."""
        return self.body[int(self.headers["inference-header-content-length"]) :]


@dataclass
class Exchange:
    """What a behaviour may use."""

    seen: Seen
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Behaviour = Callable[[Exchange], Awaitable[None]]


def http(status: int, body: bytes, *headers: str) -> bytes:
    """Write a whole HTTP answer."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answer(outputs: Sequence[dict[str, Any]], raw: bytes, **extra: Any) -> tuple[bytes, int]:
    """Write an inference answer's body; gives it with the length of its JSON part."""
    header = json.dumps({"model_name": "m", "model_version": "1", "outputs": list(outputs), **extra}).encode()
    return header + raw, len(header)


def echo_bytes(seen: Seen) -> bytes:
    """Answer each input as the output ``y`` (then ``y1``, ...)."""
    outputs = []
    for index, one in enumerate(seen.header["inputs"]):
        outputs.append({**one, "name": "y" if index == 0 else f"y{index}"})
    extra = {"id": seen.header["id"]} if "id" in seen.header else {}
    body, length = answer(outputs, seen.raw, **extra)
    return http(200, body, f"Inference-Header-Content-Length: {length}")


async def ok(exchange: Exchange) -> None:
    """Echo an inference; answer any question with ``{}``."""
    seen = exchange.seen
    await exchange.send(echo_bytes(seen) if seen.path.endswith("/infer") else http(200, b"{}"))


def status(code: int, text: str) -> Behaviour:
    """Answer with an error as Triton writes it."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(http(code, json.dumps({"error": text}).encode()))

    return behave


def raw(data: bytes) -> Behaviour:
    """Send these bytes and leave the connection open."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(data)

    return behave


async def reset_before_headers(exchange: Exchange) -> None:
    """RST without a byte of an answer."""
    exchange.reset()


async def close_after_headers(exchange: Exchange) -> None:
    """FIN in the middle of an answer."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    exchange.writer.close()


async def reset_after_headers(exchange: Exchange) -> None:
    """RST in the middle of an answer; what the client has not read by then is lost to it."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    exchange.reset()


async def close_after_request(exchange: Exchange) -> None:
    """FIN without an answer."""
    exchange.writer.close()


async def ok_then_close(exchange: Exchange) -> None:
    """Answer, then close the connection that the client takes for idle."""
    await ok(exchange)
    exchange.writer.close()
    await exchange.writer.wait_closed()


async def hang(exchange: Exchange) -> None:
    """Answer nothing until the client goes away."""
    await exchange.reader.read()


@dataclass
class ScriptedServer:
    """A replica on loopback; ``script`` is used up one behaviour per request, then ``otherwise``."""

    script: list[Behaviour] = field(default_factory=list)
    otherwise: Behaviour = ok
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    ended: int = 0
    address: str = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while not writer.is_closing():
                request = await _read(reader)
                self.seen.append(request)
                behaviour = self.script.pop(0) if self.script else self.otherwise
                await behaviour(Exchange(request, reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.ended += 1
            writer.close()

    @property
    def infers(self) -> int:
        return sum(one.path.endswith("/infer") for one in self.seen)


async def _read(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Seen(method, path, headers, body)


@asynccontextmanager
async def scripted(*script: Behaviour, otherwise: Behaviour = ok) -> AsyncIterator[ScriptedServer]:
    """Run a scripted replica; every connection has ended when this returns."""
    replica = ScriptedServer(list(script), otherwise)
    handlers: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        with suppress(asyncio.CancelledError):  # ours, at the end
            await replica(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=2**26)
    host, port = server.sockets[0].getsockname()[:2]
    replica.address = f"{host}:{port}"
    try:
        yield replica
    finally:
        server.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await server.wait_closed()


async def until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait for a condition, letting the loop run."""
    async with asyncio.timeout(patience_s):
        while not condition():
            await asyncio.sleep(0.001)


def refused_address() -> str:
    """Give an address on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return f"127.0.0.1:{port}"


def oracle(module: str) -> ModuleType:
    """Give a module of tritonclient.http, as ``_utils``, without its package, which wants gevent."""
    import tritonclient

    name = f"shoal_oracle_{module}"
    if name not in sys.modules:
        path = Path(tritonclient.__path__[0]) / "http" / f"{module}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        sys.modules[name] = loaded
    return sys.modules[name]
