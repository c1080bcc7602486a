"""What a handler's parameters get: compiled once from their annotations, so that mistakes show when the file loads.

A parameter is the call's payload (an HTTP body, an event's data) or the call itself (``Request``, ``CloudEvent``,
``Context``); a handler has at most one of each, in any order.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Union, get_args, get_origin
from urllib.parse import parse_qs

from shoal.core.errors import BodyError, EventError, MediaTypeError, UsageError
from shoal.runtime import event_codec, jsontext
from shoal.runtime.convert import (
    bare,
    built,
    converter,
    hints_of,
    pydantic_checked,
    struct_checked,
    text_converter,
    type_name,
)
from shoal.runtime.events import CloudEvent
from shoal.runtime.jsontext import is_pydantic, is_struct
from shoal.runtime.messages import Context, Request
from shoal.runtime.sdk_events import is_sdk_class, to_sdk

Handler = Callable[..., Any]

ACCEPTED: Final = (
    "bytes, str, dict, list, a dataclass, a TypedDict, a pydantic model, a msgspec Struct (each also '| None'), "
    "Request, CloudEvent or Context"
)
_NO_BODY: Final = ("GET", "HEAD", "DELETE")


@dataclass(slots=True)
class Call:
    """One call of a handler: the request, and the event it carries if it is one for an event handler."""

    request: Request
    context: Context
    event: CloudEvent | None = None


Source = Callable[[Call], Any]
JsonReader = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class Binding:
    """How to call one handler, and what it may answer."""

    function: Handler
    sources: tuple[Source, ...]
    is_async: bool
    is_generator: bool
    returns: Any  # the annotation; inspect.Parameter.empty when there is none

    def arguments(self, call: Call) -> list[Any]:
        """Decode the arguments; raises RequestError for what the handler does not take."""
        return [source(call) for source in self.sources]


def bind(function: Handler, *, event: bool = False) -> Binding:
    """Compile a handler's parameters; raises UsageError naming file, function, parameter and accepted types."""
    sources: dict[str, Source] = {}
    try:
        hints = hints_of(function)
        for parameter in inspect.signature(function).parameters.values():
            role, source = _source(parameter, hints.get(parameter.name, parameter.empty), event)
            if role in sources:
                raise UsageError(f"parameter {parameter.name!r} is a second {role}: a handler has one at most")
            sources[role] = source
    except UsageError as error:
        raise UsageError(f"{where(function)}: {error.message}", hint=error.hint) from error
    return Binding(
        function,
        tuple(sources.values()),
        is_async=inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function),
        is_generator=inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function),
        returns=hints.get("return", inspect.Parameter.empty),
    )


def where(function: Handler) -> str:
    """Name a function with its file and line."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{code.co_filename}:{code.co_firstlineno}: {name}" if code else name


def _source(parameter: inspect.Parameter, hint: Any, event: bool) -> tuple[str, Source]:
    """Choose what a parameter gets: its role, and the function that makes its value."""
    if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
        raise UsageError(
            f"parameter {parameter.name!r}: a handler takes neither keyword-only parameters nor * or **"
        )
    if hint is parameter.empty:
        raise UsageError(f"parameter {parameter.name!r} has no annotation: it must be {ACCEPTED}")
    kind = bare(hint)
    if kind is Request:
        return "Request", lambda call: call.request
    if kind is Context:
        return "Context", _context
    if kind is CloudEvent:
        return "CloudEvent", _event
    if is_sdk_class(kind):
        return "CloudEvent", lambda call: to_sdk(_event(call), kind)
    try:
        return ("event data", _data_source(kind)) if event else ("body", _body_source(kind))
    except UsageError as error:
        raise UsageError(f"parameter {parameter.name!r}: {error.message}; it must be {ACCEPTED}") from error


def _context(call: Call) -> Context:
    if call.event is None:
        return call.context
    return replace(call.context, attributes=call.event.attributes)


def _event(call: Call) -> CloudEvent:
    """Give the call's event; of an HTTP handler's request, read it."""
    if call.event is not None:
        return call.event
    how = event_codec.mode(call.request.raw_headers)
    if not how:
        raise EventError("the request is no CloudEvent: it needs the ce- headers, or a cloudevents content type")
    if how == "batch":
        raise MediaTypeError("this handler takes one event, not a batch")
    return event_codec.parse(call.request)[0]


def _optional(kind: Any) -> tuple[Any, bool]:
    """Split ``X | None`` into X and True."""
    if get_origin(kind) in (Union, types.UnionType) and types.NoneType in get_args(kind):
        members = tuple(member for member in get_args(kind) if member is not types.NoneType)
        return (bare(members[0]) if len(members) == 1 else kind), True
    return kind, False


def _body_source(hint: Any) -> Source:
    """Choose how an HTTP body becomes ``hint``."""
    kind, optional = _optional(hint)
    if kind is bytes:
        return (lambda call: call.request.body or None) if optional else (lambda call: call.request.body)
    if kind is str:
        return (lambda call: _text(call.request) or None) if optional else (lambda call: _text(call.request))
    return _json_body(kind, json_reader(kind), query_reader(kind), optional)


def _json_body(kind: Any, read: JsonReader, from_query: Callable[[Request], Any] | None, optional: bool) -> Source:
    name = type_name(kind)

    def source(call: Call) -> Any:
        request = call.request
        if request.body:
            _check_json_type(request.header("content-type"), name)
            return read(request.body)
        if from_query is not None and request.method in _NO_BODY and (request.query_string or not optional):
            return from_query(request)
        if optional:
            return None
        raise BodyError(f"the body is empty: it must be JSON ({name})")

    return source


def _check_json_type(content_type: str, name: str) -> None:
    if content_type and not event_codec.is_json(content_type):
        raise MediaTypeError(
            f"content type {content_type[:64]!r} is not taken: the body must be application/json ({name})",
            hint="send the header 'content-type: application/json'",
        )


def _text(request: Request) -> str:
    try:
        return request.body.decode(event_codec.charset_of(request.header("content-type")))
    except EventError as error:
        raise MediaTypeError(error.message) from error
    except ValueError as error:
        raise BodyError(f"the body is not text: {error}") from None


def _data_source(hint: Any) -> Source:
    """Choose how an event's data become ``hint``."""
    kind, optional = _optional(hint)
    if kind in (bytes, str):
        as_kind = _data_bytes if kind is bytes else _data_text
        return lambda call: None if optional and _data(call) is None else as_kind(_data(call))
    name, read, take = type_name(kind), json_reader(kind), value_reader(kind)

    def source(call: Call) -> Any:
        data = _data(call)
        if data is None and optional:
            return None
        if data is None:
            raise BodyError(f"the event has no data: it must be JSON ({name})")
        content_type = call.event.datacontenttype if call.event else None
        _check_json_type(content_type or "", name)
        return read(data) if isinstance(data, bytes) else take(data)

    return source


def _data(call: Call) -> Any:
    return call.event.data if call.event is not None else None


def _data_bytes(data: Any) -> bytes:
    if isinstance(data, bytes):
        return data
    return b"" if data is None else data.encode() if isinstance(data, str) else _dumps(data)


def _dumps(value: Any) -> bytes:
    """Write JSON anew; a number too large for JSON's readers is the only value read that cannot be written."""
    try:
        return jsontext.dumps(value)
    except ValueError as error:
        raise BodyError(f"the data are not JSON: {error}") from None


def _data_text(data: Any) -> str:
    try:
        return data if isinstance(data, str) else _data_bytes(data).decode()
    except ValueError as error:
        raise BodyError(f"the event's data are not text: {error}") from None


def json_reader(kind: Any) -> JsonReader:
    """Compile reading JSON text as ``kind``; what reads it raises BodyError."""
    if mentions(kind, is_pydantic):
        adapter = sys.modules["pydantic"].TypeAdapter(kind)
        return lambda body: pydantic_checked(adapter.validate_json, body, "")
    if mentions(kind, is_struct):
        decode = sys.modules["msgspec"].json.Decoder(kind).decode
        return lambda body: struct_checked(decode, body)
    take = value_reader(kind)
    return lambda body: take(_loads(body))


def value_reader(kind: Any) -> Callable[[Any], Any]:
    """Compile taking a JSON value as ``kind``; what takes it raises BodyError."""
    if mentions(kind, is_pydantic):
        adapter = sys.modules["pydantic"].TypeAdapter(kind)
        return lambda value: pydantic_checked(adapter.validate_json, _dumps(value), "")
    if mentions(kind, is_struct):
        convert = sys.modules["msgspec"].convert
        return lambda value: struct_checked(convert, value, kind)
    take = converter(kind)

    def checked(value: Any) -> Any:
        try:
            return take(value, "")
        except RecursionError:
            raise BodyError("the body is nested too deeply") from None

    return checked


def query_reader(kind: Any) -> Callable[[Request], Any] | None:
    """Compile reading a query as an object; None for a type that is no object."""
    if is_pydantic(kind):
        return lambda request: pydantic_checked(kind.model_validate, request.query, "")
    if is_struct(kind):
        msgspec = sys.modules["msgspec"]
        return lambda request: struct_checked(
            lambda query: msgspec.convert(query, kind, strict=False), request.query
        )
    if (get_origin(kind) or kind) is dict:
        take = converter(kind)
        return lambda request: take(request.query, "")
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_query(kind)
    return None


def _dataclass_query(kind: type[Any]) -> Callable[[Request], Any] | None:
    hints, fields = hints_of(kind), [item for item in dataclasses.fields(kind) if item.init]
    convert = {item.name: text_converter(hints[item.name]) for item in fields}
    required = [
        item.name
        for item in fields
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]

    def read(request: Request) -> Any:
        query = parse_qs(request.query_string.decode("latin-1"), keep_blank_values=True)
        for name in required:
            if name not in query:
                raise BodyError(f"query parameter {name} is missing")
        members = {name: convert[name](texts, name) for name, texts in query.items() if name in convert}
        return built(kind, members, "")

    return read


def mentions(kind: Any, test: Callable[[Any], bool]) -> bool:
    """Tell whether a type, or a type it is made of, passes the test."""
    return test(kind) or any(mentions(member, test) for member in get_args(kind))


def _loads(body: bytes) -> Any:
    try:
        return jsontext.loads(body)
    except ValueError as error:
        raise BodyError(f"the body is not JSON: {error}") from None
