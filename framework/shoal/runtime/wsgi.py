"""A WSGI application behind our request and response: one call on a thread, streams chunk by chunk."""

from __future__ import annotations

import io
import sys
from collections.abc import AsyncIterator, Callable, ItemsView, Iterator, Mapping
from contextvars import Context, copy_context
from typing import Any, Final

from shoal.runtime.messages import Request, Response
from shoal.runtime.routes import RunSync

_END: Final = object()
_BODILESS: Final = (204, 304)
_PLAIN: Final = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}


class Pairs(Mapping[str, str]):
    """Headers of which some repeat, as Set-Cookie does: ``items`` gives all, subscription the first."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = [(name.lower(), value) for name, value in pairs]

    def __getitem__(self, name: str) -> str:
        for each, value in self._pairs:
            if each == name:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._pairs))

    def __len__(self) -> int:
        return len(dict(self._pairs))

    def items(self) -> ItemsView[str, str]:
        """All names and values, repeated ones too."""
        return _AllItems(self, self._pairs)


class _AllItems(ItemsView[str, str]):
    def __init__(self, mapping: Pairs, pairs: list[tuple[str, str]]) -> None:
        super().__init__(mapping)
        self._pairs = pairs

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)


def environ_of(request: Request) -> dict[str, Any]:
    """Make the WSGI environment (PEP 3333) of a request."""
    host, _, port = request.header("host", "localhost").rpartition(":")
    if not host or not port.isdigit():
        host, port = request.header("host", "localhost"), "80"
    secure = request.header("x-forwarded-proto") == "https"
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path.encode().decode("latin-1"),
        "QUERY_STRING": request.query_string.decode("latin-1"),
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https" if secure else "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    return environ | _header_variables(request) | {"CONTENT_LENGTH": str(len(request.body))}


def _header_variables(request: Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for raw_name, raw_value in request.raw_headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if "_" in name:  # would pass for the header with a hyphen
            continue
        key = _PLAIN.get(name) or "HTTP_" + name.upper().replace("-", "_")
        found[key] = f"{found[key]},{value}" if key in found else value
    return found


class Wsgi:
    """Calls one application."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def answer(self, environ: dict[str, Any], run_sync: RunSync) -> Response:
        """Call the application on a thread; an exception that leaves it passes unchanged.

        All of one call's steps run in one context: a stream may hold on to the request it began with.
        """
        context = copy_context()
        status, headers, chunks = await run_sync(lambda: context.run(self._begin, environ))
        body = chunks if isinstance(chunks, bytes) else _streamed(chunks, context, run_sync)
        return Response(body, status, Pairs(headers))

    def _begin(self, environ: dict[str, Any]) -> tuple[int, list[tuple[str, str]], Any]:
        """Start the application's answer; its whole body where its length is known, else its iterator."""
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Callable[[bytes], None]:
            started[:] = [(status, headers)]
            return _no_write

        chunks = self._app(environ, start_response)
        status, headers = started[0]
        code = int(status[:3])
        if code not in _BODILESS and not any(name.lower() == "content-length" for name, _ in headers):
            return code, headers, chunks
        try:
            return code, headers, b"".join(chunks)
        finally:
            _close(chunks)


def _no_write(data: bytes) -> None:
    raise NotImplementedError("the write callable of WSGI is not offered")


def _close(chunks: Any) -> None:
    if (close := getattr(chunks, "close", None)) is not None:
        close()


async def _streamed(chunks: Any, context: Context, run_sync: RunSync) -> AsyncIterator[bytes]:
    """Pull chunks off the loop, one at a time."""
    iterator = iter(chunks)
    try:
        while (chunk := await run_sync(lambda: context.run(next, iterator, _END))) is not _END:
            yield chunk
    finally:
        await run_sync(lambda: context.run(_close, chunks))
