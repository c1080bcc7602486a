"""Loading a handler file, and which handler a request goes to."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers_handlers import EVENT, JSON, body_of, call, clean_imports, load, request
from shoal.core.errors import EventError, MediaTypeError, MethodError, NotFoundError, UsageError
from shoal.runtime import handlers


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    with clean_imports():
        yield


async def answer(text: str, folder: Path, *requests: tuple[str, str]) -> list[bytes]:
    registry = load(folder, text)
    return [await body_of(await call(registry, request(method, path))) for method, path in requests]


async def test_the_exact_path_goes_before_any_path(tmp_path: Path) -> None:
    text = """
        from shoal import http

        @http
        def anything() -> str:
            return "any"

        @http(path="/x")
        async def exact() -> str:
            return "exact"

        @http(path="/y", methods=["GET"])
        def reading() -> str:
            return "get"

        @http(path="/y", methods=["POST", "PUT"])
        def writing() -> str:
            return "post"
    """
    asked = [("GET", "/"), ("GET", "/x"), ("GET", "/x/"), ("GET", "/y"), ("PUT", "/y")]
    assert await answer(text, tmp_path, *asked) == [b"any", b"exact", b"any", b"get", b"post"]
    with pytest.raises(MethodError, match="/y takes GET and POST and PUT, not DELETE") as caught:
        handlers.current().dispatch(request("DELETE", "/y"))
    assert caught.value.allowed == ("GET", "POST", "PUT")


async def test_a_path_no_handler_takes_is_not_found(tmp_path: Path) -> None:
    registry = load(tmp_path, 'from shoal import http\n@http(path="/x")\ndef f() -> None: ...\n')
    with pytest.raises(NotFoundError, match="no handler takes the path '/'"):
        registry.dispatch(request())
    with pytest.raises(NotFoundError, match="has no handlers"):
        handlers.Registry().dispatch(request())


EVENTS = """
    from shoal import CloudEvent, event

    @event
    def anything(e: CloudEvent) -> CloudEvent:
        return CloudEvent(type="any")

    @event(type="com.example.x")
    def typed(e: CloudEvent) -> CloudEvent:
        return CloudEvent(type="typed")

    @event(source="/s2")
    def sourced(e: CloudEvent) -> CloudEvent:
        return CloudEvent(type="sourced")

    @event(type="com.example.x", source="/s2")
    def both(e: CloudEvent) -> CloudEvent:
        return CloudEvent(type="both")
"""


@pytest.mark.parametrize(
    ("kind", "source", "taken_by"),
    [
        ("com.example.x", "/s", "typed"),
        ("com.example.y", "/s", "any"),
        ("com.example.y", "/s2", "sourced"),
        ("com.example.x", "/s2", "both"),
    ],
)
async def test_an_event_goes_to_the_most_filters(tmp_path: Path, kind: str, source: str, taken_by: str) -> None:
    registry = load(tmp_path, EVENTS)
    response = await call(registry, request(headers=EVENT | {"ce-type": kind, "ce-source": source}))
    assert response.headers["ce-type"] == taken_by


ONE_EVENT = """
    from shoal import event

    @event(type="com.example.x")
    def on_x(data: dict) -> None: ...
"""


async def test_an_event_nobody_takes_is_no_404_which_a_broker_would_repeat(tmp_path: Path) -> None:
    registry = load(tmp_path, ONE_EVENT)
    with pytest.raises(EventError, match="no handler takes events of type 'other'") as caught:
        registry.dispatch(request(headers=EVENT | {"ce-type": "other"}))
    assert caught.value.status == 400


async def test_a_request_that_is_no_event_is_told_so(tmp_path: Path) -> None:
    registry = load(tmp_path, ONE_EVENT)
    with pytest.raises(MediaTypeError, match="takes CloudEvents, and the request is none"):
        registry.dispatch(request(headers=JSON, body=b"{}"))
    with pytest.raises(MethodError, match="by POST, not GET"):
        registry.dispatch(request("GET"))
    with pytest.raises(MethodError, match="by POST, not PUT"):
        registry.dispatch(request("PUT", headers=EVENT))


async def test_events_and_requests_go_to_their_own_handlers(tmp_path: Path) -> None:
    registry = load(
        tmp_path, ONE_EVENT + "\n    from shoal import http\n\n    @http\n    def page() -> str: return 'p'\n"
    )
    assert (await call(registry, request("GET"))).body == b"p"
    assert (await call(registry, request(headers=EVENT | JSON, body=b"{}"))).status == 204


async def test_synchronous_handlers_run_off_the_loop_and_async_ones_on_it(tmp_path: Path) -> None:
    text = """
        import threading
        from shoal import http

        @http(path="/sync")
        def off() -> int:
            return threading.get_ident()

        @http(path="/async")
        async def on() -> int:
            return threading.get_ident()
    """
    off, on = await answer(text, tmp_path, ("GET", "/sync"), ("GET", "/async"))
    assert int(on) == threading.get_ident()
    assert int(off) != threading.get_ident()


def test_hooks_and_sibling_modules_load_and_each_load_is_fresh(tmp_path: Path) -> None:
    (tmp_path / "beside_labels.py").write_text("LABELS = ['a']\n")
    text = """
        from beside_labels import LABELS
        from shoal import http, start, stop

        @start
        async def warm() -> None: ...

        @stop
        def cool() -> None: ...

        @http
        def f() -> list: return LABELS
    """
    for _ in range(2):
        registry = load(tmp_path, text)
        assert [hook.__name__ for hook in registry.start + registry.stop] == ["warm", "cool"]
        assert [route.name for route in registry.http] == ["f"]
        assert registry is handlers.current()


def test_the_files_own_exception_passes_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        load(tmp_path, "1 / 0\n")


def test_a_missing_file_and_a_shadowing_name_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no handler file .*handler\.py"):
        handlers.load(tmp_path, "handler.py", {})
    with pytest.raises(UsageError, match=r"json\.py needs another name"):
        load(tmp_path, "", filename="json.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@http(path='x')\ndef f() -> None: ...", "path 'x' must start with '/'"),
        ("@http(path='/_shoal/live')\ndef f() -> None: ...", "is the runtime's own"),
        ("@http(path='/metrics')\ndef f() -> None: ...", "is the runtime's own"),
        ("@http(methods=['get'])\ndef f() -> None: ...", "method 'get' must be upper-case"),
        ("@http\ndef f() -> None: ...\n@http\ndef g() -> None: ...", "g takes the same requests as .*f"),
        ("@event\ndef f() -> None: ...\n@event\ndef g() -> None: ...", "g takes the same events as .*f"),
        ("@event\ndef f(d: dict) -> str: ...", "f returns str: an event handler returns None, a CloudEvent"),
        ("@event\ndef f(d: dict) -> dict | None: ...", "f returns dict: an event handler"),
        ("@event\nasync def f(d: dict):\n    yield 1", "does not stream"),
    ],
)
def test_a_mistaken_declaration_fails_the_load_with_file_and_function(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load(tmp_path, f"from shoal import event, http\n{text}\n")
    assert f"{tmp_path}/handler.py:" in caught.value.message


def test_loading_a_handler_imports_nothing_it_does_not_ask_for(tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text(
        "from dataclasses import dataclass\nfrom shoal import CloudEvent, Context, Request, event, http\n"
        "@dataclass\nclass Body:\n    n: int\n"
        "@http\ndef f(body: Body, context: Context) -> dict: ...\n"
        "@event\ndef g(e: CloudEvent) -> None: ...\n"
    )
    script = (
        "import sys; from pathlib import Path; from shoal.runtime import handlers; "
        f"handlers.load(Path({str(tmp_path)!r})); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    forbidden = {"pydantic", "numpy", "msgspec", "cloudevents", "flask", "starlette", "functions_framework", "yaml"}
    assert not forbidden & {name.partition(".")[0] for name in done.stdout.split()}


async def test_a_batch_is_handled_in_turn_and_answered_as_a_batch(tmp_path: Path) -> None:
    text = """
        from shoal import event

        SEEN = []

        @event(reply_type="com.example.reply")
        def on_any(data: dict) -> dict | None:
            SEEN.append(data["n"])
            return {"n": data["n"]} if data["n"] % 2 else None
    """
    registry = load(tmp_path, text)
    event = '{"specversion":"1.0","id":"%d","source":"/s","type":"t","data":{"n":%d}}'

    def batch(*numbers: int, **headers: str) -> object:
        body = "[" + ",".join(event % (n, n) for n in numbers) + "]"
        return request(headers={"content-type": "application/cloudevents-batch+json"} | headers, body=body.encode())

    assert (await call(registry, batch())).status == 204
    assert (await call(registry, batch(0, 2))).status == 204
    one = await call(registry, batch(0, 1, prefer="respond-async, reply"))
    assert (one.status, one.headers["ce-type"], one.body) == (200, "com.example.reply", b'{"n":1}')
    two = await call(registry, batch(1, 3))
    assert two.headers["content-type"].startswith("application/cloudevents-batch+json")
    with pytest.raises(EventError, match="a broker accepts a single event"):
        await call(registry, batch(5, 7, prefer="reply"))
    assert sys.modules["handler"].SEEN == [0, 2, 0, 1, 1, 3, 5, 7]


async def test_a_functions_packages_come_after_its_own_files_and_before_the_environments(tmp_path: Path) -> None:
    packages, folder = tmp_path / "packages", tmp_path / "function"
    packages.mkdir()
    folder.mkdir()
    (packages / "httptools.py").write_text("WHERE = 'packages'\n")  # the environment's, were it not pinned
    (packages / "colorsys.py").write_text("WHERE = 'packages'\n")  # Python's own
    for place in (packages, folder):
        (place / "beside_both.py").write_text(f"WHERE = {place.name!r}\n")
    code = """
        from importlib.machinery import PathFinder
        from shoal import http
        import beside_both

        @http
        def where() -> list:
            found = [PathFinder.find_spec(name).origin for name in ("msgspec", "httptools", "colorsys", "shoal")]
            return [beside_both.WHERE, *(origin.startswith("PACKAGES") for origin in found)]
    """.replace("PACKAGES", str(packages))
    load(folder, code, env={"SHOAL_PACKAGES": str(packages)})
    registry = load(folder, code, env={"SHOAL_PACKAGES": str(packages)})
    assert sys.path.count(str(packages)) == 1
    spot = sys.path.index(str(packages))
    assert sys.path.index(str(folder)) < spot < [Path(entry).name for entry in sys.path].index("site-packages")
    response = await call(registry, request())
    assert response.body == b'["function",false,true,false,false]'


def test_packages_that_are_gone_are_a_reason_not_to_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"packages are not in .*/none any more: deploy it again"):
        load(tmp_path, "", env={"SHOAL_PACKAGES": str(tmp_path / "none")})
