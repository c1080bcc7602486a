"""uvicorn's HTTP/1.1 protocol with the bounds it lacks: size and time of a request's head, and silent connections.

Importing the package ``uvicorn`` imports its command line and with it click, which a function never uses and which
costs more than the rest of the server. A placeholder stands in for that one module while the package is imported.
"""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType
from typing import Any

from shoal.core.errors import HeadersTooLargeError, RequestError, SlowRequestError
from shoal.core.limits import DISCARD_BYTES_MAX, DISCARD_SECONDS_MAX, HEADER_BYTES_MAX, HEADER_SECONDS_MAX


def _import_without_command_line() -> None:
    if "uvicorn" in sys.modules:
        return
    name = "uvicorn.main"
    placeholder = ModuleType(name)
    vars(placeholder).update(dict.fromkeys(("Server", "main", "run")))
    sys.modules[name] = placeholder
    try:
        import uvicorn  # noqa: F401
    finally:
        del sys.modules[name]


_import_without_command_line()

from uvicorn.config import Config  # noqa: E402
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle  # noqa: E402
from uvicorn.server import ServerState  # noqa: E402

__all__ = ["Config", "FunctionProtocol", "ServerState"]


class FunctionProtocol(HttpToolsProtocol):
    """One connection; a request that breaks a bound is answered with a problem and the connection closed."""

    _head_bytes = 0  # received since the last complete head: an upper bound of this one's size
    _head_timer: asyncio.TimerHandle | None = None
    _refused = False
    _idle_since = 0.0
    _idle_timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the keep-alive clock at once: a connection that never sends anything ends like an idle one."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._head_is_done()
        self._idle_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; a head that is not complete after this is on the clock."""
        self._head_bytes += len(data)
        if self._refused:
            self._discard()
            return
        super().data_received(data)
        cycle = self.cycle
        if cycle is not None and cycle.scope is self.scope:
            self._head_is_done()
        elif not self._refused and not self.transport.is_closing():
            self._head_is_pending()

    def on_headers_complete(self) -> None:
        """Hand the request to the application unless its head is too large."""
        if self._head_bytes > HEADER_BYTES_MAX and self._head_size() > HEADER_BYTES_MAX:
            self._refuse(_too_large())
        else:
            super().on_headers_complete()
            self.scope["shoal.line"] = ShortLine(self.cycle)  # type: ignore[typeddict-unknown-key]

    def on_response_complete(self) -> None:
        """Go on with the next request of the connection; without one, note since when."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since = self.loop.time()

    def _close_if_idle(self) -> None:
        """Close, or come back when it could be time: one timer per connection, none per request."""
        busy = self.cycle is not None and not self.cycle.response_complete
        left = self.timeout_keep_alive if busy else self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._close_if_idle)
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, unless its connection is closing already."""
        if not self._refused and not self.transport.is_closing():
            self._refuse(RequestError(f"not a valid HTTP/1.1 request: {msg}"))

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _head_is_pending(self) -> None:
        if self._head_bytes > HEADER_BYTES_MAX:
            self._refuse(_too_large())
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEADER_SECONDS_MAX, self._head_is_late)

    def _head_is_late(self) -> None:
        self._refuse(SlowRequestError(f"the request's headers were not complete after {HEADER_SECONDS_MAX:g} s"))

    def _head_is_done(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, error: RequestError) -> None:
        """Answer and end our half; a sender whose bytes meet a closed socket sees a reset instead of the answer."""
        self._head_is_done()
        self._refused = True
        app: Any = self.app
        if self.cycle is not None and not self.cycle.response_complete:  # an earlier answer is on its way
            self.transport.close()
            return
        self.transport.write(app.refusal(error))
        self.transport.write_eof()
        self._head_timer = self.loop.call_later(DISCARD_SECONDS_MAX, self.transport.close)

    def _discard(self) -> None:
        if self._head_bytes > DISCARD_BYTES_MAX:
            self.transport.close()


class ShortLine:
    """Writes a whole answer at once, leaving the request's cycle as its two ASGI messages would."""

    __slots__ = ("_cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    def write_whole(self, head: bytes, body: bytes, *, close: bool) -> bool:
        """Write the answer, or nothing to a caller that left; False while the connection takes no more data."""
        cycle = self._cycle
        if cycle.flow.write_paused or cycle.response_started:
            return False
        if cycle.disconnected:
            return True
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        keep_alive = cycle.keep_alive and not close
        cycle.transport.write(b"".join((head, b"\r\n" if keep_alive else b"connection: close\r\n\r\n", body)))
        cycle.message_event.set()
        if not keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True


def _too_large() -> HeadersTooLargeError:
    return HeadersTooLargeError(f"request line and headers pass {HEADER_BYTES_MAX} bytes")
