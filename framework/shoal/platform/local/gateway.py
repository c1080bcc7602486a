"""The front door of the local platform: every request from outside passes here on its way to an instance.

``python -m shoal.platform.local.gateway --fd N --home DIR`` serves the listening socket ``N`` it inherits, takes
its routes over ``run/gateway.sock`` and asks the node over ``run/node.sock`` for instances where there are none.
It keeps no state that outlives it: after a restart it holds requests until the node has sent the routes again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import AsyncExitStack
from functools import partial
from random import Random

import aiohttp
import uvloop
from aiohttp import hdrs, web

from shoal.core import lifeline, limits
from shoal.core.clock import Clock, SystemClock
from shoal.core.errors import (
    DeadlineError,
    MethodError,
    NotFoundError,
    NotRunningError,
    OverloadError,
    ShoalError,
    UsageError,
)
from shoal.platform.local import page, problems, proxy, routing, serving
from shoal.platform.local.accesslog import AccessLog, Visit
from shoal.platform.local.activator import Activator, wake_through_node
from shoal.platform.local.balancing import Balancer, Revision
from shoal.platform.local.control import call
from shoal.platform.local.layout import Home, home_of

_CLIENT_GONE = 499  # as nginx logs it; nobody reads this answer


class Gateway:
    """Routes, holds and forwards; knows nothing of sockets."""

    def __init__(
        self, activator: Activator, balancer: Balancer, forward: proxy.Proxy, clock: Clock, rng: Random
    ) -> None:
        self.table = routing.Table()
        self._ready = asyncio.Event()
        self._activator = activator
        self._balancer = balancer
        self._proxy = forward
        self._clock = clock
        self._rng = rng
        self._unrouted = 0

    def apply(self, table: routing.Table) -> None:
        """Put a table in effect; one older than the present is ignored."""
        if self._ready.is_set() and table.generation < self.table.generation:
            return
        self.table = table
        self._activator.apply(table)
        self._ready.set()

    async def answer(self, request: web.BaseRequest, where: routing.Address, visit: Visit) -> web.StreamResponse:
        """Forward one request addressed to a function and relay the answer; raises ShoalError with the reason."""
        if not self._ready.is_set():
            await self._wait_for_routes()
        route, tag = routing.find(self.table, where.label)
        visit.function = route.name
        if routing.reserved(where.path):
            raise NotFoundError(f"{visit.path} is reserved for the platform and not served to the outside")
        visit.revision = routing.choose(route, tag, self._rng)
        revision = self._balancer.revision(visit.revision)
        self._balancer.enter(revision)
        try:
            return await self._forward(request, where, visit, revision, route.timeout_s)
        finally:
            self._balancer.leave(revision)

    async def _wait_for_routes(self) -> None:
        if self._unrouted >= limits.GATEWAY_HELD_REQUESTS_MAX:
            raise OverloadError("the gateway has just started and holds all the requests it may", retry_after_s=1.0)
        self._unrouted += 1
        try:
            async with asyncio.timeout(limits.ACTIVATION_SECONDS_MAX):
                await self._ready.wait()
        except TimeoutError:
            raise NotRunningError("the gateway has no routes from the node yet", hint="shoal status") from None
        finally:
            self._unrouted -= 1

    async def _forward(
        self, request: web.BaseRequest, where: routing.Address, visit: Visit, revision: Revision, timeout_s: float
    ) -> web.StreamResponse:
        stated = _stated_budget(request, timeout_s)
        body = await proxy.take_body(request, limits.BODY_BYTES_MAX, timeout_s)
        length = len(body) if isinstance(body, bytes) else request.content_length
        outgoing = proxy.Outgoing(
            method=request.method,
            path=where.path,
            headers=proxy.request_headers(request.headers, where, request.remote or "unknown", length),
            body=body,
        )
        outgoing.headers[proxy.REQUEST_ID_HEADER] = visit.request_id
        outgoing.headers["traceparent"] = visit.traceparent
        for _ in range(limits.GATEWAY_CONNECT_ATTEMPTS_MAX):
            try:
                return await self._attempt(request, outgoing, visit, revision, timeout_s, stated)
            except proxy.RefusedError:
                continue
        raise proxy.no_instance(revision.name, limits.GATEWAY_CONNECT_ATTEMPTS_MAX)

    async def _attempt(
        self,
        request: web.BaseRequest,
        outgoing: proxy.Outgoing,
        visit: Visit,
        revision: Revision,
        timeout_s: float,
        stated: float | None,
    ) -> web.StreamResponse:
        """Take a slot and pass the request on; the function's own time starts when it has the slot."""
        asked = self._clock.monotonic()
        left = None if stated is None else stated - (asked - visit.started)
        async with self._activator.slot(revision, left) as instance:
            now = self._clock.monotonic()
            visit.held_s += now - asked
            budget = timeout_s
            if stated is not None:
                budget = max(0.0, stated - (now - visit.started))
                outgoing.headers[proxy.TIMEOUT_HEADER] = str(int(budget * 1000))
            try:
                async with asyncio.timeout(budget + limits.GATEWAY_MARGIN_SECONDS):
                    return await self._exchange(request, instance.endpoint.port, outgoing)
            except proxy.RefusedError:
                self._balancer.refuse(revision, instance)
                raise
            except TimeoutError:
                raise _late(revision.name, budget) from None

    async def _exchange(self, request: web.BaseRequest, port: int, outgoing: proxy.Outgoing) -> web.StreamResponse:
        upstream = await self._proxy.send(port, outgoing)
        try:
            return await proxy.relay(request, upstream)
        finally:
            upstream.release() if upstream.content.is_eof() else upstream.close()


def _stated_budget(request: web.BaseRequest, timeout_s: float) -> float | None:
    """Read the caller's remaining budget (seconds), at most the function's timeout; malformed counts as none.

    The function refuses a malformed one itself, so that it is judged in one place.
    """
    value = request.headers.get(proxy.TIMEOUT_HEADER, "")
    if not value.isdecimal() or len(value) > 12:
        return None
    return min(int(value) / 1000, timeout_s)


def _late(revision: str, budget_s: float) -> DeadlineError:
    return DeadlineError(f"{revision} did not finish its answer within {budget_s:g} s")


class FrontDoor:
    """Turns what arrives on the public port into an answer and one log line, whatever happens in between."""

    def __init__(self, gateway: Gateway, log: AccessLog, own: page.Page) -> None:
        self._gateway = gateway
        self._log = log
        self._page = own

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        headers = request.headers
        target = request._message.path  # the raw one: ``request.path`` is decoded
        visit = self._log.open(
            request.method, target, headers.get(proxy.REQUEST_ID_HEADER, ""), headers.get("traceparent", "")
        )
        try:
            response = await self._answer(request, target, visit)
        except ShoalError as error:
            response = self._refuse(request, error, visit)
        except asyncio.CancelledError:
            visit.status, visit.reason = _CLIENT_GONE, "the caller went away"
            raise
        except ConnectionError:
            visit.status, visit.reason = _CLIENT_GONE, "the caller's connection broke"
            raise
        else:
            visit.status = response.status
        finally:
            if visit.function or visit.status >= 400:
                self._log.close(visit)
        return response

    async def _answer(self, request: web.BaseRequest, target: str, visit: Visit) -> web.StreamResponse:
        serving.check_headers(request)
        where = routing.address(serving.single_host(request), target)
        if request.method == hdrs.METH_CONNECT:
            raise MethodError("the gateway is not a forward proxy: CONNECT is not served")
        response: web.StreamResponse
        if where.label:
            response = await self._gateway.answer(request, where, visit)
        else:
            response = await self._page.answer(request, where)
            response.headers[hdrs.SERVER] = problems.SERVER_NAME
        if "upgrade" in request.headers:
            response.force_close()  # an upgrade refused leaves nothing to say on this connection
        return response

    def _refuse(self, request: web.BaseRequest, error: ShoalError, visit: Visit) -> web.StreamResponse:
        visit.status, visit.component, visit.reason = error.status, "platform", error.message
        if error.status >= 500 and visit.function and not error.hint:
            error.hint = f"shoal logs {visit.function}"
        if request.writer.output_size > 0:
            proxy.cut(request)
            raise ConnectionResetError(error.message)
        unread = request.body_exists and not request.content.is_eof()
        close = unread or request.method == hdrs.METH_CONNECT
        response = problems.response(error, "platform", close=close)
        response.headers[proxy.REQUEST_ID_HEADER] = visit.request_id
        return response


def control(gateway: Gateway, balancer: Balancer) -> web.Application:
    """Make the application of gateway.sock: ``PUT /routes`` and ``GET /load``."""

    async def put_routes(request: web.Request) -> web.Response:
        try:
            table = routing.parse_table(await request.json())
        except json.JSONDecodeError as error:
            return problems.response(UsageError(f"the routes are not JSON: {error}"))
        except UsageError as error:
            return problems.response(error)
        gateway.apply(table)
        return web.json_response({"generation": gateway.table.generation})

    async def get_load(_: web.Request) -> web.Response:
        return web.json_response({"generation": gateway.table.generation, "revisions": balancer.report()})

    app = web.Application(client_max_size=limits.CONTROL_BODY_BYTES_MAX)
    app.add_routes([web.put("/routes", put_routes), web.get("/load", get_load)])
    return app


async def serve(fd: int, home: Home) -> None:
    """Run the gateway until SIGTERM."""
    clock, rng = SystemClock(), Random()  # noqa: S311 - it splits traffic, it keeps no secret
    async with AsyncExitStack() as stack:
        instances = await stack.enter_async_context(to_instances())
        node = home.socket("node")
        balancer = Balancer(clock)
        activator = Activator(balancer, partial(wake_through_node, node))
        stack.push_async_callback(activator.stop)
        gateway = Gateway(activator, balancer, proxy.Proxy(instances), clock, rng)
        log = AccessLog(serving.OUTPUT.write, clock, rng)
        door = FrontDoor(gateway, log, _page(home, log, balancer, clock))
        server = serving.Server(door.handle, limits.GATEWAY_CONNECTIONS_MAX)
        runner = await serving.serve_control(control(gateway, balancer), home.socket("gateway"))
        stack.push_async_callback(runner.cleanup)
        await serving.serve_until_signal(server, serving.inherited_socket(fd), limits.GATEWAY_DRAIN_SECONDS_MAX)


def _page(home: Home, log: AccessLog, balancer: Balancer, clock: Clock) -> page.Page:
    def reader(component: str) -> page.Read:
        return partial(call, home.socket(component), "GET", timeout_s=limits.PAGE_READ_SECONDS_MAX)

    return page.Page(reader("node"), reader("broker"), log, balancer, clock)


def to_instances() -> aiohttp.ClientSession:
    """Make the client that calls instances: it sends each request once and passes bodies on as they are."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=limits.GATEWAY_POOL_IDLE_SECONDS_MAX)
    session = aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.GATEWAY_CONNECT_SECONDS_MAX),
        max_line_size=limits.GATEWAY_FIELD_BYTES_MAX,
        max_field_size=limits.GATEWAY_FIELD_BYTES_MAX,
    )
    # The library would send GET, PUT, DELETE and the like again when a kept connection breaks, after the handler
    # may have run; it has no public switch, only the one its own test client sets.
    session._retry_connection = False
    return session


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="shoal.platform.local.gateway")
    parser.add_argument("--fd", type=int, required=True, help="the listening socket")
    parser.add_argument("--home", required=True, help="the platform's folder")
    options = parser.parse_args(arguments)
    lifeline.die_with_parent()
    serving.raise_file_limit()
    uvloop.run(serve(options.fd, home_of(options.home)))


if __name__ == "__main__":
    main()
