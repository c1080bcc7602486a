"""A handler's response onto the wire: checked before its first byte, then sent whole or as a stream.

A whole answer takes a short way past ASGI where the server offers one: its head is put together from ready-made
pieces and leaves with the body in one write, at a quarter of the cost of two ASGI messages.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, Protocol

from shoal.core.errors import HandlerError
from shoal.runtime.asgi import Send
from shoal.runtime.messages import Response

Pairs = list[tuple[bytes, bytes]]
STATUS_MIN, STATUS_MAX = 200, 599
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2: token
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS: Final = frozenset(
    {"content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "trailer", "date",
     "x-request-id", "shoal-revision", "shoal-models"}
)  # fmt: skip
_BODILESS: Final = frozenset({204, 205, 304})
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_STATUS_LINES: Final = {
    status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode()
    for status in range(STATUS_MIN, STATUS_MAX + 1)
}


class Line(Protocol):
    """The server's short way: one write for a whole answer."""

    def write_whole(self, head: bytes, body: bytes, *, close: bool) -> bool:
        """Write an answer whose head still lacks its empty line; False if that is not possible now."""
        ...


class Common:
    """The headers of every answer of a process, and whether answers end their connections."""

    def __init__(self, fixed: Pairs) -> None:
        self.closing = False
        self._fixed = fixed
        self._date = b""
        self._make()

    def set_date(self, date: bytes) -> None:
        """Tell answers the time from now on."""
        self._date = date
        self._make()

    def _make(self) -> None:
        self.pairs: Pairs = [*self._fixed, *([(b"date", self._date)] if self._date else [])]
        self.raw = lines(self.pairs)


def lines(pairs: Pairs) -> bytes:
    """Give headers as they look on the wire."""
    return b"".join(b"%s: %s\r\n" % pair for pair in pairs)


def status_line(status: int) -> bytes:
    """Give the first line of an answer."""
    return _STATUS_LINES[status]


class Answer:
    """The one answer to one request; set ``request_id`` before sending."""

    __slots__ = ("_common", "_head", "_line", "_send", "close", "request_id", "started")

    def __init__(self, send: Send, common: Common, method: str, line: Line | None = None) -> None:
        self.started = False
        self.close = common.closing  # the connection ends with this answer
        self.request_id = ""
        self._send = send
        self._common = common
        self._line = line
        self._head = method == "HEAD"

    async def send(self, response: Response) -> None:
        """Send ``response``; HandlerError before the first byte if its status, headers or body are not sendable."""
        if not isinstance(response.status, int) or response.status not in _STATUS_LINES:
            raise HandlerError(
                f"the handler answered status {response.status!r}; it must be from {STATUS_MIN} to {STATUS_MAX}"
            )
        if isinstance(response.body, bytes):
            await self._send_messages(response, response.body)
        else:
            await self._stream(response, response.body)

    def send_at_once(self, response: Response) -> bool:
        """Send what can be sent without waiting: a whole answer, the short way; False leaves it to ``send``."""
        body, line, first = response.body, self._line, _STATUS_LINES.get(response.status)
        if line is None or first is None or not isinstance(body, bytes):
            return False
        head = [first, self._common.raw, b"x-request-id: ", self.request_id.encode()]
        for item in response.headers.items():
            head.append(_encode_line(*item))
        if response.status in _BODILESS:
            head.append(b"\r\n")
            body = b""
        else:
            head.append(b"\r\ncontent-length: %d\r\n" % len(body))
        self.started = line.write_whole(b"".join(head), b"" if self._head else body, close=self.close)
        return self.started

    async def _send_messages(self, response: Response, body: bytes) -> None:
        headers = self._headers(response)
        if response.status in _BODILESS:
            body = b""
        else:
            headers.append((b"content-length", b"%d" % len(body)))
        await self._start(response.status, headers)
        await self._send({"type": "http.response.body", "body": body})

    def _headers(self, response: Response) -> Pairs:
        headers = [*self._common.pairs, (b"x-request-id", self.request_id.encode())]
        for name, value in response.headers.items():
            if (pair := _encode(name, value)) is not None:
                headers.append(pair)
        if self.close:
            headers.append((b"connection", b"close"))
        return headers

    async def _start(self, status: int, headers: Pairs) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _stream(self, response: Response, chunks: AsyncIterator[bytes]) -> None:
        """Send chunk by chunk; the first one is awaited before the head, so that its failure still has a status."""
        try:
            headers = self._headers(response)
            chunk = b"" if self._head else await anext(chunks, b"")
            _check_chunk(chunk)
            await self._start(response.status, headers)
            if not self._head:
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
                async for chunk in chunks:
                    _check_chunk(chunk)
                    await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            await self._send({"type": "http.response.body", "body": b""})
        finally:
            if (close := getattr(chunks, "aclose", None)) is not None:
                await close()


def _check_chunk(chunk: Any) -> None:
    if not isinstance(chunk, bytes):
        raise HandlerError(f"the handler's stream yielded {type(chunk).__name__}; it must yield bytes")


@lru_cache(maxsize=256)
def _encode(name: str, value: str) -> tuple[bytes, bytes] | None:
    """Give a header as bytes, None for those the server sets itself, HandlerError for one that cannot be sent."""
    lowered = str(name).lower()
    if lowered in _OURS:
        return None
    if not isinstance(value, str) or not _NAME.fullmatch(lowered) or not _VALUE.fullmatch(value):
        raise HandlerError(f"the handler's header {str(name)[:100]!r} has a name or value that HTTP does not take")
    return lowered.encode("ascii"), value.encode("latin-1")


@lru_cache(maxsize=256)
def _encode_line(name: str, value: str) -> bytes:
    """Give a header as bytes that follow a line without its end; empty for those the server sets itself."""
    pair = _encode(name, value)
    return b"" if pair is None else b"\r\n%s: %s" % pair
