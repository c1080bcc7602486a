"""What passes between the server and a handler: a whole request in, a whole (or streamed) response out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

Headers = list[tuple[bytes, bytes]]  # as ASGI gives them: lower-case names


@dataclass(slots=True)
class Request:
    """One HTTP request, its body complete."""

    method: str
    path: str
    query_string: bytes
    raw_headers: Headers
    body: bytes

    def header(self, name: str, default: str = "") -> str:
        """Give the first value of a header; ``name`` in any case."""
        wanted = name.lower().encode("latin-1")
        for key, value in self.raw_headers:
            if key == wanted:
                return value.decode("latin-1")
        return default

    @property
    def headers(self) -> dict[str, str]:
        """All headers, names lower-case; of a repeated one the last value."""
        return {key.decode("latin-1"): value.decode("latin-1") for key, value in self.raw_headers}

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters; of a repeated one the last value."""
        return dict(parse_qsl(self.query_string.decode("latin-1"), keep_blank_values=True))


@dataclass(slots=True)
class Response:
    """One HTTP response; ``body`` may be an async iterator of bytes, which is streamed."""

    body: bytes | AsyncIterator[bytes] = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Context:
    """What a handler may ask about the call it serves."""

    request_id: str
    traceparent: str  # W3C trace context of this hop; empty when the caller sent none and none was made
    deadline: float  # in the event loop's time (``loop.time()``), seconds
    function: str
    revision: str
    request: Request
    attributes: Mapping[str, Any] = field(default_factory=dict)  # a CloudEvent's context attributes
