"""The pool's control API: HTTP with JSON on a unix socket that only its owner may open."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from aiohttp import web

from shoal.core.errors import BodyTooLargeError, MethodError, NotFoundError, RequestError, ShoalError
from shoal.core.limits import CONTROL_BODY_BYTES_MAX
from shoal.core.problems import headers, to_problem
from shoal.pool.agent import Agent

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(agent: Agent) -> web.Application:
    """Make the control application: ``PUT /models`` with the whole wanted set, ``GET /status``."""
    app = web.Application(client_max_size=CONTROL_BODY_BYTES_MAX, middlewares=[_problems])

    async def put_models(request: web.Request) -> web.Response:
        wanted = _wanted(await request.read())
        return web.json_response({"models": await agent.want(wanted)})

    async def get_status(_request: web.Request) -> web.Response:
        return web.json_response(agent.status())

    app.router.add_put("/models", put_models)
    app.router.add_get("/status", get_status)
    return app


def _wanted(body: bytes) -> list[str]:
    try:
        models = json.loads(body)["models"]
    except (ValueError, KeyError, TypeError):
        models = None
    if not isinstance(models, list) or not all(isinstance(name, str) for name in models):
        raise RequestError('the body is not {"models": ["<model>--<hash>", …]}')
    return models


@web.middleware
async def _problems(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ShoalError as error:
        return _problem(error)
    except web.HTTPException as error:
        kind = {405: MethodError, 413: BodyTooLargeError}.get(error.status, NotFoundError)
        return _problem(kind(f"{request.method} {request.path}: {error.reason}"))


def _problem(error: ShoalError) -> web.Response:
    body = json.dumps(to_problem(error, "pool")).encode()
    return web.Response(status=error.status, headers=headers(error), body=body)
