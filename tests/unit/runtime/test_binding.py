"""What handlers get and give: every kind of parameter and result, and the error of every mistake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers_handlers import EVENT, body_of, call, clean_imports, load, request
from shoal.core.clock import FakeClock
from shoal.core.errors import BodyError, EventError, HandlerError, MediaTypeError, RequestError, UsageError
from shoal.runtime.messages import Response
from shoal.runtime.results import Stamp

TYPES = """
    from __future__ import annotations

    import enum
    from collections.abc import AsyncIterator, Iterator
    from dataclasses import dataclass, field
    from datetime import date, datetime
    from decimal import Decimal
    from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict, Union
    from uuid import UUID

    import msgspec
    import pydantic
    from cloudevents.http import CloudEvent as SdkEvent
    from shoal import CloudEvent, Context, Request, Response, event, http

    class Colour(enum.Enum):
        RED = "red"

    @dataclass
    class Part:
        size: int
        ratio: float = 1.0

        def __post_init__(self) -> None:
            if self.size < 0:
                raise ValueError("size must not be negative")

    @dataclass
    class Order:
        name: str
        parts: list[Part] = field(default_factory=list)
        colour: Colour = Colour.RED
        day: date | None = None
        mode: Literal["fast", "safe"] = "fast"
        either: int | str = 0
        extra: dict[str, float] = field(default_factory=dict)
        pair: tuple[int, str] | None = None
        child: Order | None = None
        raw: bytes = b""
        money: Decimal = Decimal(0)
        key: UUID | None = None
        tags: list[str] = field(default_factory=list)
        on: bool = False

    class Point(TypedDict):
        x: int
        y: NotRequired[int]

    class Model(pydantic.BaseModel):
        name: str
        count: int = 1

    class Struct(msgspec.Struct):
        name: str
        count: int = 1
"""


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    with clean_imports():
        yield


class Handler:
    """A loaded handler."""

    def __init__(self, folder: Path, text: str) -> None:
        self.registry = load(folder, TYPES + "\n" + "\n".join("    " + line for line in text.strip().splitlines()))

    async def __call__(
        self, body: bytes | Any = b"", method: str = "POST", query: str = "", **headers: str
    ) -> Response:
        """Send a body (a value: as JSON)."""
        if not isinstance(body, bytes):
            headers = {"content_type": "application/json"} | headers
            body = json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await call(self.registry, request(method, "/", named, body, query))

    async def event(self, data: bytes | Any = b"", **headers: str) -> Response:
        """Send an event with this data."""
        return await self(data, **{name.replace("-", "_"): value for name, value in EVENT.items()} | headers)


def echo(annotation: str, expression: str = "repr(x)") -> str:
    return f"@http\ndef f(x: {annotation}) -> Any:\n    return {expression}"


@pytest.mark.parametrize(
    ("annotation", "body", "shown"),
    [
        ("bytes", b"\xff", "b'\\xff'"),
        ("bytes", b"", "b''"),
        ("bytes | None", b"", "None"),
        ("str", "ä".encode(), "'ä'"),
        ("Optional[str]", b"", "None"),
        ("dict", {"a": 1}, "{'a': 1}"),
        ("dict[str, Any] | None", b"", "None"),
        ("list[int]", [1, 2], "[1, 2]"),
        ("Any", None, "None"),
        ("int", 5, "5"),
        ("Part", {"size": 1, "unknown": 2}, "Part(size=1, ratio=1.0)"),
        ("Part", {"size": 1, "ratio": 2}, "Part(size=1, ratio=2.0)"),
        ("Annotated[Part, 'note']", {"size": 1}, "Part(size=1, ratio=1.0)"),
        ("Union[Part, None]", {"size": 1}, "Part(size=1, ratio=1.0)"),
        ("list[Part]", [{"size": 1}], "[Part(size=1, ratio=1.0)]"),
        ("Point", {"x": 1}, "{'x': 1}"),
        ("Model", {"name": "a"}, "Model(name='a', count=1)"),
        ("list[Model]", [{"name": "a"}], "[Model(name='a', count=1)]"),
        ("Model | None", b"", "None"),
        ("Struct", {"name": "a"}, "Struct(name='a', count=1)"),
    ],
)
async def test_a_body_becomes_what_is_declared(tmp_path: Path, annotation: str, body: Any, shown: str) -> None:
    response = await Handler(tmp_path, echo(annotation))(body)
    assert await body_of(response) == shown.encode()


async def test_a_nested_dataclass_is_built_all_the_way_down(tmp_path: Path) -> None:
    handler = Handler(tmp_path, echo("Order", "x"))
    sent = {
        "name": "n",
        "parts": [{"size": 1, "ratio": 0.5}],
        "colour": "red",
        "day": "2025-01-31",
        "mode": "safe",
        "either": "x",
        "extra": {"a": 1.5},
        "pair": [1, "b"],
        "child": {"name": "inner"},
        "raw": "aGk=",
        "money": "1.10",
        "key": "12345678-1234-5678-1234-567812345678",
        "tags": ["t"],
        "on": True,
    }
    answered = json.loads((await handler(sent)).body)
    assert answered | sent | {"child": answered["child"]} == answered
    assert answered["child"]["name"] == "inner"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "field name is an integer: it must be a string"),
        ({"name": None}, "field name is null: it must be a string"),
        ({"parts": {}}, "field parts is an object: it must be an array"),
        ({"parts": [{"size": 1}, {"size": "2"}]}, r"field parts\[1\].size is a string: it must be an integer"),
        ({"parts": [{}]}, r"field parts\[0\].size is missing"),
        ({"parts": [{"size": True}]}, r"field parts\[0\].size is a boolean: it must be an integer"),
        ({"parts": [{"size": -1}]}, r"field parts\[0\] is not taken: size must not be negative"),
        ({"parts": [{"size": 1, "ratio": "x"}]}, r"ratio is a string: it must be a number"),
        ({"parts": [3]}, r"field parts\[0\] is an integer: it must be an object \(Part\)"),
        ({"colour": "blue"}, "field colour is a string: it must be one of 'red'"),
        ({"day": "31.1."}, "field day is a string: it must be a date, as 2025-01-31"),
        ({"mode": "slow"}, "it must be 'fast' or 'safe'"),
        ({"either": []}, "field either is an array: it must be int or str"),
        ({"extra": {"a": "b"}}, r"field extra\.a is a string: it must be a number"),
        ({"pair": [1]}, "field pair is an array: it must be an array of 2"),
        ({"child": {"name": "a", "child": {}}}, r"field child\.child\.name is missing"),
        ({"raw": "!"}, "standard base64"),
        ({"money": "x"}, "a number, or a string with one"),
        ({"key": "x"}, "it must be a UUID"),
        ({"on": 1}, "it must be true or false"),
    ],
)
async def test_a_wrong_field_is_named_with_its_type_and_the_rule(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    handler = Handler(tmp_path, echo("Order"))
    with pytest.raises(BodyError, match=message):
        await handler({"name": "n"} | change)


@pytest.mark.parametrize(
    ("annotation", "body", "message"),
    [
        ("Part", b"", r"the body is empty: it must be JSON \(Part\)"),
        ("Part", b"{", "the body is not JSON"),
        ("dict", b"[NaN]", "NaN is not JSON"),
        ("Part", b"[]", r"the body is an array: it must be an object \(Part\)"),
        ("Point", b'{"y": 1}', "field x is missing"),
        ("Model", b'{"count": 1}', "field name: Field required"),
        ("Model", b'{"count": "x"}', r"field name: Field required \(and 1 more\)"),
        ("list[Model]", b'[{"name": 5}]', r"field \[0\].name: Input should be a valid string"),
        ("Struct", b'{"name": 5}', r"Expected `str`, got `int` - at `\$.name`"),
        ("Struct", b"{", "the body is not taken"),
        ("Order", b'{"name":"n","child":' * 400 + b"1" + b"}" * 400, "nested too deeply|must be an object"),
        ("str", b"\xff", "the body is not text"),
    ],
)
async def test_a_wrong_body_is_told(tmp_path: Path, annotation: str, body: bytes, message: str) -> None:
    with pytest.raises(BodyError, match=message):
        await Handler(tmp_path, echo(annotation))(body)


async def test_a_json_handler_wants_json_and_a_bytes_handler_takes_anything(tmp_path: Path) -> None:
    typed = Handler(tmp_path, echo("Part"))
    with pytest.raises(
        MediaTypeError, match=r"'text/plain' is not taken: the body must be application/json \(Part\)"
    ):
        await typed(b'{"size": 1}', content_type="text/plain")
    assert (await typed(b'{"size": 1}', content_type="application/x+json; v=1")).status == 200
    assert (await typed(b'{"size": 1}')).status == 200
    assert (await Handler(tmp_path, echo("bytes"))(b"x", content_type="text/plain")).body == b"b'x'"
    text = Handler(tmp_path, echo("str"))
    assert (await text(b"\xe4", content_type="text/plain; charset=latin-1")).body == "'ä'".encode()
    with pytest.raises(MediaTypeError, match="klingon"):
        await text(b"x", content_type="text/plain; charset=klingon")


@pytest.mark.parametrize(
    ("annotation", "query", "shown"),
    [
        ("Part", "size=3&ratio=0.5", "Part(size=3, ratio=0.5)"),
        ("dict", "a=1&b=", "{'a': '1', 'b': ''}"),
        ("dict[str, str]", "", "{}"),
        ("Model", "name=a&count=2", "Model(name='a', count=2)"),
        ("Struct", "name=a&count=2", "Struct(name='a', count=2)"),
        ("Part | None", "", "None"),
        ("bytes", "a=1", "b''"),
    ],
)
async def test_a_get_reads_its_query(tmp_path: Path, annotation: str, query: str, shown: str) -> None:
    assert (await Handler(tmp_path, echo(annotation))(b"", "GET", query)).body == shown.encode()


async def test_query_parameters_are_converted_and_checked(tmp_path: Path) -> None:
    handler = Handler(tmp_path, echo("Order", "[x.name, x.tags, x.on, x.day, x.mode]"))
    response = await handler(b"", "GET", "name=n&tags=a&tags=b&on=true&day=2025-01-31&mode=safe")
    assert json.loads(response.body) == ["n", ["a", "b"], True, "2025-01-31", "safe"]
    for query, message in {
        "": "query parameter name is missing",
        "name=n&on=maybe": "field on is a string: it must be true or false",
        "name=n&mode=slow": "'fast' or 'safe'",
        "name=n&money=x": "a number, or a string with one",
    }.items():
        with pytest.raises(BodyError, match=message):
            await handler(b"", "GET", query)


@pytest.mark.parametrize(
    "query", ["size=1_0", "size=+1", "size= 1", "size=1&ratio=nan", "size=1&ratio=inf", "size="]
)
async def test_a_number_of_a_query_is_written_as_in_json(tmp_path: Path, query: str) -> None:
    with pytest.raises(BodyError, match=r"it must be (an integer|a number)"):
        await Handler(tmp_path, echo("Part"))(b"", "GET", query)


async def test_parameters_come_in_any_order(tmp_path: Path) -> None:
    text = """
@http
async def f(context: Context, body: Part, request: Request) -> list:
    return [context.revision, body.size, request.method]
"""
    assert json.loads((await Handler(tmp_path, text)({"size": 3})).body) == ["filetype-00001", 3, "POST"]


async def test_an_http_handler_may_ask_for_the_event(tmp_path: Path) -> None:
    handler = Handler(tmp_path, echo("CloudEvent", "[x.type, x.data]"))
    assert (await handler.event({"a": 1})).body == b'["com.example.x",{"a":1}]'
    with pytest.raises(EventError, match="the request is no CloudEvent"):
        await handler({"a": 1})
    with pytest.raises(MediaTypeError, match="not a batch"):
        await handler(b"[]", content_type="application/cloudevents-batch+json")


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("x", "parameter 'x' has no annotation: it must be bytes, str, dict"),
        ("x: object()", "cannot be read|has no JSON form"),
        ("x: Missing", "name 'Missing' is not defined"),
        ("x: complex", "parameter 'x': complex has no JSON form; it must be bytes, str"),
        ("x: dict[int, str]", "a dict of int keys has no JSON form"),
        ("x: list[complex]", "complex has no JSON form"),
        ("x: bytes, y: str", "parameter 'y' is a second body: a handler has one at most"),
        ("x: Context, y: Context", "parameter 'y' is a second Context"),
        ("*x: bytes", "neither keyword-only parameters nor"),
        ("*, x: bytes", "neither keyword-only parameters nor"),
    ],
)
def test_a_mistaken_annotation_fails_the_load(tmp_path: Path, parameter: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Handler(tmp_path, f"@http\ndef broken({parameter}) -> None: ...")
    assert f"{tmp_path}/handler.py:" in caught.value.message
    assert "broken" in caught.value.message


@pytest.mark.parametrize(
    ("expression", "status", "content_type", "body"),
    [
        ("b'x'", 200, "application/octet-stream", b"x"),
        ("memoryview(b'x')", 200, "application/octet-stream", b"x"),
        ("'ä'", 200, "text/plain; charset=utf-8", "ä".encode()),
        ("{'a': 'ä'}", 200, "application/json", '{"a":"ä"}'.encode()),
        ("[1, 2.5, None, True]", 200, "application/json", b"[1,2.5,null,true]"),
        ("0", 200, "application/json", b"0"),
        ("Part(1)", 200, "application/json", b'{"size":1,"ratio":1.0}'),
        (
            "[Model(name='a'), Struct('b')]",
            200,
            "application/json",
            b'[{"name":"a","count":1},{"name":"b","count":1}]',
        ),
        ("Model(name='a')", 200, "application/json", b'{"name":"a","count":1}'),
        ("Struct('a')", 200, "application/json", b'{"name":"a","count":1}'),
        ("{'d': date(2025, 1, 31), 'c': Colour.RED}", 200, "application/json", b'{"d":"2025-01-31","c":"red"}'),
        ("__import__('numpy').arange(3)", 200, "application/json", b"[0,1,2]"),
        ("{'x': __import__('numpy').float32(0.5)}", 200, "application/json", b'{"x":0.5}'),
        (
            "'\\ud800'.encode('utf-8', 'surrogatepass').decode('utf-8', 'replace')",
            200,
            "text/plain; charset=utf-8",
            None,
        ),
        ("['\\ud800']", 200, "application/json", b'["\\ud800"]'),
        ("None", 204, None, b""),
        ("('x', 404)", 404, "text/plain; charset=utf-8", b"x"),
        ("({'a': 1}, 201, {'Content-Type': 'application/x+json'})", 201, "application/x+json", b'{"a":1}'),
        ("(None, 202)", 202, None, b""),
        ("Response(b'x', 418, {'content-type': 'a/b'})", 418, "a/b", b"x"),
    ],
)
async def test_a_result_becomes_a_response(
    tmp_path: Path, expression: str, status: int, content_type: str | None, body: bytes | None
) -> None:
    response = await Handler(tmp_path, f"@http\ndef f() -> Any:\n    return {expression}")()
    assert (response.status, response.headers.get("content-type")) == (status, content_type)
    assert body is None or response.body == body


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("object()", "an object that cannot be JSON: an object is not JSON"),
        ("{'a': [1, {'b': object()}]}", r"a dict that cannot be JSON: an object is not JSON \(field a\[1\].b\)"),
        ("float('nan')", "cannot be JSON"),
        ("(1, 2, 3, 4)", "a tuple is \\(body, status\\)"),
        ("('a', 'b')", "a tuple is \\(body, status\\)"),
        ("('a', 200, 5)", "a tuple is \\(body, status\\)"),
        ("CloudEvent(type='x')", "only an event handler"),
        ("'\\ud800'", "not UTF-8"),
    ],
)
async def test_a_result_that_cannot_be_sent_is_the_handlers_mistake(
    tmp_path: Path, expression: str, message: str
) -> None:
    handler = Handler(tmp_path, f"@http\ndef f() -> Any:\n    return {expression}")
    with pytest.raises(HandlerError, match=message):
        await handler()


@pytest.mark.parametrize("kind", ["async def", "def"])
@pytest.mark.parametrize(
    ("chunks", "content_type", "body"),
    [
        ("b'a', b'b'", "application/octet-stream", b"ab"),
        ("'a', 'ä'", "text/plain; charset=utf-8", "aä".encode()),
        ("{'n': 1}, [2]", "application/x-ndjson", b'{"n":1}\n[2]\n'),
    ],
)
async def test_a_generator_streams(tmp_path: Path, kind: str, chunks: str, content_type: str, body: bytes) -> None:
    response = await Handler(
        tmp_path, f"@http\n{kind} f() -> Any:\n    for chunk in ({chunks}):\n        yield chunk"
    )()
    assert response.headers["content-type"] == content_type
    assert await body_of(response) == body


async def test_a_stream_ends_its_handler_when_its_reader_leaves(tmp_path: Path) -> None:
    text = """
CLOSED = []

@http
async def f() -> AsyncIterator[bytes]:
    try:
        while True:
            yield b"x"
    finally:
        CLOSED.append("async")

@http(path="/sync")
def g() -> Iterator[bytes]:
    try:
        while True:
            yield b"x"
    finally:
        CLOSED.append("sync")

@http(path="/empty")
def h() -> Iterator[bytes]:
    yield from ()

@http(path="/mixed")
def i() -> Iterator[Any]:
    yield b"a"
    yield "b"

@http(path="/early")
async def j() -> AsyncIterator[bytes]:
    raise KeyError("early")
    yield b""
"""
    handler = Handler(tmp_path, text)
    for path in ("/", "/sync"):
        stream = (await call(handler.registry, request("GET", path))).body
        assert await anext(stream) == b"x"
        await stream.aclose()
    assert __import__("handler").CLOSED == ["async", "sync"]
    assert (await call(handler.registry, request("GET", "/empty"))).status == 204
    with pytest.raises(HandlerError, match="began with bytes and went on with str"):
        await body_of(await call(handler.registry, request("GET", "/mixed")))
    with pytest.raises(KeyError):
        await call(handler.registry, request("GET", "/early"))


@pytest.mark.parametrize(
    ("annotation", "content_type", "data", "shown"),
    [
        ("dict", "application/json", b'{"a":1}', "{'a': 1}"),
        ("Part", "application/json", b'{"size":1}', "Part(size=1, ratio=1.0)"),
        ("Model", "application/json", b'{"name":"a"}', "Model(name='a', count=1)"),
        ("Struct", "application/json", b'{"name":"a"}', "Struct(name='a', count=1)"),
        ("Part", "", b'{"size":1}', "Part(size=1, ratio=1.0)"),
        ("bytes", "image/png", b"\x89", "b'\\x89'"),
        ("bytes", "application/json", b'{"a":1}', "b'{\"a\":1}'"),
        ("str", "text/plain", b"a", "'a'"),
        ("str", "", b"a", "'a'"),
        ("bytes", "", b"", "b''"),
        ("bytes | None", "", b"", "None"),
        ("dict | None", "", b"", "None"),
    ],
)
async def test_an_events_data_become_what_is_declared(
    tmp_path: Path, annotation: str, content_type: str, data: bytes, shown: str
) -> None:
    text = f"@event(reply_type='r')\ndef f(x: {annotation}) -> Any:\n    return repr(x)"
    response = await Handler(tmp_path, text).event(data, **({"content_type": content_type} if content_type else {}))
    assert json.loads(response.body) == shown


@pytest.mark.parametrize(
    ("annotation", "content_type", "data", "error", "message"),
    [
        ("Part", "application/json", b'{"size":"x"}', BodyError, "field size is a string"),
        ("Part", "application/json", b"", BodyError, r"the event has no data: it must be JSON \(Part\)"),
        ("Part", "text/plain", b"x", MediaTypeError, "must be application/json"),
        ("Model", "application/json", b"{}", BodyError, "field name: Field required"),
        ("Struct", "application/json", b"{}", BodyError, "missing required field `name`"),
        ("str", "image/png", b"\xff", BodyError, "not text"),
        ("Part", "application/json", b"{", EventError, "the data is not JSON"),
    ],
)
async def test_wrong_event_data_are_told_and_not_repeated(
    tmp_path: Path, annotation: str, content_type: str, data: bytes, error: type[RequestError], message: str
) -> None:
    handler = Handler(tmp_path, f"@event\ndef f(x: {annotation}) -> None: ...")
    with pytest.raises(error, match=message) as caught:
        await handler.event(data, content_type=content_type)
    assert 400 <= caught.value.status < 500
    assert caught.value.status not in (404, 408, 409, 429)  # those a broker tries again


async def test_a_handler_gets_the_event_its_attributes_and_the_sdks_class(tmp_path: Path) -> None:
    text = """
@event(type="com.example.x", reply_type="r")
async def f(e: CloudEvent, context: Context) -> Any:
    return [e.type, context.attributes["source"], context.function]

@event(type="sdk")
def g(e: SdkEvent) -> SdkEvent:
    return SdkEvent({"type": e["type"] + ".reply", "source": "/g", "id": "7"}, {"data": e.data})
"""
    handler = Handler(tmp_path, text)
    assert json.loads((await handler.event()).body) == ["com.example.x", "/s", "filetype"]
    reply = await handler.event({"a": 1}, ce_type="sdk")
    assert (reply.headers["ce-type"], reply.headers["ce-id"], reply.body) == ("sdk.reply", "7", b'{"data":{"a":1}}')


async def test_a_reply_is_an_event_with_what_was_left_empty_filled_in(tmp_path: Path) -> None:
    handler = Handler(tmp_path, "@event\ndef f() -> CloudEvent:\n    return CloudEvent(type='r', data={'a': 1})")
    handler.registry.stamp = Stamp(FakeClock(0.0), lambda: "42")
    reply = await handler.event()
    assert reply.status == 200
    assert reply.body == b'{"a":1}'
    assert dict(reply.headers) == {
        "ce-specversion": "1.0",
        "ce-id": "42",
        "ce-source": "/functions/filetype",
        "ce-type": "r",
        "ce-time": "1970-01-01T00:00:00Z",
        "content-type": "application/json",
    }


async def test_a_reply_that_headers_cannot_carry_is_structured(tmp_path: Path) -> None:
    handler = Handler(
        tmp_path, "@event\ndef f() -> CloudEvent:\n    return CloudEvent(type='r', subject='a b', data=1)"
    )
    reply = await handler.event()
    assert reply.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert json.loads(reply.body)["subject"] == "a b"


@pytest.mark.parametrize(
    ("result", "data"),
    [
        ("Part(1)", {"size": 1, "ratio": 1.0}),
        ("{'a': 1}", {"a": 1}),
        ("Model(name='a')", {"name": "a", "count": 1}),
    ],
)
async def test_data_are_a_reply_only_with_a_reply_type(tmp_path: Path, result: str, data: Any) -> None:
    text = f"@event(reply_type='com.example.r')\ndef f() -> Any:\n    return {result}"
    reply = await Handler(tmp_path, text).event()
    assert (reply.headers["ce-type"], json.loads(reply.body)) == ("com.example.r", data)
    bare = Handler(tmp_path, f"@event\ndef f() -> Any:\n    return {result}")
    with pytest.raises(
        HandlerError, match=r"an event handler returns None, a CloudEvent, or, with @event\(reply_type"
    ):
        await bare.event()


@pytest.mark.parametrize(
    ("result", "status"),
    [("None", 204), ("Response(b'later', 503)", 503), ("Response(status=202)", 202)],
)
async def test_an_event_handler_may_answer_nothing_or_an_error(tmp_path: Path, result: str, status: int) -> None:
    assert (await Handler(tmp_path, f"@event\ndef f() -> Any:\n    return {result}").event()).status == status


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("'OK'", "returned a str: an event handler"),
        ("Response(b'OK')", "a body that is no event"),
        ("('OK', 200)", "returned a tuple: an event handler"),
        ("CloudEvent(type='')", "type is missing"),
        ("CloudEvent(type='r', extensions={'A': 1})", "extension name 'A'"),
        ("CloudEvent(type='r', data=object())", "cannot be written as JSON"),
    ],
)
async def test_a_reply_no_broker_accepts_is_the_handlers_mistake(tmp_path: Path, result: str, message: str) -> None:
    handler = Handler(tmp_path, f"@event\ndef f() -> Any:\n    return {result}")
    with pytest.raises(HandlerError, match=message):
        await handler.event()


async def test_a_sync_handler_may_return_an_awaitable(tmp_path: Path) -> None:
    text = "import asyncio\n@http\ndef f() -> Any:\n    return asyncio.sleep(0, 'done')"
    assert (await Handler(tmp_path, text)()).body == b"done"
