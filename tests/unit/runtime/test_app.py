"""The application over plain ASGI, without a server: the long way of answering, and what servers may send."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from helpers_handlers import clean_imports, load
from shoal.core.clock import FakeClock
from shoal.core.errors import HandlerError
from shoal.runtime.accesslog import Log
from shoal.runtime.answer import Answer, Common
from shoal.runtime.app import App
from shoal.runtime.function import Function
from shoal.runtime.lines import LineWriter
from shoal.runtime.messages import Response
from shoal.runtime.readiness import Readiness
from shoal.runtime.server import assemble
from shoal.runtime.settings import Settings

CODE = """
    import asyncio
    from shoal import Response, http

    @http
    async def echo(body: dict) -> dict:
        return body

    @http(path="/stream")
    async def stream():
        yield b"one"
        yield b"two"

    @http(path="/wrong-stream")
    async def wrong_stream():
        async def chunks():
            yield 5
        return Response(chunks())
"""
Make = Callable[..., Function]


@dataclass
class Caller:
    """The other side of one ASGI request."""

    messages: list[dict[str, Any]]
    sent: list[dict[str, Any]] = field(default_factory=list)

    async def receive(self) -> dict[str, Any]:
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.pop(0)

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Give a maker of functions that live in the running loop."""
    fd = os.open(os.devnull, os.O_WRONLY)

    def make_function(code: str = CODE, **settings: Any) -> Function:
        known = Settings(service="echo", revision="echo-00001", log_level="error", **settings)
        log = Log(LineWriter(fd), FakeClock(), "echo", "echo-00001", "error")
        loop = asyncio.get_running_loop()
        function = assemble(known, load(tmp_path / "function", code), loop, log)
        function.bits = Random(1).getrandbits
        function.readiness.open_if_clear()
        return function

    with clean_imports():
        yield make_function
    os.close(fd)


async def ask(function: Function, *messages: dict[str, Any], path: str = "/", **headers: str) -> Caller:
    """Send one request through the application."""
    caller = Caller(list(messages) or [part(b"{}")])
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": pairs}
    async with asyncio.timeout(60):
        await App(function)(scope, caller.receive, caller.send)
    return caller


async def test_a_whole_answer_is_two_messages(make: Make) -> None:
    caller = await ask(make(), part(b'{"a": 1}'))
    assert [message["type"] for message in caller.sent] == ["http.response.start", "http.response.body"]
    assert (caller.status, caller.body) == (200, b'{"a":1}')
    assert caller.headers["content-length"] == "7"
    assert caller.headers["shoal-revision"] == "echo-00001"


async def test_a_body_in_parts_is_joined(make: Make) -> None:
    caller = await ask(make(), part(b'{"a"', more=True), part(b": ", more=True), part(b"1}"))
    assert caller.body == b'{"a":1}'


async def test_a_body_that_grows_past_its_limit_is_413_and_its_rest_dropped(make: Make) -> None:
    caller = await ask(make(body_bytes_max=10), part(b"x" * 8, more=True), part(b"x" * 8, more=True), part(b"x"))
    assert caller.status == 413
    assert caller.messages == []
    assert caller.headers["connection"] == "close"


async def test_too_many_bodies_on_their_way_are_503(make: Make) -> None:
    function = make(concurrency=1)
    function.uploads = function.admission.slots + function.admission.queue_max
    caller = await ask(function, part(b"{", more=True), part(b"}"))
    assert (caller.status, caller.headers["retry-after"]) == (503, "1")
    assert (await ask(function)).status == 200  # a body that is there whole needs no waiting


async def test_bodies_on_their_way_are_counted_back(make: Make) -> None:
    function = make()
    await ask(function, part(b"{", more=True), part(b"}"))
    await ask(function, part(b"{", more=True), {"type": "http.disconnect"})
    assert function.uploads == 0


async def test_a_caller_that_leaves_before_its_body_is_answered_nothing(make: Make) -> None:
    assert (await ask(make(), {"type": "http.disconnect"})).sent == []


async def test_a_stream_is_one_message_per_chunk(make: Make) -> None:
    caller = await ask(make(), path="/stream")
    assert [message.get("body") for message in caller.sent[1:]] == [b"one", b"two", b""]
    assert [message.get("more_body", False) for message in caller.sent[1:]] == [True, True, False]


async def test_a_stream_of_something_else_is_the_handlers_error(make: Make) -> None:
    assert (await ask(make(), path="/wrong-stream")).status == 500


async def test_after_drain_every_answer_ends_its_connection(make: Make) -> None:
    function = make()
    app = App(function)
    app.drain()
    caller = Caller([part(b"{}")])
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
    await app(scope, caller.receive, caller.send)
    assert caller.headers["connection"] == "close"
    assert not function.readiness.ready


async def test_every_slot_comes_back(make: Make) -> None:
    function = make()
    await asyncio.gather(
        *(ask(function, path=path) for path in ("/", "/stream", "/wrong-stream", "/robots.txt") * 30)
    )
    assert (function.admission.in_flight, function.admission.queued) == (0, 0)
    assert not function.watches.active


async def test_a_refused_connection_gets_a_whole_answer(make: Make) -> None:
    from shoal.core.errors import HeadersTooLargeError

    app = App(make())
    app.common.set_date(b"Thu, 01 Jan 1970 00:00:00 GMT")
    head, _, body = app.refusal(HeadersTooLargeError("too much")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"\r\ncontent-length: %d\r\n" % len(body) in head
    assert b"\r\nconnection: close" in head
    assert b"date: Thu, 01 Jan 1970" in head


async def send(response: Response) -> Caller:
    caller = Caller([])
    await Answer(caller.send, Common([]), "GET").send(response)
    return caller


@pytest.mark.parametrize("status", [99, 100, 199, 600, True, "200", None])
async def test_a_status_that_is_none_is_refused_before_the_first_byte(status: Any) -> None:
    with pytest.raises(HandlerError, match="it must be from 200 to 599"):
        await send(Response(b"", status))


@pytest.mark.parametrize(
    ("name", "value"),
    [("a b", "c"), ("", "c"), ("a:", "c"), ("a", "b\r\nc: d"), ("a", "b\0"), ("a", "€"), ("a", 5)],
)
async def test_a_header_that_cannot_be_sent_is_refused(name: str, value: Any) -> None:
    with pytest.raises(HandlerError, match="a name or value that HTTP does not take"):
        await send(Response(b"", headers={name: value}))


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_answers_without_a_body_have_none(status: int) -> None:
    caller = await send(Response(b"ignored", status))
    assert caller.body == b""
    assert "content-length" not in caller.headers


async def test_a_stream_is_closed_when_its_reader_fails() -> None:
    closed = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            yield b"two"
        finally:
            closed.append(True)

    async def broken(message: dict[str, Any]) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await Answer(broken, Common([]), "GET").send(Response(chunks()))
    assert closed == [True]


def test_readiness_tells_what_stands_in_the_way() -> None:
    readiness = Readiness()
    assert (readiness.ready, readiness.reason) == (False, "the process is starting")
    readiness.wait_for("a", "a is loading")
    readiness.wait_for("b", "b is loading")
    assert readiness.reason == "a is loading; b is loading"
    readiness.clear("a")
    assert not readiness.serving
    readiness.clear("b")
    assert (readiness.ready, readiness.serving, readiness.reason) == (True, True, "")


def test_after_the_start_a_lost_model_turns_the_probe_only() -> None:
    readiness = Readiness()
    readiness.open_if_clear()
    readiness.wait_for("a", "a is gone")
    assert (readiness.ready, readiness.serving) == (False, True)
    readiness.draining = True
    assert readiness.reason == "the process was told to stop"
