"""The gateway's own page: what the platform does at this moment, for a browser on this machine.

The page is one file without any outside resource, and its policy lets it run its own script and style only. It is
served on the gateway's own host names alone, so that a site which points its name at this machine reads nothing.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, Final

from aiohttp import web

from shoal.core.clock import Clock
from shoal.core.errors import MethodError, NotFoundError, ShoalError
from shoal.platform.local.accesslog import AccessLog
from shoal.platform.local.balancing import Balancer
from shoal.platform.local.routing import OWN_HOSTS, Address

Read = Callable[
    [str], Awaitable[Any]
]  # GET a document from another process of the platform; ShoalError if it fails
STATE_PATH: Final = "/_page/state"
_FRESH_SECONDS: Final = 0.5  # for how long one reading of the other processes serves every open page
_COMMON: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Page:
    """Serves ``/`` and ``/_page/state`` on the gateway's own hosts."""

    def __init__(self, node: Read, broker: Read, log: AccessLog, balancer: Balancer, clock: Clock) -> None:
        self._node = node
        self._broker = broker
        self._log = log
        self._balancer = balancer
        self._clock = clock
        self._html = files("shoal.platform.local").joinpath("page.html").read_text()
        self._policy = policy(self._html)
        self._read_at = float("-inf")
        self._reading: asyncio.Lock = asyncio.Lock()
        self._others: dict[str, Any] = {}

    async def answer(self, request: web.BaseRequest, where: Address) -> web.StreamResponse:
        """Answer a request that names no function; NotFoundError for anything but the page and its state."""
        path = where.path.partition("?")[0]
        if where.host not in OWN_HOSTS or path not in ("/", STATE_PATH):
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
        return web.Response(
            body=json.dumps(await self.state()).encode(), content_type="application/json", headers=_COMMON
        )

    async def state(self) -> dict[str, Any]:
        """Assemble what the page shows; parts that cannot be read are empty and named in ``problems``."""
        async with self._reading:
            now = self._clock.monotonic()
            if now - self._read_at >= _FRESH_SECONDS:
                self._others = await self._read_others()
                self._read_at = now
        return {
            "time": self._clock.now(),
            "recent": self._log.recent(),
            "load": self._balancer.report(),
            **self._others,
        }

    async def _read_others(self) -> dict[str, Any]:
        problems: list[str] = []

        async def part(read: Read, path: str) -> Any:
            try:
                return await read(path)
            except ShoalError as error:
                if error.message not in problems:
                    problems.append(error.message)
                return None

        status, functions, broker = await asyncio.gather(
            part(self._node, "/v1/status"), part(self._node, "/v1/functions"), part(self._broker, "/stats")
        )
        return {
            "components": (status or {}).get("components", []),
            "models": (status or {}).get("models", {}),
            "functions": (functions or {}).get("functions", []),
            "broker": broker,
            "problems": problems,
        }


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
