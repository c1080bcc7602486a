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
from dataclasses import dataclass, field
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
                [
                    sys.executable,
                    "-m",
                    self.module,
                    "--fd",
                    str(fd),
                    "--home",
                    str(self.home.root),
                    *self.arguments,
                ],
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
        whole, _, _ = self.log.read_text().rpartition("\n")  # the last line may be on its way
        return [json.loads(line) for line in whole.splitlines()]


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


async def control(child: Child, method: str, path: str, body: Any = None) -> Any:
    """One call on a process's control socket; waits until it is there, and fails when the process has ended."""
    sock = child.home.socket(child.module.rpartition(".")[2])
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(sock))) as session,
                session.request(method, f"http://x{path}", json=body) as answer,
            ):
                document = await answer.json(content_type=None)
                assert answer.status == 200, document
                return document
        except (aiohttp.ClientConnectionError, OSError):
            if asyncio.get_running_loop().time() > deadline:
                raise
            assert child.process is None or child.process.poll() is None, child.log.read_text()[-2000:]
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


def routes(
    functions: dict[str, Any], revisions: dict[str, list[int]], *, generation: int = 1, concurrency: int = 16
) -> Any:
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


@dataclass
class Front:
    home: Home
    child: Child
    node: FakeNode
    session: aiohttp.ClientSession

    async def put(self, document: Any) -> Any:
        return await control(self.child, "PUT", "/routes", document)

    async def load(self, revision: str) -> Any:
        return (await control(self.child, "GET", "/load"))["revisions"].get(revision)

    async def has_load(self, revision: str, **wanted: int) -> bool:
        load = await self.load(revision) or {}
        return all(load.get(name) == count for name, count in wanted.items())

    async def idle(self, revision: str) -> bool:
        return await self.has_load(revision, in_flight=0, held=0)

    def call(self, method: str, path: str = "/", *, host: str = "", **options: Any) -> Any:
        headers = {**options.pop("headers", {})}
        if host:
            headers["Host"] = host
        url = f"http://127.0.0.1:{self.child.port}{path}"
        return self.session.request(method, url, headers=headers, allow_redirects=False, **options)

    async def fetch(self, method: str, path: str = "/", **options: Any) -> tuple[int, str]:
        """Call and give status and text."""
        async with self.call(method, path, **options) as answer:
            return answer.status, await answer.text()

    async def raw(self, data: bytes, *, until_eof: bool = True) -> bytes:
        """Send bytes as they are and read until the other side ends, or until the first answer's head is there."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.child.port)
        try:
            writer.write(data)
            async with asyncio.timeout(PATIENCE_S):
                return await (reader.read(-1) if until_eof else reader.readuntil(b"\r\n\r\n"))
        finally:
            writer.close()


@asynccontextmanager
async def running_gateway(folder: Path) -> AsyncIterator[Front]:
    """A gateway process with a node's socket beside it."""
    home = make_home(folder)
    child = Child("shoal.platform.local.gateway", home)
    child.start()
    node = FakeNode(home)
    try:
        async with node.running(), aiohttp.ClientSession(auto_decompress=False) as session:
            yield Front(home, child, node, session)
    finally:
        child.close()


@dataclass
class Functions:
    """Stands where the gateway does: records what arrives and answers as told."""

    answers: dict[str, list[web.Response]] = field(default_factory=dict)  # function -> its next answers; then 204
    making: dict[str, list[Callable[[], Awaitable[web.Response]]]] = field(
        default_factory=dict
    )  # the same, made late
    seen: list[dict[str, Any]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        function = request.host.removesuffix(".localhost")
        body = await request.read()
        self.seen.append({"function": function, "headers": dict(request.headers), "body": body})
        if self.making.get(function):
            return await self.making[function].pop(0)()
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
        await control(self.child, "PUT", "/triggers", document)

    def publish(
        self, identity: str, kind: str = "x", *, body: bytes = b"{}", path: str = "/default", **extra: str
    ) -> Any:
        headers = {"ce-id": identity, "ce-source": "/t", "ce-type": kind, "ce-specversion": "1.0"}
        headers |= {"content-type": "application/json"} | {f"ce-{key}": value for key, value in extra.items()}
        return self.session.post(f"http://127.0.0.1:{self.child.port}{path}", headers=headers, data=body)

    async def stats(self) -> dict[str, int]:
        return await control(self.child, "GET", "/stats")

    async def refused(self, method: str, path: str, body: Any = None) -> Any:
        """Call the control socket and give the problem it answers."""
        connector = aiohttp.UnixConnector(str(self.home.socket("broker")))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://x{path}", json=body) as answer,
        ):
            problem = await answer.json(content_type="application/problem+json")
            assert answer.status == problem["status"]
            return problem

    async def settled(self, **wanted: int) -> None:
        async def reached() -> bool:
            stats = await self.stats()
            return all(stats[name] == count for name, count in wanted.items())

        await until(reached, f"for {wanted}")


@asynccontextmanager
async def running_broker(folder: Path, *arguments: str) -> AsyncIterator[Mail]:
    """A broker process, with functions in the gateway's place."""
    home = make_home(folder)
    child = Child("shoal.platform.local.broker", home, *arguments)
    child.start()
    functions = Functions()
    try:
        async with upstream(functions.handle) as port, aiohttp.ClientSession() as session:
            yield Mail(home, child, functions, f"http://127.0.0.1:{port}", session)
    finally:
        child.close()
