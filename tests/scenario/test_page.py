"""The gateway's page: what it shows, to whom, and that nothing from outside becomes markup."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import shutil
import time
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from helpers_gateway import PATIENCE_S, Child, Front, routes, running_gateway, saying, upstream

HOSTILE = "<img src=x onerror=alert(1)>"
HTML = files("shoal.platform.local").joinpath("page.html").read_text()


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with running_gateway(tmp_path) as front:
        yield front


async def state(front: Front) -> Any:
    async with front.call("GET", "/_page/state", host="localhost") as answer:
        assert answer.status == 200
        return await answer.json()


def described(name: str, reason: str = "") -> dict[str, Any]:
    revision = {
        "name": f"{name}-00001", "created": time.time(), "ready": not reason, "reason": reason, "instances": 1,
        "percent": 100, "tags": ["blue"], "models": {"m": "magika--3f2a9c1d22e0"}, "digest": "d",
    }  # fmt: skip
    url = f"http://{name}.localhost:8080"
    return {"name": name, "url": url, "ready": not reason, "reason": reason, "traffic": [], "revisions": [revision]}


async def test_the_state_joins_what_gateway_node_and_broker_know(front: Front) -> None:
    broker = Child("shoal.platform.local.broker", front.home)
    broker.start()
    front.node.documents["/v1/functions"] = {"functions": [described("f")]}
    part = {"name": "pool", "ready": True, "detail": "", "address": "", "pid": 1, "restarts": 2}
    front.node.documents["/v1/status"] = {"components": [part], "models": {"magika--3f2a9c1d22e0": "READY"}}
    try:
        async with upstream(saying("up")) as port:
            await front.put(routes({"f": {"f-00001": 100}}, {"f-00001": [port]}))
            assert (await front.fetch("POST", "/p?q=secret", host="f.localhost"))[0] == 200
            assert (await front.fetch("GET", host="nope.localhost"))[0] == 404
            found = await state(front)
            while found["problems"]:  # the broker may still be starting
                await asyncio.sleep(0.05)
                found = await state(front)
    finally:
        broker.close()
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
    found = await state(front)
    assert any("node" in problem for problem in found["problems"])
    assert any("broker" in problem for problem in found["problems"])
    assert (found["functions"], found["broker"], found["recent"]) == ([], None, [])


OWN = [("GET", "/", "localhost"), ("GET", "/", "127.0.0.1"), ("GET", "/", "[::1]"), ("HEAD", "/", "localhost")]
FOREIGN = [
    ("GET", "/", "rebound.example", 404),
    ("GET", "/_page/state", "rebound.example", 404),
    ("GET", "/_page/state", "localhost.example", 404),
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
    assert re.findall(r"fetch\(([^,)]*)", HTML) == ['"/_page/state"']
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|@import|style=", HTML)
    assert "aria-label" in HTML
    assert "prefers-color-scheme" in HTML


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
async def test_a_browser_shows_the_functions_and_reads_no_name_as_markup(front: Front, tmp_path: Path) -> None:
    front.node.documents["/v1/functions"] = {"functions": [described("fish"), described("bad", HOSTILE)]}
    await front.put(routes({}, {}))
    dom = await browse(f"http://localhost:{front.child.port}/", tmp_path / "profile")
    assert "<h3>fish</h3>" in dom
    assert "magika--3f2a9c1d22e0" in dom
    assert "&lt;img src=x" in dom
    assert "<img" not in dom


async def browse(url: str, profile: Path) -> str:
    """Load a page in a real browser, let its script run for some virtual seconds, and give the document."""
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
        "--virtual-time-budget=3000", "--dump-dom",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        "chromium", *flags, url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE_S):
            return (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
            await process.wait()
