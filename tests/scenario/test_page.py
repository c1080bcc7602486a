"""The gateway's page: what it shows, to whom, and that nothing from outside becomes markup."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from helpers_browser import Browser, running_browser
from helpers_gateway import PATIENCE_S, Child, Front, control, routes, running_gateway, saying, until, upstream
from shoal.core import limits
from shoal.core.clock import FakeClock
from shoal.platform.local.balancing import Balancer
from shoal.platform.local.page import document
from shoal.platform.local.routing import RevisionRoute, Table

HOSTILE = "<img src=x onerror=alert(1)>"
HTML = document()


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with running_gateway(tmp_path) as front:
        yield front


@pytest.fixture
async def broker(front: Front) -> AsyncIterator[Child]:
    """A broker beside the gateway, which has taken its (no) triggers."""
    broker = Child("shoal.platform.local.broker", front.home)
    broker.start()
    try:
        await control(broker, "PUT", "/triggers", {"generation": 1, "gateway": "", "triggers": []})
        yield broker
    finally:
        broker.close()


async def read(front: Front, path: str = "/_page/state") -> Any:
    async with front.call("GET", path, host="localhost") as answer:
        assert answer.status == 200
        return await answer.json()


def revision(name: str, **other: Any) -> dict[str, Any]:
    return {
        "name": name, "created": time.time(), "ready": True, "reason": "", "instances": 1, "percent": 100,
        "tags": ["blue"], "models": {"m": "magika--3f2a9c1d22e0"}, "digest": "d",
    } | other  # fmt: skip


def described(name: str, *revisions: dict[str, Any], reason: str = "") -> dict[str, Any]:
    url = f"http://{name}.localhost:8080"
    listed = revisions or (revision(f"{name}-00001", ready=not reason, reason=reason),)
    return {"name": name, "url": url, "ready": not reason, "reason": reason, "traffic": [], "revisions": listed}


@asynccontextmanager
async def dead_letter(front: Front, broker: Child, **attributes: str) -> AsyncIterator[None]:
    """Function ``f`` refuses an event for good, and its trigger's delivery is a dead letter."""

    async def refusing(_: web.Request) -> web.Response:
        problem = {"status": 400, "detail": f"no: {HOSTILE}"}
        return web.json_response(problem, status=400, content_type="application/problem+json")

    trigger = {"name": "f-0", "function": "f", "filter": {"type": "com.example.x", "source": HOSTILE}}
    gateway = f"http://127.0.0.1:{front.child.port}"
    async with upstream(refusing) as port:
        await front.put(routes({"f": {"f-00001": 100}}, {"f-00001": [port]}))
        await control(broker, "PUT", "/triggers", {"generation": 2, "gateway": gateway, "triggers": [trigger]})
        named = {"id": "e-1", "source": HOSTILE, "type": "com.example.x", "specversion": "1.0"} | attributes
        headers = {f"ce-{name}": value for name, value in named.items()}
        async with front.session.post(f"http://127.0.0.1:{broker.port}/", headers=headers, data=b"{}") as answer:
            assert answer.status == 202
        await until(lambda: _has_dead(broker), "for a dead letter")
        yield


async def _has_dead(broker: Child) -> bool:
    return bool((await control(broker, "GET", "/stats"))["dead"])


async def test_the_state_joins_what_gateway_node_and_broker_know(front: Front, broker: Child) -> None:
    front.node.documents["/v1/functions"] = {"functions": [described("f")]}
    part = {"name": "pool", "ready": True, "detail": "", "address": "", "pid": 1, "restarts": 2}
    front.node.documents["/v1/status"] = {"components": [part], "models": {"magika--3f2a9c1d22e0": "READY"}}
    async with upstream(saying("up")) as port:
        await front.put(routes({"f": {"f-00001": 100}}, {"f-00001": [port]}))
        assert (await front.fetch("POST", "/p?q=secret", host="f.localhost"))[0] == 200
        assert (await front.fetch("GET", host="nope.localhost"))[0] == 404
        found = await read(front)
    assert found["problems"] == []
    assert found["functions"][0]["name"] == "f"
    assert found["components"] == [part]
    assert found["models"] == {"magika--3f2a9c1d22e0": "READY"}
    assert found["load"]["f-00001"]["requests"] == 1
    assert found["broker"]["accepted"] == 0
    newest, before = found["recent"][:2]
    assert (newest["status"], newest["function"]) == (404, "")
    assert (before["status"], before["revision"], before["path"]) == (200, "f-00001", "/p")
    assert "secret" not in str(found)


async def test_what_cannot_be_read_is_named_and_the_rest_is_shown(front: Front) -> None:
    await front.put(routes({}, {}))
    front.home.socket("node").unlink()
    found = await read(front)
    assert any("node" in problem for problem in found["problems"])
    assert any("broker" in problem for problem in found["problems"])
    assert (found["functions"], found["broker"], found["recent"]) == ([], None, [])


OWN = [("GET", "/", "localhost"), ("GET", "/", "127.0.0.1"), ("GET", "/", "[::1]"), ("HEAD", "/", "localhost")]
FOREIGN = [
    ("GET", "/", "rebound.example", 404),
    ("GET", "/_page/state", "rebound.example", 404),
    ("GET", "/_page/state", "localhost.example", 404),
    ("GET", "/_page/dead", "rebound.example", 404),
    ("POST", "/_page/dead", "localhost", 405),
    ("POST", "/_page/state", "localhost", 405),
    ("GET", "/other", "localhost", 404),
]


async def test_the_page_answers_on_its_own_hosts_only(front: Front) -> None:
    for method, path, host, status in [(*one, 200) for one in OWN] + FOREIGN:
        async with front.call(method, path, host=f"{host}:{front.child.port}") as answer:
            assert answer.status == status, (method, path, host)
            assert "Access-Control-Allow-Origin" not in answer.headers


async def test_the_policy_lets_only_the_pages_own_script_and_style_run(front: Front) -> None:
    async with front.call("GET", "/", host="localhost") as answer:
        served = await answer.text()
        rules = dict(rule.strip().split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split(";"))
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert rules["default-src"] == "'none'"
    assert rules["frame-ancestors"] == "'none'"
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", served, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_the_page_asks_nobody_else_and_writes_no_markup() -> None:
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", HTML) + re.findall(r"url\(([^)]*)", HTML)
    assert set(addresses) == {"data:,", "#functions"}
    assert set(re.findall(r"read\(([^,)]*)", HTML)) == {'"/_page/state"', '"/_page/dead"', "path"}
    assert re.findall(r"fetch\(([^,)]*)", HTML) == ["path"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|@import|style=", HTML)
    assert "aria-label" in HTML
    assert "prefers-color-scheme" in HTML


async def test_a_revision_out_of_the_split_keeps_its_count_and_shows_what_it_still_works_on(front: Front) -> None:
    finish = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        if request.path == "/slow":
            await finish.wait()
        return web.Response(text="ok")

    names = ("f-1", "f-2")
    front.node.documents["/v1/functions"] = {"functions": [described("f", *map(revision, names))]}
    async with upstream(slow) as port:
        for generation, name in enumerate(("f-1", "f-1", "f-2", "f-2", "f-1"), start=1):
            await front.put(routes({"f": {name: 100}}, {name: [port]}, generation=generation))
            if generation == 2:
                held = asyncio.ensure_future(front.fetch("GET", "/slow", host="f.localhost"))
                await until(lambda: front.has_load("f-1", in_flight=1))
            if generation == 3:
                assert (await read(front))["load"]["f-1"]["in_flight"] == 1
                finish.set()
                assert (await held)[0] == 200
            assert (await front.fetch("GET", host="f.localhost"))[0] == 200
            if generation == 4:
                load = (await read(front))["load"]
                assert {name: load[name]["requests"] for name in names} == {"f-1": 3, "f-2": 2}
        load = (await read(front))["load"]
        assert {name: load[name]["requests"] for name in names} == {"f-1": 4, "f-2": 2}


def test_counts_of_revisions_that_are_gone_are_bounded() -> None:
    balancer = Balancer(FakeClock())
    for index in range(limits.GATEWAY_PAST_REVISIONS_MAX + 2):
        balancer.enter(balancer.revision(f"f-{index}"))
        balancer.leave(balancer.revision(f"f-{index}"))
        balancer.apply(Table(index, {}, {f"f-{index + 1}": RevisionRoute()}, {}))
    assert len(balancer.past) == limits.GATEWAY_PAST_REVISIONS_MAX
    assert "f-0" not in balancer.past
    assert len(balancer.report()) == 1
    assert balancer.revision("f-10").load.requests == 1


async def test_dead_letters_are_listed_with_why(front: Front, broker: Child) -> None:
    async with dead_letter(front, broker, id="e" * 2 * limits.PAGE_TEXT_CHARS_MAX):
        found = await read(front, "/_page/dead")
    assert found["problems"] == []
    (letter,) = found["dead"]
    assert letter["id"] == "e" * limits.PAGE_TEXT_CHARS_MAX
    assert (letter["type"], letter["source"], letter["function"]) == ("com.example.x", HOSTILE, "f")
    assert (letter["attempts"], letter["code"]) == (1, 400)
    assert "no: " in letter["reason"]
    assert letter["time"] == pytest.approx(time.time(), abs=PATIENCE_S)


async def test_dead_letters_that_cannot_be_read_are_a_problem_on_the_page(front: Front) -> None:
    await front.put(routes({}, {}))
    found = await read(front, "/_page/dead")
    assert found["dead"] == []
    assert "broker" in found["problems"][0]


async def test_the_state_names_the_triggers(front: Front, broker: Child) -> None:
    trigger = {"name": "f-0", "function": "f", "broker": "default", "filter": {"type": "com.example.x"}}
    await control(broker, "PUT", "/triggers", {"generation": 2, "gateway": "", "triggers": [trigger]})
    await front.put(routes({}, {}))
    assert (await read(front))["triggers"] == [{key: trigger[key] for key in ("function", "broker", "filter")}]


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    if shutil.which("chromium") is None:
        pytest.skip("no chromium on this machine")
    async with running_browser(tmp_path / "profile") as browser:
        yield browser


def own(front: Front, fragment: str = "") -> str:
    return f"http://localhost:{front.child.port}/{fragment}"


async def shown(browser: Browser, part: str = "document.body") -> str:
    """Give the markup of a part of the page, without its script."""
    return re.sub(r"<script>.*?</script>", "", await browser.run(f"{part}.outerHTML"), flags=re.DOTALL)


async def test_a_browser_shows_the_functions_and_reads_no_name_as_markup(front: Front, browser: Browser) -> None:
    listed = [described("fish"), described("bad", reason=HOSTILE)]
    front.node.documents["/v1/functions"] = {"functions": listed}
    await front.put(routes({}, {}))
    await browser.open(own(front), 1280)
    dom = await shown(browser)
    assert "<h3>fish</h3>" in dom
    assert "magika--3f2a9c1d22e0" in dom
    assert "&lt;img src=x" in dom
    assert "<img" not in dom


async def test_a_browser_shows_events_triggers_and_dead_letters_as_text(
    front: Front, broker: Child, browser: Browser
) -> None:
    front.node.documents["/v1/functions"] = {"functions": [described("f")]}
    part = {"name": "pool", "ready": True, "detail": "up", "address": "", "pid": 1, "restarts": 2}
    front.node.documents["/v1/status"] = {"components": [part], "models": {"magika--3f2a9c1d22e0": "READY"}}
    async with dead_letter(front, broker):
        await browser.open(own(front), 1280)
        assert "com.example.x" in await shown(browser, "document.getElementById('cards')")
        await browser.run("document.querySelector('a.tile.bad').click()")
        await until(lambda: browser.run("!document.getElementById('dead').hidden"))
        dead, dom = await shown(browser, "document.getElementById('dead')"), await shown(browser)
        await browser.run("document.querySelector('.close').click()")
        await until(lambda: browser.run("document.getElementById('dead').hidden"))
    for text in ("e-1", "com.example.x", "answered 400: no: &lt;img"):
        assert text in dead
    assert "[object" not in dom
    assert "<img" not in dom
    assert "<dt>accepted</dt><dd>1</dd>" in dom


async def test_a_browser_lists_a_revision_that_still_drains(front: Front, browser: Browser) -> None:
    finish = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await finish.wait()
        return web.Response()

    old = revision("f-00001", percent=0, tags=[], instances=0)
    front.node.documents["/v1/functions"] = {"functions": [described("f", revision("f-00002"), old)]}
    async with upstream(slow) as port:
        names = ("f-00001", "gone-00001")
        splits = {name.partition("-")[0]: {name: 100} for name in names}
        await front.put(routes(splits, {name: [port] for name in names}))
        held = [asyncio.ensure_future(front.fetch("GET", host=f"{name}.localhost")) for name in splits]
        for name in names:
            await until(partial(front.has_load, name, in_flight=1))
        await front.put(routes({"f": {"f-00002": 100}}, {"f-00002": [port]}, generation=2))
        await browser.open(own(front), 1280)
        cards = await shown(browser, "document.getElementById('cards')")
        finish.set()
        assert [status for status, _ in await asyncio.gather(*held)] == [200, 200]
    assert cards.count("draining") == 2
    assert "gone-00001" in cards


# Elements whose content is wider than they are, and the left edges of every card's columns.
_SIDEWAYS = """[...document.querySelectorAll("*")].filter((one) =>
  one.scrollWidth > Math.max(one.clientWidth, 1) + 1 && getComputedStyle(one).display !== "inline"
  && !one.closest("svg, thead, .skip, .split")).map((one) => one.tagName + "." + one.className)"""
_EDGES = """[...document.querySelectorAll("article table.revisions")].map((table) =>
  [...table.querySelectorAll("th")].map((cell) => Math.round(cell.getBoundingClientRect().left)).join())"""


async def test_a_browser_cuts_nothing_and_aligns_the_cards(front: Front, broker: Child, browser: Browser) -> None:
    long = "a-function-with-a-rather-long-name"
    spare = revision(f"{long}-00001", percent=10, tags=["canary", "blue", "green"], ready=False, reason="r" * 200)
    listed = [described("f"), described(long, revision(f"{long}-00002", percent=90), spare)]
    front.node.documents["/v1/functions"] = {"functions": listed}
    address = "/home/somebody/with/a/long/folder/name/.shoal/run/node.sock"
    part = {"name": "node", "ready": True, "detail": address, "address": address, "pid": 1, "restarts": 2}
    front.node.documents["/v1/status"] = {"components": [part] * 4, "models": {"m" * 60: "READY", "n": "x" * 99}}
    async with dead_letter(front, broker, id="e" * 300):
        for width in (1280, 800, 400):
            await browser.open(own(front, "#dead"), width)
            await until(lambda: browser.run("!document.getElementById('dead').hidden"))
            assert await browser.run(_SIDEWAYS) == [], width
            assert await browser.run("document.documentElement.scrollWidth <= innerWidth"), width
        await browser.open(own(front), 1280)
        edges = await browser.run(_EDGES)
    assert len(edges) == 2
    assert len(set(edges)) == 1
