"""What the gateway's and the broker's servers share: aiohttp with the limits it leaves open, and a clean end.

A connection must bring a complete request head within the idle limit, header fields are counted, connections are
bounded, and what is not HTTP/1.1 is answered with a problem and one log line instead of a traceback.
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientPayloadError, hdrs, web
from aiohttp.http_exceptions import LineTooLong

from shoal.core import limits
from shoal.core.errors import (
    BodyTooLargeError,
    HeadersTooLargeError,
    PlatformError,
    RequestError,
    ShoalError,
    SlowRequestError,
)
from shoal.platform.local import problems
from shoal.runtime.lines import LineWriter

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
OUTPUT: Final = LineWriter(1)  # stdout
FAILED_EXIT: Final = 1  # of a process that ended for what may not last: it is worth another start
REFUSED_EXIT: Final = 3  # of one that cannot start for a reason that stays; a problem is its last line
_LOG_CLOSE_SECONDS: Final = 1.0
_BACKLOG: Final = 1024  # connections the kernel keeps while this process restarts


class Server(web.Server):
    """A listening server's requests and connections, at most ``connections_max`` of these.

    A connection that has brought no complete request head for ``idle_s`` seconds is closed.
    """

    def __init__(
        self, handler: Handler, connections_max: int, *, idle_s: float = limits.GATEWAY_IDLE_SECONDS_MAX
    ) -> None:
        super().__init__(
            self._handle,
            handler_cancellation=True,  # who went away is not worked for
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=idle_s,
            max_line_size=limits.GATEWAY_FIELD_BYTES_MAX,
            max_field_size=limits.GATEWAY_FIELD_BYTES_MAX,
            max_headers=limits.GATEWAY_FIELDS_MAX,
        )
        self.connections_max = connections_max
        self._handler = handler
        self._draining = False

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        response = await self._handler(request)
        if self._draining:
            response.force_close()  # says so in the answer: the next request belongs on another connection
        return response

    async def drain(self, seconds: float) -> None:
        """Finish what is in flight, at most ``seconds``, then close every connection."""
        self._draining = True
        self.pre_shutdown()
        await self.shutdown(seconds)

    def __call__(self) -> web.RequestHandler:
        """Make the protocol of one connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    """One connection; refuses what is not HTTP in the platform's own form."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or close it at once when there are too many."""
        super().connection_made(transport)
        manager = self._manager
        if isinstance(manager, Server) and len(manager.connections) > manager.connections_max:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the parser or a handler could not cope with, and log one line."""
        error = _as_problem(status, exc)
        log("error" if error.status >= 500 else "warning", error.message, component=error.component)
        if request.writer.output_size > 0:
            raise ConnectionError("part of the answer is sent already")
        return problems.response(error, close=True)


def _as_problem(status: int, exc: BaseException | None) -> ShoalError:
    if isinstance(exc, LineTooLong):
        return HeadersTooLargeError(
            f"the request line or a header field passes the limit of {limits.GATEWAY_FIELD_BYTES_MAX} bytes"
        )
    if status < 500:
        return RequestError("the request is not well-formed HTTP/1.1")
    return PlatformError(f"an internal error ({type(exc).__name__}); {HTTPStatus(500).description}")


async def read_body(request: web.BaseRequest, bytes_max: int, seconds_max: float) -> bytes:
    """Read a body whole; BodyTooLargeError, SlowRequestError, or RequestError when its framing is broken."""
    if (request.content_length or 0) > bytes_max:
        raise too_large(bytes_max)
    await welcome_body(request)
    chunks: list[bytes] = []
    left = bytes_max
    try:
        async with asyncio.timeout(seconds_max):
            async for chunk in request.content.iter_any():
                chunks.append(chunk)
                left -= len(chunk)
                if left < 0:
                    raise too_large(bytes_max)
    except TimeoutError:
        raise SlowRequestError(f"the body did not arrive within {seconds_max:g} s") from None
    except (web.RequestPayloadError, ClientPayloadError) as error:
        raise RequestError(f"the request's body is broken: {error}") from error
    return b"".join(chunks)


async def welcome_body(request: web.BaseRequest) -> None:
    """Tell a caller that waits to be told so that its body may come."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # of the answer itself nothing is written yet


def too_large(bytes_max: int) -> BodyTooLargeError:
    """Say that a body passes its limit (bytes)."""
    return BodyTooLargeError(f"the body passes the limit of {bytes_max} bytes")


def single_host(request: web.BaseRequest) -> str:
    """Give the Host header; RequestError unless there is exactly one."""
    hosts = request.headers.getall(hdrs.HOST, [])
    if len(hosts) != 1:
        raise RequestError(f"a request has one Host header; this one has {len(hosts)}")
    return hosts[0]


def check_headers(request: web.BaseRequest) -> None:
    """Raise HeadersTooLargeError when all header fields together pass their limit."""
    size = sum(len(name) + len(value) for name, value in request.raw_headers)
    if size > limits.HEADER_BYTES_MAX:
        raise HeadersTooLargeError(f"the header fields have {size} bytes; the limit is {limits.HEADER_BYTES_MAX}")


def log(level: str, message: str, **fields: Any) -> None:
    """Write one JSON line to stdout."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    OUTPUT.write(json.dumps({"time": time, "level": level, "message": message, **fields}) + "\n")


def refuse(error: ShoalError) -> int:
    """Tell on stderr why this process cannot serve; gives its exit code, by which its parent knows what lasts."""
    line = {"level": "error", "message": error.message, **problems.document(error)}
    print(json.dumps(line), file=sys.stderr, flush=True)
    return FAILED_EXIT if error.temporary else REFUSED_EXIT


def inherited_socket(fd: int) -> socket.socket:
    """Take over a listening socket from the parent process."""
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock


async def serve_control(app: web.Application, path: Path) -> web.AppRunner:
    """Serve a control application on a unix socket only the owner may open, replacing what a dead process left."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    path.unlink(missing_ok=True)
    await web.UnixSite(runner, str(path)).start()
    path.chmod(0o600)
    return runner


async def serve_until_signal(server: Server, sock: socket.socket, drain_s: float) -> None:
    """Serve on ``sock`` until SIGTERM or SIGINT, then finish what is in flight within ``drain_s`` seconds."""
    loop = asyncio.get_running_loop()
    OUTPUT.attach(loop)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    listener = await loop.create_server(server, sock=sock, backlog=_BACKLOG)
    await stop.wait()
    listener.close()
    log("info", f"stopping; {len(server.connections)} connections get {drain_s:g} s to finish")
    await server.drain(drain_s)
    OUTPUT.close(_LOG_CLOSE_SECONDS)


def raise_file_limit() -> None:
    """Let this process open as many files as it may: every request can need two connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
