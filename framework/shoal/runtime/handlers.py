"""The user's file: its decorators, its import, and which handler a request goes to."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from shoal.core.errors import MethodError, NotFoundError, UsageError
from shoal.runtime.messages import Context, Request, Response

if TYPE_CHECKING:
    from shoal.runtime.model import Model

Handler = Callable[..., Any]
RunSync = Callable[[Callable[[], Any]], Awaitable[Any]]
H = TypeVar("H", bound=Handler)


class Endpoint(Protocol):
    """What answers one request."""

    @property
    def name(self) -> str:
        """The handler's name."""
        ...

    async def __call__(self, request: Request, context: Context, run_sync: RunSync) -> Response:
        """Answer ``request``; synchronous handlers run through ``run_sync``."""
        ...


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """One ``@http`` handler; an empty ``path`` takes any, empty ``methods`` take all."""

    name: str
    function: Handler
    path: str = ""
    methods: frozenset[str] = frozenset()

    async def __call__(self, request: Request, context: Context, run_sync: RunSync) -> Response:
        """Answer ``request``."""
        arguments = [request.body] if inspect.signature(self.function).parameters else []
        if inspect.iscoroutinefunction(self.function):
            result = await self.function(*arguments)
        else:
            result = await run_sync(lambda: self.function(*arguments))
        if isinstance(result, Response):
            return result
        if isinstance(result, bytes):
            return Response(result)
        return Response(json.dumps(result).encode(), headers={"content-type": "application/json"})


@dataclass(frozen=True, slots=True)
class EventRoute:
    """One ``@event`` handler; empty filters take any."""

    name: str
    function: Handler
    type: str = ""
    source: str = ""


@dataclass(slots=True)
class Registry:
    """What a handler file declares."""

    http: list[HttpRoute] = field(default_factory=list)
    events: list[EventRoute] = field(default_factory=list)
    start: list[Handler] = field(default_factory=list)
    stop: list[Handler] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)

    def dispatch(self, request: Request) -> Endpoint:
        """Pick the endpoint that answers ``request``."""
        fits = [route for route in self.http if route.path in ("", request.path)]
        for route in sorted(fits, key=lambda route: not route.path):
            if not route.methods or request.method in route.methods:
                return route
        if fits:
            raise MethodError(f"{request.path} does not take {request.method}")
        raise NotFoundError(f"no handler takes {request.path}")


_current = Registry()


def current() -> Registry:
    """Give the registry that decorators and Models add themselves to."""
    return _current


def load(folder: Path, filename: str = "handler.py") -> Registry:
    """Import the handler file with its folder on the path, and give what it declared."""
    global _current
    path = folder / filename
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"no handler file {path}")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    _current = Registry()
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return _current


def http(function: Any = None, *, methods: Iterable[str] = (), path: str = "") -> Any:
    """Answer HTTP requests with this function."""

    def register(function: H) -> H:
        name, takes = function.__name__, frozenset(method.upper() for method in methods)
        current().http.append(HttpRoute(name, function, path, takes))
        return function

    return register if function is None else register(function)


def event(function: Any = None, *, type: str = "", source: str = "", reply_type: str = "") -> Any:
    """Answer CloudEvents with this function."""

    def register(function: H) -> H:
        current().events.append(EventRoute(function.__name__, function, type, source))
        return function

    return register if function is None else register(function)


def start(function: H) -> H:
    """Run this function once before the first request."""
    current().start.append(function)
    return function


def stop(function: H) -> H:
    """Run this function once after the last request."""
    current().stop.append(function)
    return function
