"""One HTTP/1.1 connection to a replica, with one request in flight: bytes out, one bounded answer back.

Triton gives every answer a Content-Length, so nothing else is taken: what cannot be bounded beforehand is refused.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast

import httptools

from shoal.core.errors import ModelDeadlineError, PoolProtocolError, PoolUnreachableError, ShoalError
from shoal.core.limits import (
    POOL_CONNECT_SECONDS_MAX,
    POOL_HEADER_BYTES_MAX,
    POOL_JOIN_BYTES_MAX,
    POOL_RESPONSE_BYTES_MAX,
)
from shoal.triton.inputs import Buffer

_NO_BODY: Final = frozenset({204, 304})


class Reply(NamedTuple):
    """A whole answer; ``header_length`` is Inference-Header-Content-Length, None where it is absent."""

    status: int
    header_length: int | None
    body: bytes | bytearray


async def connect(host: str, port: int, deadline: float, on_lost: Callable[[Connection], None]) -> Connection:
    """Open a connection before ``deadline`` (loop time); PoolUnreachableError says why it did not work.

    ``on_lost`` is called once, when the connection has ended for whatever reason.
    """
    loop = asyncio.get_running_loop()
    limit = min(deadline, loop.time() + POOL_CONNECT_SECONDS_MAX)
    try:
        async with asyncio.timeout_at(limit):
            protocol: Connection
            _, protocol = await loop.create_connection(
                lambda: Connection(loop, f"{host}:{port}", on_lost), host, port
            )
    except TimeoutError:
        raise PoolUnreachableError(f"no connection to the pool at {host}:{port} in time") from None
    except OSError as error:
        raise PoolUnreachableError(
            f"no connection to the pool at {host}:{port} ({error.strerror or error})"
        ) from None
    return protocol


class Connection(asyncio.Protocol):
    """The client's end of one connection; made by ``connect``."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, address: str, on_lost: Callable[[Connection], None]
    ) -> None:
        self.address = address
        self._loop = loop
        self._on_lost = on_lost
        self._transport: Any = None
        self._poller = select.poll()
        self._parser: Any = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Reply] | None = None
        self._reusable = True
        self._reset()

    def _reset(self) -> None:
        self._received = 0
        self._status = 0
        self._expected: int | None = None
        self._header_length: int | None = None
        self._in_body = False
        self._body: bytes | bytearray = b""

    # What the pool of connections asks for.

    def usable(self) -> bool:
        """Whether a request may be sent: the server has neither closed this idle connection nor said anything.

        It looks at the socket itself, as the event loop may not have come round to an end that is already there.
        """
        return self._reusable and not self._transport.is_closing() and not self._poller.poll(0)

    @property
    def reusable(self) -> bool:
        """Whether the last exchange ended cleanly and the server keeps the connection."""
        return self._reusable and not self._transport.is_closing()

    def close(self) -> None:
        """End the connection at once, whatever is in flight."""
        self._reusable = False
        self._transport.abort()

    async def exchange(self, parts: Sequence[Buffer], deadline: float) -> Reply:
        """Send a request and give the whole answer; ends at ``deadline`` (loop time) with ModelDeadlineError.

        Raises PoolUnreachableError when the connection ends first (the request may have run), PoolProtocolError
        for an answer that is not HTTP or passes a limit. After any error, or a cancel, the connection is closed.
        """
        waiter: asyncio.Future[Reply] = self._loop.create_future()
        self._waiter = waiter
        timer = self._loop.call_at(deadline, self._expire)
        try:
            self._send(parts)
            return await waiter
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()
            self._waiter = None

    def _send(self, parts: Sequence[Buffer]) -> None:
        self._reset()
        if sum(map(_nbytes, parts)) <= POOL_JOIN_BYTES_MAX:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines([memoryview(part).cast("B") for part in parts if _nbytes(part)])

    def _expire(self) -> None:
        self._fail(ModelDeadlineError(f"no answer from the pool at {self.address} before the deadline"))

    def _fail(self, error: ShoalError) -> None:
        self._reusable = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; TCP_NODELAY is the event loop's default."""
        self._transport = transport
        self._poller.register(cast(int, transport.get_extra_info("socket").fileno()), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """Parse what came; anything outside an exchange ends the connection."""
        if self._waiter is None or self._waiter.done():
            self.close()
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail_parsing(error)
            return
        if not self._in_body and self._received > POOL_HEADER_BYTES_MAX and not self._waiter.done():
            self._fail(self._broken(f"its headers pass {POOL_HEADER_BYTES_MAX} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits: what was sent may have run, so this is never retried here."""
        where = "in the middle of its answer" if self._received else "without an answer"
        reason = f" ({exc})" if exc else ""
        self._fail(PoolUnreachableError(f"the pool at {self.address} closed the connection {where}{reason}"))
        self._on_lost(self)

    def _fail_parsing(self, error: Exception) -> None:
        cause = error.__context__
        self._fail(cause if isinstance(cause, ShoalError) else self._broken(f"it is not HTTP/1.1 ({error})"[:200]))

    def _broken(self, why: str) -> PoolProtocolError:
        return PoolProtocolError(f"the answer from the pool at {self.address} is refused: {why}")

    # httptools' callbacks

    def on_message_begin(self) -> None:
        """Refuse a second answer to one request."""
        if self._waiter is None or self._waiter.done():
            raise self._broken("a second answer came to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the two lengths; refuse encodings that hide the size."""
        lower = name.lower()
        if lower == b"content-length":
            self._expected = _length(value)
        elif lower == b"inference-header-content-length":
            self._header_length = _length(value)
            if self._header_length is None:
                raise self._broken(f"{name!r:.80} is {value!r:.80}")
        elif lower == b"transfer-encoding" or (lower == b"content-encoding" and value.lower() != b"identity"):
            raise self._broken(f"it comes with {lower.decode()}, which was not asked for")

    def on_headers_complete(self) -> None:
        """Check what is announced before it is taken in."""
        self._status = self._parser.get_status_code()
        self._in_body = self._status >= 200
        if self._status < 200 or self._status in _NO_BODY:
            return
        if self._expected is None:
            raise self._broken("it has no Content-Length")
        if self._expected > POOL_RESPONSE_BYTES_MAX:
            raise self._broken(f"it announces {self._expected} bytes, the limit is {POOL_RESPONSE_BYTES_MAX}")

    def on_body(self, chunk: bytes) -> None:
        """Collect the body: one piece stays as it is, more are put together as they come."""
        if not self._body:
            self._body = chunk if len(chunk) == self._expected else bytearray(chunk)
        else:
            self._body += chunk

    def on_message_complete(self) -> None:
        """Hand the answer over; an interim one (1xx) is passed by."""
        if self._status < 200:
            self._reset()
            return
        self._reusable &= self._parser.should_keep_alive() and not self._transport.get_write_buffer_size()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(Reply(self._status, self._header_length, self._body))


def _length(value: bytes) -> int | None:
    """A length header's value; None for what is no plain decimal number of sensible size."""
    return int(value) if value.isdigit() and len(value) < 16 else None


def _nbytes(part: Buffer) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)
