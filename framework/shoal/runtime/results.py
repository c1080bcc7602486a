"""What a handler returned, as a response: an HTTP answer, a stream, or a reply that a broker accepts.

A broker takes any non-empty answer that is no CloudEvent for a failure and delivers again, so an event handler's
result is an event, nothing, or an error of the handler's author.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeVar
from uuid import uuid4

from shoal.core.clock import Clock, SystemClock
from shoal.core.errors import EventError, HandlerError
from shoal.runtime import event_codec, jsontext
from shoal.runtime.events import CloudEvent, completed
from shoal.runtime.jsontext import JSON_TYPE
from shoal.runtime.messages import Response
from shoal.runtime.sdk_events import from_sdk, is_sdk_event

T = TypeVar("T")
RunSync = Callable[[Callable[[], Any]], Awaitable[Any]]

BYTES_TYPE: Final = "application/octet-stream"
TEXT_TYPE: Final = "text/plain; charset=utf-8"
LINES_TYPE: Final = "application/x-ndjson"
RULE: Final = (
    "an event handler returns None, a CloudEvent, or, with @event(reply_type=...), the data of its reply: "
    "a broker takes any other answer for a failure and delivers the event again"
)

_END: Final = object()


def new_id() -> str:
    """Make an event's id: a random UUID."""
    return str(uuid4())


_JSON_KINDS: Final = frozenset({dict, list})
_JSON_HEADERS: Final = MappingProxyType({"content-type": JSON_TYPE})


@dataclass(frozen=True, slots=True)
class Stamp:
    """Where a reply's ``time`` and ``id`` come from when the handler leaves them empty."""

    clock: Clock = field(default_factory=SystemClock)
    new_id: Callable[[], str] = new_id


def http_response(result: Any) -> Response:
    """Make the response of an HTTP handler's result, streams apart; raises HandlerError for what has no form."""
    if type(result) in _JSON_KINDS:  # what most handlers return, told apart at once
        return Response(_json(result), headers=_JSON_HEADERS)
    if isinstance(result, Response):
        return result
    if isinstance(result, tuple):
        return _from_tuple(result)
    if result is None:
        return Response(status=204)
    body, content_type = _body(result)
    return Response(body, headers={"content-type": content_type})


def _from_tuple(result: tuple[Any, ...]) -> Response:
    """Take ``(body, status)`` and ``(body, status, headers)``."""
    body, status, headers = (*result, {})[:3] if len(result) in (2, 3) else (None, None, None)
    if type(status) is not int or not isinstance(headers, Mapping):
        raise HandlerError(
            f"the handler returned a tuple of {len(result)}: a tuple is (body, status) or (body, status, headers)"
        )
    response = http_response(body)
    return Response(response.body, status, {**response.headers, **_lowered(headers)})


def _lowered(headers: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in headers.items()}


def _body(result: Any) -> tuple[bytes, str]:
    """Write a body and name its content type."""
    if isinstance(result, bytes):
        return result, BYTES_TYPE
    if isinstance(result, str):
        return _utf8(result), TEXT_TYPE
    if isinstance(result, (bytearray, memoryview)):
        return bytes(result), BYTES_TYPE
    if isinstance(result, CloudEvent) or is_sdk_event(result):
        raise HandlerError("the handler returned a CloudEvent: only an event handler (@event) answers with one")
    return _json(result), JSON_TYPE


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise HandlerError(f"the handler returned text that is not UTF-8: {error.reason}") from None


def _json(value: Any) -> bytes:
    """Write JSON; pydantic and msgspec write their own, faster."""
    try:
        if jsontext.is_pydantic(type(value)):
            return value.model_dump_json(by_alias=True).encode()  # type: ignore[no-any-return]
        return jsontext.dumps(value)
    except (TypeError, ValueError) as error:
        raise HandlerError(f"the handler returned {jsontext.a_kind(value)} that cannot be JSON: {error}") from error


def is_stream(result: Any) -> bool:
    """Tell whether a result is an iterator, which is streamed."""
    return type(result) not in _JSON_KINDS and (hasattr(result, "__anext__") or hasattr(result, "__next__"))


async def stream(result: Any, run_sync: RunSync) -> Response:
    """Stream an iterator's chunks: bytes, str, or JSON values as lines (NDJSON); all of one kind.

    The first chunk is awaited here, so that an error before it is an answer of its own.
    """
    chunks = result if hasattr(result, "__anext__") else _unblocked(result, run_sync)
    first = await anext(chunks, _END)
    if first is _END:
        return Response(status=204)
    content_type = BYTES_TYPE if isinstance(first, bytes) else TEXT_TYPE if isinstance(first, str) else LINES_TYPE
    return Response(_encoded(first, chunks), headers={"content-type": content_type})


async def _unblocked(iterator: Any, run_sync: RunSync) -> AsyncIterator[Any]:
    """Advance a synchronous iterator off the loop."""
    try:
        while (chunk := await run_sync(lambda: next(iterator, _END))) is not _END:
            yield chunk
    finally:
        if (close := getattr(iterator, "close", None)) is not None:
            await run_sync(close)


async def _encoded(first: Any, chunks: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """Write the chunks; close the handler's iterator whatever happens."""
    encode = _chunk_encoder(type(first))
    try:
        yield encode(first)
        async for chunk in chunks:
            yield encode(chunk)
    finally:
        if (close := getattr(chunks, "aclose", None)) is not None:
            await close()


def _chunk_encoder(kind: type) -> Callable[[Any], bytes]:
    def encode(chunk: Any) -> bytes:
        if isinstance(chunk, bytes | str) != (kind in (bytes, str)) or (
            kind in (bytes, str) and type(chunk) is not kind
        ):
            raise HandlerError(
                f"the handler's stream began with {kind.__name__} and went on with {type(chunk).__name__}"
            )
        if kind is bytes:
            return chunk  # type: ignore[no-any-return]
        return _utf8(chunk) if kind is str else _json(chunk) + b"\n"

    return encode


def reply_of(result: Any, *, reply_type: str, source: str, stamp: Stamp) -> CloudEvent | Response | None:
    """Turn an event handler's result into the event to answer with; None for none, a Response as it is.

    Raises HandlerError with the rule for anything a broker would not accept.
    """
    if result is None:
        return None
    if isinstance(result, Response):
        return _legal(result)
    if is_sdk_event(result):
        result = _own(result)
    elif not isinstance(result, CloudEvent):
        if not reply_type or isinstance(result, tuple):
            raise HandlerError(f"the event handler returned {jsontext.a_kind(result)}: {RULE}")
        result = CloudEvent(type=reply_type, data=result)
    return completed(result, source=source, now=stamp.clock.now(), new_id=stamp.new_id)


def _own(result: Any) -> CloudEvent:
    try:
        return from_sdk(result)
    except (EventError, TypeError) as error:
        raise HandlerError(f"the event handler returned an event that breaks a rule: {error}") from error


def _legal(response: Response) -> Response:
    """Pass a Response that a broker reads as intended: an error, an empty one, or one that carries an event."""
    names = {name.lower(): value for name, value in response.headers.items()}
    is_event = "ce-id" in names or names.get("content-type", "").startswith("application/cloudevents")
    if response.status >= 300 or not response.body or is_event:
        return response
    raise HandlerError(f"the event handler returned a Response with a body that is no event: {RULE}")


def event_response(events: list[CloudEvent], *, broker: bool) -> Response:
    """Answer with no event (204), one (binary, or structured), or several (a batch).

    Raises EventError for several where the caller is a broker, which accepts one, and HandlerError for an illegal
    event.
    """
    if not events:
        return Response(status=204)
    if len(events) > 1 and broker:
        raise EventError(
            f"the batch has {len(events)} replies and the caller asked for one (header 'prefer: reply'): "
            "a broker accepts a single event"
        )
    try:
        headers, body = event_codec.to_http(events[0]) if len(events) == 1 else event_codec.to_batch(events)
    except EventError as error:
        raise HandlerError(f"the event handler returned an event that breaks a rule: {error.message}") from error
    return Response(body, headers=headers)
