"""A handler's response onto the wire: checked before its first byte, then sent whole or as a stream."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import lru_cache
from typing import Any, Final

from shoal.core.errors import HandlerError
from shoal.runtime.messages import Response

Send = Callable[[dict[str, Any]], Awaitable[None]]
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2: token
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS: Final = frozenset(
    {"content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "trailer",
     "x-request-id", "shoal-revision", "shoal-models"}
)  # fmt: skip
_BODILESS: Final = frozenset({204, 205, 304})


class Answer:
    """The one answer to one request; ``common`` are every answer's headers; set ``request_id`` before sending."""

    __slots__ = ("_common", "_head", "_send", "request_id", "started")

    def __init__(self, send: Send, common: list[tuple[bytes, bytes]], method: str) -> None:
        self.started = False
        self.request_id = ""
        self._send = send
        self._common = common
        self._head = method == "HEAD"

    def close_after(self) -> None:
        """End the connection with this answer."""
        self._common = [*self._common, (b"connection", b"close")]

    async def send(self, response: Response) -> None:
        """Send ``response``; HandlerError before the first byte if its status, headers or body are not sendable."""
        body, status = response.body, response.status
        if type(status) is not int or not 200 <= status <= 599:
            raise HandlerError(f"the handler answered status {status!r}; it must be from 200 to 599")
        headers = self._headers(response)
        if status in _BODILESS:
            await self._start(status, headers)
            await self._send({"type": "http.response.body", "body": b""})
        elif isinstance(body, bytes):
            headers.append((b"content-length", b"%d" % len(body)))
            await self._start(status, headers)
            await self._send({"type": "http.response.body", "body": body})
        else:
            await self._stream(status, headers, body)

    def _headers(self, response: Response) -> list[tuple[bytes, bytes]]:
        headers = [*self._common, (b"x-request-id", self.request_id.encode("latin-1"))]
        for name, value in response.headers.items():
            if (pair := _encode(name, value)) is not None:
                headers.append(pair)
        return headers

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _stream(self, status: int, headers: list[tuple[bytes, bytes]], chunks: AsyncIterator[bytes]) -> None:
        """Send chunk by chunk; the first one is awaited before the head, so that its failure still has a status."""
        try:
            chunk = b"" if self._head else await anext(chunks, b"")
            _check_chunk(chunk)
            await self._start(status, headers)
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
    lowered = name.lower()
    if lowered in _OURS:
        return None
    if not _NAME.fullmatch(lowered) or not _VALUE.fullmatch(value):
        raise HandlerError(f"the handler's header {name[:100]!r} has a name or value that HTTP does not take")
    return lowered.encode("ascii"), value.encode("latin-1")
