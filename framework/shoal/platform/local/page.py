"""The gateway's own page: what the platform does at this moment, for a browser on this machine.

The page is one document without any outside resource, and its policy lets it run its own script and style only.
It is served on the gateway's own host names alone, so that a site which points its name at this machine reads
nothing.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib.resources import files
from typing import Any, Final

from aiohttp import web

from shoal.core import limits
from shoal.core.clock import Clock
from shoal.core.errors import MethodError, NotFoundError, ShoalError
from shoal.platform.local.accesslog import AccessLog
from shoal.platform.local.balancing import Balancer
from shoal.platform.local.routing import OWN_HOSTS, Address

Read = Callable[
    [str], Awaitable[Any]
]  # GET a document from another process of the platform; ShoalError if it fails
STATE_PATH: Final = "/_page/state"
DEAD_PATH: Final = "/_page/dead"
_FRESH_SECONDS: Final = 0.5  # for how long one reading of the other processes serves every open page
_TRIGGER_FIELDS: Final = ("function", "broker", "filter")
_COMMON: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Page:
    """Serves ``/``, ``/_page/state`` and ``/_page/dead`` on the gateway's own hosts."""

    def __init__(self, node: Read, broker: Read, log: AccessLog, balancer: Balancer, clock: Clock) -> None:
        self._node = node
        self._broker = broker
        self._log = log
        self._balancer = balancer
        self._clock = clock
        self._html = document()
        self._policy = policy(self._html)
        self._others = _Reading(self._read_others, clock)
        self._dead = _Reading(self._read_dead, clock)

    async def answer(self, request: web.BaseRequest, where: Address) -> web.StreamResponse:
        """Answer a request that names no function; NotFoundError for anything but the page and what it reads."""
        path = where.path.partition("?")[0]
        if where.host not in OWN_HOSTS or path not in ("/", STATE_PATH, DEAD_PATH):
            raise NotFoundError(
                f"nothing answers at {where.host}{path[:100]}",
                hint=f"http://NAME.localhost{':' + where.port if where.port else ''}/ is the function NAME",
            )
        if request.method not in ("GET", "HEAD"):
            raise MethodError(f"{path} is only read", allowed=("GET", "HEAD"))
        if path == "/":
            return web.Response(
                text=self._html,
                content_type="text/html",
                headers=_COMMON | {"Content-Security-Policy": self._policy},
            )
        found = await (self.state() if path == STATE_PATH else self._dead.get())
        return web.Response(body=json.dumps(found).encode(), content_type="application/json", headers=_COMMON)

    async def state(self) -> dict[str, Any]:
        """Assemble what the page shows; parts that cannot be read are empty and named in ``problems``."""
        others = await self._others.get()
        return {
            "time": self._clock.now(),
            "recent": self._log.recent(),
            "load": self._load(others["functions"]),
            **others,
        }

    def _load(self, functions: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Give the load of the functions' revisions, and of those that are gone but still work on requests."""
        past = {name: {"in_flight": 0, "held": 0, "requests": count} for name, count in self._balancer.past.items()}
        listed = {revision["name"] for function in functions for revision in function["revisions"]}
        known = past | dict(self._balancer.report())
        return {name: load for name, load in known.items() if name in listed or load["in_flight"]}

    async def _read_others(self) -> dict[str, Any]:
        problems: list[str] = []
        status, functions, broker, triggers = await asyncio.gather(
            _part(self._node, "/v1/status", problems),
            _part(self._node, "/v1/functions", problems),
            _part(self._broker, "/stats", problems),
            _part(self._broker, "/triggers", problems),
        )
        return {
            "components": status.get("components", []),
            "models": status.get("models", {}),
            "functions": functions.get("functions", []),
            "broker": broker or None,
            "triggers": [{name: one[name] for name in _TRIGGER_FIELDS} for one in triggers.get("triggers", [])],
            "problems": problems,
        }

    async def _read_dead(self) -> dict[str, Any]:
        problems: list[str] = []
        found = await _part(self._broker, "/dead", problems)
        letters = found.get("dead", [])[: limits.BROKER_LISTED_MAX]
        return {"dead": [_letter(one) for one in letters], "problems": problems}


class _Reading:
    """One reading of other processes at a time, which serves everybody who asks soon after."""

    def __init__(self, read: Callable[[], Awaitable[dict[str, Any]]], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._lock = asyncio.Lock()
        self._at = float("-inf")
        self._found: dict[str, Any] = {}

    async def get(self) -> dict[str, Any]:
        """Give the newest reading."""
        async with self._lock:
            now = self._clock.monotonic()
            if now - self._at >= _FRESH_SECONDS:
                self._found = await self._read()
                self._at = now
            return self._found


async def _part(read: Read, path: str, problems: list[str]) -> dict[str, Any]:
    """Read one document; empty when it cannot be read, and ``problems`` then says why."""
    try:
        return await read(path) or {}
    except ShoalError as error:
        if error.message not in problems:
            problems.append(error.message)
        return {}


def _letter(found: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the page shows of a dead letter, each text cut to ``PAGE_TEXT_CHARS_MAX``."""
    event = found["event"]
    texts = {"id": event["id"], "source": event["source"], "type": event["type"]}
    texts |= {"function": found["function"], "reason": found["reason"]}
    cut = {name: str(text)[: limits.PAGE_TEXT_CHARS_MAX] for name, text in texts.items()}
    return cut | {name: found[name] for name in ("attempts", "code", "time")}


def document() -> str:
    """Give the page: its markup with the script and the style in their places."""
    folder = files("shoal.platform.local")
    markup, style, script = (folder.joinpath(f"page.{kind}").read_text() for kind in ("html", "css", "js"))
    return markup.replace("/* page.css */", style).replace("/* page.js */", script)


def policy(html: str) -> str:
    """Give the content security policy that lets this page's own script and style run, and nothing else."""
    script, style = (_digest(html, tag) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _digest(html: str, tag: str) -> str:
    """Give the hash a policy names an inline element by."""
    found = re.search(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    content = found[1] if found else ""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
