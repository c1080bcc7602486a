"""Real processes of the gateway and the broker, a node's socket to stand beside them, and small real upstreams."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from shoal.platform.local.layout import Home, home_of

PATIENCE_S = 60.0  # generous: the machine may pause
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def listen() -> tuple[socket.socket, int]:
    """Bind a loopback port the kernel chooses, as the node does for its children."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=512)
    return sock, sock.getsockname()[1]


def make_home(folder: Path) -> Home:
    home = home_of(folder / "home")
    home.make()
    return home


class Child:
    """One process under test, on a listening socket that outlives it."""

    def __init__(self, module: str, home: Home, *arguments: str) -> None:
        self.module, self.home, self.arguments = module, home, arguments
        self.sock, self.port = listen()
        self.log = home.root / f"{module.rpartition('.')[2]}.out"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        fd = self.sock.fileno()
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, "--fd", str(fd), "--home", str(self.home.root), *self.arguments],
                pass_fds=[fd],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        self.kill()
        self.sock.close()

    def lines(self) -> list[dict[str, Any]]:
        """Its log so far, as JSON; what is not JSON fails the test that reads it."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


async def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait until ``condition()`` gives something true, and give it."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"waited {PATIENCE_S} s in vain {what}")
        await asyncio.sleep(0.02)


async def control(home: Home, component: str, method: str, path: str, body: Any = None) -> Any:
    """One call on a control socket; waits for the process to have it."""
    sock = home.socket(component)
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(sock))) as session:
                async with session.request(method, f"http://x{path}", json=body) as answer:
                    document = await answer.json(content_type=None)
                    assert answer.status == 200, document
                    return document
        except (aiohttp.ClientConnectionError, OSError):
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.02)


class FakeNode:
    """node.sock: answers activations from ``instances`` (revision -> ports), or with ``refusal``."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.instances: dict[str, list[int]] = {}
        self.refusal: web.Response | None = None
        self.gate = asyncio.Event()  # activations are held until it is set
        self.gate.set()
        self.activations: list[str] = []
        self.documents: dict[str, Any] = {"/v1/status": {}, "/v1/functions": []}

    async def activate(self, request: web.Request) -> web.Response:
        revision = request.match_info["revision"]
        self.activations.append(revision)
        await self.gate.wait()
        if self.refusal is not None:
            return self.refusal
        return web.json_response({"endpoints": endpoints(*self.instances.get(revision, []))})

    async def document(self, request: web.Request) -> web.Response:
        return web.json_response(self.documents[request.path])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeNode]:
        app = web.Application()
        app.router.add_post("/v1/activate/{revision}", self.activate)
        app.router.add_get("/v1/{name}", self.document)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        path = self.home.socket("node")
        path.unlink(missing_ok=True)
        await web.UnixSite(runner, str(path)).start()
        try:
            yield self
        finally:
            await runner.cleanup()


def endpoints(*ports: int) -> list[dict[str, Any]]:
    return [{"id": f"i-{port}", "port": port} for port in ports]


def routes(functions: dict[str, Any], revisions: dict[str, list[int]], *, generation: int = 1, concurrency: int = 16) -> Any:
    """A table: ``functions`` is name -> {revision: percent} or a full document."""
    full = {
        name: value
        if "targets" in value
        else {"targets": [{"revision": r, "percent": p} for r, p in value.items()], "tags": {}, "timeout_s": 30.0}
        for name, value in functions.items()
    }
    return {
        "generation": generation,
        "functions": full,
        "revisions": {
            name: {"endpoints": endpoints(*ports), "concurrency": concurrency} for name, ports in revisions.items()
        },
    }


@asynccontextmanager
async def upstream(handler: Handler, **options: Any) -> AsyncIterator[int]:
    """A real server with one handler for everything; gives its port."""
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_route("*", "/{rest:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, **options)
    await runner.setup()
    sock, port = listen()
    sock.setblocking(False)
    await web.SockSite(runner, sock).start()
    try:
        yield port
    finally:
        await runner.cleanup()


def saying(text: str) -> Handler:
    """A handler that answers ``text``."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=text, headers={"shoal-revision": text})

    return handler
