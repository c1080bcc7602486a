"""The ASGI application of a function: a few paths of its own, everything else to handlers.

Raw ASGI: the router is a dictionary, and whatever is not in it is the handlers' business.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Final

from shoal.core.errors import NotFoundError, NotRunningError, RequestError
from shoal.core.limits import RETRY_AFTER_SECONDS
from shoal.runtime import problems
from shoal.runtime.answer import Answer, Common, Pairs, lines, status_line
from shoal.runtime.asgi import Receive, Scope, Send
from shoal.runtime.exchange import Exchange
from shoal.runtime.function import Function
from shoal.runtime.messages import Response
from shoal.runtime.metrics import UNMATCHED
from shoal.runtime.trace import identify

_OWN: Final = "/_shoal/"
_BROWSER_PATHS: Final = ("/robots.txt", "/favicon.ico")  # as functions-framework: no handler is asked for these
_JSON: Final = {"content-type": "application/json", "cache-control": "no-store"}


class App:
    """Serves one function; ``drain`` makes every later answer the last of its connection."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self.common = Common(_common_headers(function))
        self._own: dict[str, Callable[[str], Awaitable[Response]]] = {
            "/_shoal/live": self._live,
            "/_shoal/ready": self._ready,
            "/metrics": self._metrics,
        }
        explicit = {getattr(route, "path", "") for route in function.registry.http}
        self._own.update({path: self._absent for path in _BROWSER_PATHS if path not in explicit})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        path: str = scope["path"]
        answer = Answer(send, self.common, scope["method"], scope.pop("shoal.line", None))
        if path in self._own or path.startswith(_OWN):
            await self._serve_own(path, scope, answer)
        else:
            await Exchange(self._function, scope, receive, answer).serve()

    def drain(self) -> None:
        """Turn the readiness probe, and end each connection with its next answer."""
        self._function.readiness.draining = True
        self.common.closing = True

    def refusal(self, error: RequestError) -> bytes:
        """Give the whole answer to what never became a request: bytes for a connection about to be closed."""
        _, _, name = identify(None, None, self._function.bits)
        response = problems.response(error, name)
        body = response.body if isinstance(response.body, bytes) else b""
        pairs = [(key.encode(), value.encode()) for key, value in response.headers.items()]
        pairs += [
            (b"x-request-id", name.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        self._function.metrics.request(UNMATCHED, error.status, 0.0, 0.0)
        self._function.log.request(name, name, "-", "-", error.status, 0.0, 0.0, error)
        return b"".join((status_line(error.status), self.common.raw, lines(pairs), b"\r\n", body))

    async def _serve_own(self, path: str, scope: Scope, answer: Answer) -> None:
        headers = dict(scope["headers"])
        _, _, answer.request_id = identify(None, headers.get(b"x-request-id"), self._function.bits)
        try:
            response = await self._own.get(path, self._absent)(headers.get(b"accept", b"").decode("latin-1"))
        except (NotFoundError, NotRunningError) as error:
            response = problems.response(error, answer.request_id)
        await answer.send(response)

    async def _live(self, _: str) -> Response:
        return Response(b'{"live": true}', 200, _JSON)

    async def _ready(self, _: str) -> Response:
        readiness, settings = self._function.readiness, self._function.settings
        if not readiness.ready:
            raise NotRunningError(readiness.reason, retry_after_s=RETRY_AFTER_SECONDS)
        about = {"ready": True, "revision": settings.revision, "models": dict(settings.models)}
        return Response(json.dumps(about).encode(), 200, _JSON)

    async def _metrics(self, accept: str) -> Response:
        # On a thread: the first scrape imports prometheus_client, which would hold up requests for 60 ms.
        self._function.reports.settle()
        text, content_type = await asyncio.to_thread(self._function.metrics.render, accept)
        return Response(text, 200, {"content-type": content_type})

    async def _absent(self, _: str) -> Response:
        raise NotFoundError("this path is the runtime's own and there is nothing here")


def _common_headers(function: Function) -> Pairs:
    settings = function.settings
    models = ",".join(f"{alias}={version}" for alias, version in sorted(settings.models.items()))
    headers = [(b"shoal-revision", settings.revision.encode("ascii", "replace"))]
    if models:
        headers.append((b"shoal-models", models.encode("ascii", "replace")))
    return headers
