"""Functions written for functions-framework, run through the real package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import functions_framework
import pytest

from helpers_handlers import EVENT, JSON, body_of, call, clean_imports, load, request
from shoal.core.errors import BodyError, EventError, MediaTypeError, UsageError
from shoal.runtime.handlers import Registry


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    with clean_imports():
        yield


def function(folder: Path, text: str, **env: str) -> Registry:
    return load(folder, text, filename="main.py", env=env)


HTTP = """
    import flask
    import functions_framework

    @functions_framework.errorhandler(ZeroDivisionError)
    def on_zero(error):
        return "no zero", 418

    @functions_framework.http
    def hello(request: flask.Request):
        if request.path == "/zero":
            return 1 / 0
        if request.path == "/boom":
            raise KeyError("secret")
        if request.path == "/abort":
            flask.abort(403)
        if request.path == "/cookies":
            response = flask.make_response("c")
            response.set_cookie("a", "1")
            response.set_cookie("b", "2")
            return response
        if request.path == "/stream":
            return flask.stream_with_context(part + request.args["q"] for part in "ab")
        if request.path == "/template":
            return flask.render_template("page.txt", name="n")
        told = [request.method, request.path, request.args.get("q"), request.headers["X-A"], request.host]
        return {"told": told, "json": request.get_json(silent=True)}, 201, {"X-B": "c"}
"""


async def test_a_flask_function_sees_the_request_and_answers_flask_style(tmp_path: Path) -> None:
    registry = function(tmp_path, HTTP)
    headers = JSON | {"x-a": "1", "host": "filetype.localhost:8080"}
    response = await call(registry, request("PUT", "/ä", headers, b'{"n": 1}', "q=x%20y"))
    assert (response.status, response.headers["x-b"], response.headers["content-type"]) == (
        201,
        "c",
        "application/json",
    )
    told = ["PUT", "/ä", "x y", "1", "filetype.localhost:8080"]
    assert json.loads(await body_of(response)) == {"told": told, "json": {"n": 1}}


REQUESTS = [
    ("GET", "/", {}, b""),
    ("POST", "/a/b", JSON, b'{"n": 1}'),
    ("PUT", "/x", {"content-type": "application/x-www-form-urlencoded"}, b"a=1"),
    ("DELETE", "/zero", {}, b""),
    ("GET", "/abort", {}, b""),
    ("GET", "/stream?q=1", {}, b""),
    ("HEAD", "/", {}, b""),
    ("GET", "/cookies", {}, b""),
]


@pytest.mark.parametrize(("method", "url", "headers", "body"), REQUESTS)
async def test_answers_equal_those_of_the_packages_own_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, url: str, headers: dict[str, str], body: bytes
) -> None:
    headers = headers | {"x-a": "1", "host": "localhost"}
    path, _, query = url.partition("?")
    ours = await call(function(tmp_path, HTTP), request(method, path, headers, body, query))
    monkeypatch.setenv("FUNCTION_TARGET", "hello")
    monkeypatch.setenv("FUNCTION_SIGNATURE_TYPE", "http")
    app = functions_framework.create_app("hello", str(tmp_path / "main.py"))
    theirs = app.test_client().open(url, method=method, headers=headers, data=body)
    assert (ours.status, await body_of(ours)) == (theirs.status_code, theirs.data)
    assert list(ours.headers.items()) == [(name.lower(), value) for name, value in theirs.headers]


async def test_flasks_error_handlers_aborts_cookies_streams_and_templates_work(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "page.txt").write_text("Hello {{ name }}")
    registry = function(tmp_path, HTTP)

    async def get(path: str) -> tuple[int, bytes]:
        response = await call(registry, request("GET", path, query="q=1"))
        return response.status, await body_of(response)

    assert await get("/zero") == (418, b"no zero")
    assert (await get("/abort"))[0] == 403
    assert await get("/stream") == (200, b"a1b1")
    assert await get("/template") == (200, b"Hello n")
    cookies = await call(registry, request("GET", "/cookies"))
    assert [value for name, value in cookies.headers.items() if name == "set-cookie"] == [
        "a=1; Path=/",
        "b=2; Path=/",
    ]


async def test_an_exception_leaves_the_application_instead_of_becoming_text(tmp_path: Path) -> None:
    registry = function(tmp_path, HTTP)
    with pytest.raises(KeyError, match="secret"):
        await call(registry, request("GET", "/boom"))


EVENTS = """
    from cloudevents.http import CloudEvent
    import functions_framework

    CALLS = []

    @functions_framework.cloud_event
    def on_event(event: CloudEvent):
        assert type(event) is CloudEvent
        CALLS.append((event["type"], event.data))
        if event["type"] == "reply":
            return CloudEvent({"type": "com.example.reply", "source": "/me", "id": "9"}, {"n": 1})
        if event["type"] == "text":
            return "OK"
"""
AIO_EVENTS = EVENTS.replace("functions_framework.cloud_event", "functions_framework.aio.cloud_event").replace(
    "import functions_framework", "import functions_framework.aio"
)
ASYNC_EVENTS = AIO_EVENTS.replace("def on_event", "async def on_event")
EVERY_WAY = pytest.mark.parametrize("text", [EVENTS, AIO_EVENTS, ASYNC_EVENTS], ids=["flask", "aio-sync", "aio"])


def calls() -> list[Any]:
    return __import__("main").CALLS  # type: ignore[no-any-return]


@EVERY_WAY
async def test_an_event_function_answers_204_and_never_ok(tmp_path: Path, text: str) -> None:
    registry = function(tmp_path, text)
    for kind in ("com.example.x", "text"):
        response = await call(registry, request(headers=EVENT | JSON | {"ce-type": kind}, body=b'{"a": 1}'))
        assert (response.status, response.body) == (204, b"")
    assert calls() == [("com.example.x", {"a": 1}), ("text", {"a": 1})]


@EVERY_WAY
async def test_a_returned_event_is_the_reply(tmp_path: Path, text: str) -> None:
    response = await call(function(tmp_path, text), request(headers=EVENT | {"ce-type": "reply"}))
    told = {name: response.headers[name] for name in ("ce-type", "ce-source", "ce-id", "content-type")}
    assert told == {
        "ce-type": "com.example.reply",
        "ce-source": "/me",
        "ce-id": "9",
        "content-type": "application/json",
    }
    assert (response.status, json.loads(response.body)) == (200, {"n": 1})


@EVERY_WAY
async def test_structured_events_reach_the_function(tmp_path: Path, text: str) -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {"a": 1}}
    headers = {"content-type": "application/cloudevents+json"}
    response = await call(function(tmp_path, text), request(headers=headers, body=json.dumps(event).encode()))
    assert (response.status, calls()) == (204, [("t", {"a": 1})])


@EVERY_WAY
async def test_bad_events_do_not_reach_the_function(tmp_path: Path, text: str) -> None:
    registry = function(tmp_path, text)
    with pytest.raises(EventError, match="the data is not JSON"):
        await call(registry, request(headers=EVENT | JSON, body=b'{"a":'))
    with pytest.raises(EventError, match="type is missing"):
        await call(registry, request(headers={name: EVENT[name] for name in EVENT if name != "ce-type"}))
    with pytest.raises(MediaTypeError, match="not a batch"):
        await call(registry, request(headers={"content-type": "application/cloudevents-batch+json"}, body=b"[]"))
    with pytest.raises(EventError, match="is n"):
        await call(registry, request(headers=JSON, body=b"{}"))
    assert calls() == []


PUBSUB = {
    "context": {
        "eventId": "1",
        "timestamp": "2020-09-29T11:32:00.000Z",
        "eventType": "google.pubsub.topic.publish",
        "resource": {"service": "pubsub.googleapis.com", "name": "projects/p/topics/t", "type": "type"},
    },
    "data": {"@type": "type.googleapis.com/google.pubsub.v1.PubsubMessage", "data": "aGk="},
}


async def test_a_legacy_event_is_converted_for_an_event_function(tmp_path: Path) -> None:
    response = await call(function(tmp_path, EVENTS), request(headers=JSON, body=json.dumps(PUBSUB).encode()))
    assert response.status == 204
    assert calls()[0][0] == "google.cloud.pubsub.topic.v1.messagePublished"


@pytest.mark.filterwarnings("ignore:is_binary is deprecated:DeprecationWarning")  # the package's own
async def test_a_legacy_function_by_signature_type_answers_204(tmp_path: Path) -> None:
    text = "CALLS = []\ndef old(data, context):\n    CALLS.append((data['data'], context.event_id))\n"
    registry = function(tmp_path, text, FUNCTION_TARGET="old", FUNCTION_SIGNATURE_TYPE="event")
    response = await call(registry, request(headers=JSON, body=json.dumps(PUBSUB).encode()))
    assert (response.status, response.body, calls()) == (204, b"", [("aGk=", "1")])
    with pytest.raises(MediaTypeError):
        await call(registry, request(headers={"content-type": "application/cloudevents-batch+json"}, body=b"[]"))


TYPED = """
    import functions_framework

    class Order:
        def __init__(self, name):
            self.name = name

        @staticmethod
        def from_dict(members):
            return Order(members["name"])

        def to_dict(self):
            return {"name": self.name}

    @functions_framework.typed
    def upper(order: Order):
        return Order(order.name.upper())
"""


async def test_a_typed_function_gets_its_type_and_the_caller_hears_of_bad_json(tmp_path: Path) -> None:
    registry = function(tmp_path, TYPED)
    response = await call(registry, request(headers=JSON, body=b'{"name": "a"}'))
    assert (response.status, json.loads(await body_of(response))) == (200, {"name": "A"})
    with pytest.raises(BodyError, match="not JSON"):
        await call(registry, request(headers=JSON, body=b"{"))
    with pytest.raises(MediaTypeError):
        await call(registry, request(headers={"content-type": "text/plain"}, body=b"{}"))


AIO = """
    import functions_framework.aio
    from starlette.background import BackgroundTask
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

    DONE = []

    async def chunks():
        try:
            yield b"a"
            yield b"b"
        finally:
            DONE.append("stream")

    @functions_framework.aio.http
    async def hello(request: Request):
        path = request.url.path
        if path == "/json":
            return {"sent": (await request.body()).decode(), "q": request.query_params["q"]}
        if path == "/pair":
            return "made", 201
        if path == "/stream":
            return StreamingResponse(chunks())
        if path == "/after":
            return PlainTextResponse("now", background=BackgroundTask(DONE.append, "after"))
        if path == "/broken":
            async def broken():
                yield b"a"
                raise KeyError("late")
            return StreamingResponse(broken())
        if path == "/refuse":
            raise HTTPException(403, "not you", {"x-why": "because"})
        return None
"""


async def test_an_async_function_answers_as_under_starlette(tmp_path: Path) -> None:
    registry = function(tmp_path, AIO)

    async def post(path: str) -> tuple[int, bytes]:
        response = await call(registry, request("POST", path, body=b"x", query="q=1"))
        return response.status, await body_of(response)

    status, told = await post("/json")
    assert (status, json.loads(told)) == (200, {"sent": "x", "q": "1"})
    assert await post("/pair") == (201, b"made")
    assert await post("/stream") == (200, b"ab")
    assert await post("/after") == (200, b"now")
    assert __import__("main").DONE == ["stream", "after"]
    assert await post("/refuse") == (403, b"not you")
    with pytest.raises(KeyError, match="late"):
        await post("/broken")
    with pytest.raises(Exception, match="returned NoneType"):
        await post("/none")


async def test_an_async_stream_ends_when_its_reader_leaves(tmp_path: Path) -> None:
    stream: Any = (await call(function(tmp_path, AIO), request("GET", "/stream"))).body
    assert await anext(stream) == b"a"
    await stream.aclose()
    assert __import__("main").DONE == ["stream"]


async def test_a_plain_function_is_chosen_by_the_environment(tmp_path: Path) -> None:
    text = "def one(request):\n    return 'one'\n\ndef two(event):\n    two.got = event.data\n"
    (tmp_path / "main.py").write_text(text)
    from shoal.runtime import handlers

    registry = handlers.load(tmp_path, "handler.py", {"FUNCTION_TARGET": "one"})  # main.py is the default
    assert await body_of(await call(registry, request("GET"))) == b"one"
    registry = function(tmp_path, text, FUNCTION_TARGET="two", FUNCTION_SIGNATURE_TYPE="cloudevent")
    assert (await call(registry, request(headers=EVENT | JSON, body=b"[1]"))).status == 204
    assert __import__("main").two.got == [1]
    assert [route.name for route in registry.events] == ["two"]


async def test_files_beside_the_function_import_absolutely_and_relatively(tmp_path: Path) -> None:
    (tmp_path / "beside_ff_one.py").write_text("A = 'a'\n")
    (tmp_path / "beside_ff_two.py").write_text("B = 'b'\n")
    text = "from beside_ff_one import A\nfrom .beside_ff_two import B\ndef one(request):\n    return A + B\n"
    registry = function(tmp_path, text, FUNCTION_TARGET="one")
    assert await body_of(await call(registry, request("GET"))) == b"ab"


async def test_a_plain_coroutine_function_runs_on_the_loop(tmp_path: Path) -> None:
    registry = function(tmp_path, "async def one(request):\n    return 'one'\n", FUNCTION_TARGET="one")
    assert await body_of(await call(registry, request("GET"))) == b"one"


TWO = """
    import functions_framework

    @functions_framework.http
    def a(request): return "a"

    @functions_framework.http
    def b(request): return "b"
"""


async def test_of_several_functions_one_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"2 functions \(a, b\) and one must be chosen") as caught:
        function(tmp_path, TWO)
    assert "FUNCTION_TARGET=a" in caught.value.hint
    registry = function(tmp_path, TWO, FUNCTION_TARGET="b")
    assert await body_of(await call(registry, request("GET"))) == b"b"


@pytest.mark.parametrize(
    ("text", "env", "message"),
    [
        (TWO, {"FUNCTION_TARGET": "c"}, "FUNCTION_TARGET is 'c'.*Found: 'a', 'b'"),
        ("x = 1", {"FUNCTION_TARGET": "x"}, "needs to be of type function"),
        (
            "def f(x): ...",
            {"FUNCTION_TARGET": "f", "FUNCTION_SIGNATURE_TYPE": "soap"},
            "'soap': it must be http, cloud",
        ),
        (
            "def f(x): ...",
            {"FUNCTION_TARGET": "f", "FUNCTION_SIGNATURE_TYPE": "typed"},
            "needs the decorator @typed",
        ),
        (
            "async def f(x): ...",
            {"FUNCTION_TARGET": "f", "FUNCTION_SIGNATURE_TYPE": "event"},
            "is synchronous only",
        ),
        (
            TWO + "\n    from shoal import http\n    @http\n    def c() -> None: ...",
            {},
            "handlers of two frameworks",
        ),
    ],
)
def test_a_mistaken_choice_fails_the_load(tmp_path: Path, text: str, env: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        function(tmp_path, text, **env)


async def test_a_file_of_our_own_handlers_stays_ours_whatever_the_environment_says(tmp_path: Path) -> None:
    text = "from shoal import http\n@http\ndef f(body: bytes) -> bytes: return body\n"
    registry = function(tmp_path, text, FUNCTION_TARGET="f")
    assert (await call(registry, request(body=b"x"))).body == b"x"
