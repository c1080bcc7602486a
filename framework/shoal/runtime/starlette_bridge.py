"""Functions that take Starlette's request and give Starlette's response, as functions-framework's async ones do."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from typing import Any, Final

from shoal.core.errors import HandlerError
from shoal.runtime.messages import Request, Response
from shoal.runtime.routes import RunSync
from shoal.runtime.wsgi import Pairs

_QUEUED_MESSAGES_MAX: Final = 1  # a stream is as fast as its reader


async def answer_with_starlette(function: Callable[..., Any], request: Request, run_sync: RunSync) -> Response:
    """Call the function with Starlette's request; its HTTPException is an answer, any other passes unchanged."""
    scope = _scope(request)
    asked = import_module("starlette.requests").Request(scope, _receiver(request.body))
    try:
        if inspect.iscoroutinefunction(function):
            result = await function(asked)
        else:
            result = await run_sync(lambda: function(asked))
    except import_module("starlette.exceptions").HTTPException as error:
        return Response(
            error.detail.encode(), error.status_code, {"content-type": "text/plain", **(error.headers or {})}
        )
    return await _sent(_as_starlette(result), scope, request)


def _as_starlette(result: Any) -> Any:
    """Take what functions-framework takes: a response, str, dict, or (content, status)."""
    responses = import_module("starlette.responses")
    content, status = result if isinstance(result, tuple) and len(result) == 2 else (result, 200)
    if isinstance(content, responses.Response):
        return content
    if isinstance(content, dict):
        return responses.JSONResponse(content, status_code=status)
    if isinstance(content, str | bytes):
        return responses.Response(content, status_code=status)
    raise HandlerError(
        f"the function returned {type(result).__qualname__}: a Starlette response, str, dict or (content, status)"
    )


async def _sent(response: Any, scope: dict[str, Any], request: Request) -> Response:
    """Give a plain response as it is; run any other, which sends by itself, beside the answer's stream."""
    if isinstance(getattr(response, "body", None), bytes) and response.background is None:
        return Response(response.body, response.status_code, _pairs(response.raw_headers))
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_QUEUED_MESSAGES_MAX)
    sending = asyncio.create_task(response(scope, _receiver(request.body), messages.put))
    try:
        start = await _next(messages, sending)
    except BaseException:
        await _end(sending)
        raise
    return Response(_body(messages, sending), start["status"], _pairs(start["headers"]))


async def _next(messages: asyncio.Queue[dict[str, Any]], sending: asyncio.Task[None]) -> dict[str, Any]:
    """Wait for the next message, or for the sender's failure."""
    getting = asyncio.create_task(messages.get())
    try:
        await asyncio.wait((getting, sending), return_when=asyncio.FIRST_COMPLETED)
        if not getting.done() and messages.empty():
            await sending  # raises what ended it
            raise HandlerError("the function's response ended before its last message")
        return await getting
    finally:
        getting.cancel()


async def _body(messages: asyncio.Queue[dict[str, Any]], sending: asyncio.Task[None]) -> AsyncIterator[bytes]:
    """Yield the body, then wait for the response's background task; end both when the reader leaves."""
    try:
        more = True
        while more:
            message = await _next(messages, sending)
            more = message.get("more_body", False)
            yield message.get("body", b"")
        await sending
    finally:
        await _end(sending)


async def _end(sending: asyncio.Task[None]) -> None:
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await sending


def _pairs(headers: list[tuple[bytes, bytes]]) -> Pairs:
    return Pairs([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers])


def _scope(request: Request) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "https" if request.header("x-forwarded-proto") == "https" else "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query_string,
        "root_path": "",
        "headers": request.raw_headers,
        "client": None,
        "server": None,
    }


def _receiver(body: bytes) -> Callable[[], Any]:
    """Give the body once; then wait, as a caller does who stays."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    return receive
