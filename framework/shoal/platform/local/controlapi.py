"""The node's HTTP API on its unix socket: for the gateway, the command line and the rollout, all local."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from shoal.core import limits
from shoal.core.errors import NotFoundError, PlatformError, ShoalError, UsageError
from shoal.platform.local import problems, wire
from shoal.platform.local.deploy import Deploying, Order
from shoal.platform.local.engine import Engine
from shoal.platform.port import Stage

_CALLER_SECONDS: Final = 0.2  # how long a deployment goes on at most without its caller

log = logging.getLogger(__name__)


def application(engine: Engine) -> web.Application:
    """Make the API of one node."""
    api = ControlApi(engine)
    app = web.Application(middlewares=[_refusals], client_max_size=limits.CONTROL_BODY_BYTES_MAX)
    app.on_shutdown.append(api.end)
    app.add_routes(
        [
            web.post("/v1/activate/{revision}", api.activate),
            web.get("/v1/status", api.status),
            web.get("/v1/functions", api.functions),
            web.get("/v1/functions/{name}", api.function),
            web.post("/v1/deployments", api.deploy),
            web.put("/v1/functions/{name}/traffic", api.traffic),
            web.post("/v1/functions/{name}/rollback", api.rollback),
            web.delete("/v1/functions/{name}", api.delete),
            web.post("/v1/stop", api.stop),
        ]
    )
    return app


@web.middleware
async def _refusals(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except ShoalError as error:
        return problems.response(error)
    except web.HTTPNotFound:
        return problems.response(NotFoundError(f"the node has no {request.method} {request.path}"))
    except web.HTTPException as error:
        return problems.response(UsageError(f"{request.method} {request.path}: {error.reason}"))
    except Exception as error:
        log.exception("%s %s", request.method, request.path)
        return problems.response(_internal(error))


class ControlApi:
    """One handler per route."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._deployments: set[asyncio.Task[None]] = set()

    async def end(self, _: web.Application) -> None:
        """End the deployments under way, cleared up, and all starts: nobody waits for them any more."""
        for work in self._deployments:
            work.cancel()
        await asyncio.gather(*self._deployments, return_exceptions=True)
        await self._engine.instances.refuse()

    async def activate(self, request: web.Request) -> web.Response:
        """Answer once the revision has an instance."""
        endpoints = await self._engine.activate(request.match_info["revision"])
        return web.json_response({"endpoints": endpoints})

    async def status(self, request: web.Request) -> web.Response:
        """Describe the platform."""
        return web.json_response(wire.encode(await self._engine.status()))

    async def functions(self, request: web.Request) -> web.Response:
        """Describe all functions."""
        return web.json_response({"functions": [wire.encode(item) for item in self._engine.functions()]})

    async def function(self, request: web.Request) -> web.Response:
        """Describe one function."""
        return web.json_response(wire.encode(self._engine.function(request.match_info["name"])))

    async def traffic(self, request: web.Request) -> web.Response:
        """Replace a split."""
        body = await _body(request)
        try:
            targets = [wire.target(item) for item in body["targets"]]
        except (KeyError, TypeError) as error:
            raise UsageError(f"not a list of targets: {error}") from error
        return web.json_response(wire.encode(await self._engine.set_traffic(request.match_info["name"], targets)))

    async def rollback(self, request: web.Request) -> web.Response:
        """Go back."""
        return web.json_response(wire.encode(await self._engine.rollback(request.match_info["name"])))

    async def delete(self, request: web.Request) -> web.Response:
        """Remove a function."""
        await self._engine.delete(request.match_info["name"])
        return web.json_response({})

    async def stop(self, request: web.Request) -> web.Response:
        """Begin the end."""
        self._engine.stopping.set()
        return web.json_response({})

    async def deploy(self, request: web.Request) -> web.StreamResponse:
        """Deploy a folder: one JSON document a line, ``stage`` …, then ``deployment`` or ``problem``.

        A caller who goes away ends the deployment.
        """
        order = _order(await _body(request))
        lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def report(stage: Stage) -> None:
            lines.put_nowait({"stage": wire.encode(stage)})

        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        deploying = Deploying(self._engine, order, report, lambda: _is_there(request))
        work = asyncio.create_task(_deploy(deploying, lines))
        self._deployments.add(work)
        work.add_done_callback(self._deployments.discard)
        try:
            await _pass_on(lines, response, lambda: _is_there(request))
        except ConnectionError:
            log.info("the caller of the deployment of %s went away", order.source)
        finally:
            work.cancel()
            await asyncio.wait([work])
        return response


async def _pass_on(
    lines: asyncio.Queue[dict[str, Any] | None], response: web.StreamResponse, is_there: Callable[[], bool]
) -> None:
    """Write each line until there are no more; ConnectionError once the caller is gone, also between lines.

    Looks every now and then: the server could cancel its handlers instead, but only all of them, and a change of
    the traffic must not end half way.
    """
    while is_there():
        try:
            async with asyncio.timeout(_CALLER_SECONDS):
                line = await lines.get()
        except TimeoutError:
            continue
        if line is None:
            return await response.write_eof()
        await response.write(json.dumps(line).encode() + b"\n")
    raise ConnectionResetError("the caller is gone")


def _is_there(request: web.Request) -> bool:
    return request.transport is not None and not request.transport.is_closing()


async def _deploy(deploying: Deploying, lines: asyncio.Queue[dict[str, Any] | None]) -> None:
    try:
        lines.put_nowait({"deployment": wire.encode(await deploying.run())})
    except ShoalError as error:
        lines.put_nowait({"problem": problems.document(error)})
    except Exception as error:
        log.exception("deployment of %s", deploying.order.source)
        lines.put_nowait({"problem": problems.document(_internal(error))})
    finally:
        lines.put_nowait(None)


def _internal(error: Exception) -> PlatformError:
    return PlatformError(f"the node failed: {type(error).__name__}", hint="shoal logs node")


def _order(body: dict[str, Any]) -> Order:
    try:
        repository = Path(body["repository"]) if body.get("repository") else None
        return Order(Path(body["source"]), repository, Path(body["cache"]), bool(body.get("traffic", True)))
    except (KeyError, TypeError) as error:
        raise UsageError(f"not an order to deploy: {error}") from error


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise UsageError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise UsageError("the body is not a JSON object")
    return body
