"""The gateway's own page: what the platform does at this moment, for a browser on this machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from shoal.core.errors import NotFoundError
from shoal.platform.local.accesslog import AccessLog
from shoal.platform.local.balancing import Balancer
from shoal.platform.local.routing import Address


class Page:
    """Serves ``/`` and ``/_page/state`` on the gateway's own hosts."""

    def __init__(self, read: Callable[[str], Awaitable[Any]], log: AccessLog, balancer: Balancer) -> None:
        self._read = read
        self._log = log
        self._balancer = balancer

    async def answer(self, request: web.BaseRequest, where: Address) -> web.StreamResponse:
        """Answer a request that names no function; NotFoundError for anything but the page."""
        raise NotFoundError(f"nothing answers at {where.host}{where.path[:100]}")
