"""The user's file: its decorators, its import, and which handler a request goes to."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from shoal.core.errors import EventError, MediaTypeError, MethodError, NotFoundError, UsageError
from shoal.core.limits import HANDLERS_PER_FUNCTION_MAX
from shoal.runtime import event_codec
from shoal.runtime.binding import Handler, where
from shoal.runtime.events import CloudEvent
from shoal.runtime.messages import Request
from shoal.runtime.results import Stamp
from shoal.runtime.routes import Endpoint, EventCall, EventRoute, HttpRoute, RunSync

if TYPE_CHECKING:
    from shoal.runtime.model import Model

__all__ = [
    "Endpoint", "EventRoute", "HttpRoute", "Registry", "RunSync",
    "current", "event", "http", "load", "start", "stop",
]  # fmt: skip

H = TypeVar("H", bound=Callable[..., Any])

_METHOD: Final = re.compile(r"[A-Z]+")
_FF_IMPORT: Final = re.compile(rb"^[ \t]*(?:import|from)[ \t]+functions_framework\b", re.MULTILINE)
_RESERVED: Final = ("/_shoal/", "/metrics")


@dataclass(slots=True)
class Registry:
    """What a handler file declares; ``sole``, where set, takes every request (a functions-framework function)."""

    http: list[HttpRoute] = field(default_factory=list)
    events: list[EventRoute] = field(default_factory=list)
    start: list[Handler] = field(default_factory=list)
    stop: list[Handler] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    sole: Endpoint | None = None
    stamp: Stamp = field(default_factory=Stamp)

    def dispatch(self, request: Request) -> Endpoint:
        """Pick the endpoint that answers ``request``.

        Events (``ce-id`` or ``ce-specversion``, or a cloudevents content type) go to event handlers where there are
        any; the rest by path, the exact one first. Raises NotFoundError, MethodError, MediaTypeError or EventError.
        """
        if self.sole is not None:
            return self.sole
        if self.events and event_codec.mode(request.raw_headers):
            return self._dispatch_event(request)
        if self.http:
            return self._dispatch_http(request)
        return self._refuse(request)

    def _dispatch_http(self, request: Request) -> Endpoint:
        """Choose by path, the exact one before any, then by method."""
        routes = [route for route in self.http if route.path == request.path]
        routes = routes or [route for route in self.http if not route.path]
        for route in routes:
            if request.method in route.methods:
                return route
        for route in routes:
            if not route.methods:
                return route
        if not routes:
            raise NotFoundError(f"no handler takes the path {request.path[:200]!r}")
        takes = tuple(sorted({method for route in routes for method in route.methods}))
        raise MethodError(f"{request.path} takes {' and '.join(takes)}, not {request.method}", allowed=takes)

    def _dispatch_event(self, request: Request) -> Endpoint:
        if request.method != "POST":
            raise MethodError(f"events come by POST, not {request.method}", allowed=("POST",))
        deliveries = tuple((self._event_route(event), event) for event in event_codec.parse(request))
        names = {route.name for route, _ in deliveries}
        return EventCall(names.pop() if len(names) == 1 else "batch", deliveries, self.stamp)

    def _event_route(self, event: CloudEvent) -> EventRoute:
        """Choose the handler with the most filters that pass.

        None is an EventError (400) and no 404: a broker would deliver again, and the function grows no handler
        meanwhile.
        """
        fits = [route for route in self.events if route.takes(event)]
        if not fits:
            types = ", ".join(sorted({route.type or "any" for route in self.events}))
            raise EventError(
                f"no handler takes events of type {event.type[:200]!r} from this source; types: {types}"
            )
        return max(fits, key=lambda route: (bool(route.type), bool(route.source)))

    def _refuse(self, request: Request) -> Endpoint:
        if not self.events:
            raise NotFoundError("the function has no handlers")
        if request.method != "POST":
            raise MethodError(f"the function takes CloudEvents by POST, not {request.method}", allowed=("POST",))
        raise MediaTypeError(
            "the function takes CloudEvents, and the request is none: it needs the headers ce-specversion, ce-id, "
            f"ce-source and ce-type, or the content type {event_codec.STRUCTURED_TYPE}"
        )

    def bind(self) -> None:
        """Compile all handlers; raises UsageError for the first that declares what it may not."""
        if len(self.http) + len(self.events) > HANDLERS_PER_FUNCTION_MAX:
            raise UsageError(f"the file has more than {HANDLERS_PER_FUNCTION_MAX} handlers")
        for http_route in self.http:
            http_route.bound()
        self._check_http_clashes()
        seen: dict[tuple[str, str], EventRoute] = {}
        for event_route in self.events:
            event_route.bound()
            key = (event_route.type, event_route.source)
            if (other := seen.setdefault(key, event_route)) is not event_route:
                raise UsageError(f"{where(event_route.function)} takes the same events as {where(other.function)}")

    def _check_http_clashes(self) -> None:
        for index, route in enumerate(self.http):
            for other in self.http[:index]:
                if route.path == other.path and _overlap(route, other):
                    raise UsageError(f"{where(route.function)} takes the same requests as {where(other.function)}")


def _overlap(route: HttpRoute, other: HttpRoute) -> bool:
    return route.methods == other.methods or bool(route.methods & other.methods)


_current = Registry()


def current() -> Registry:
    """Give the registry that decorators and Models add themselves to: the one of the file loaded last."""
    return _current


def load(folder: Path, filename: str = "handler.py", env: Mapping[str, str] | None = None) -> Registry:
    """Import the handler file with its folder on the path, and give what it declared, compiled.

    Raises UsageError for a missing file and for a declaration with a mistake; the file's own exceptions pass
    unchanged. ``env`` (default: the process's) may name a functions-framework function: FUNCTION_TARGET,
    FUNCTION_SIGNATURE_TYPE; and a folder with third-party packages: SHOAL_PACKAGES.
    """
    global _current
    env = os.environ if env is None else env
    path = _handler_path(folder.resolve(), filename, env)
    _current = registry = Registry()
    _use_packages(env.get("SHOAL_PACKAGES", ""))
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    compat = _functions_framework(path, env)
    with compat.importing() if compat is not None else nullcontext():
        module = _import(path, package=compat is not None)
    if compat is not None:
        compat.register(module, registry)
    registry.bind()
    return registry


def _handler_path(folder: Path, filename: str, env: Mapping[str, str]) -> Path:
    path = folder / filename
    if not path.is_file() and env.get("FUNCTION_TARGET") and (folder / "main.py").is_file():
        return folder / "main.py"  # functions-framework's default
    if not path.is_file():
        raise UsageError(f"there is no handler file {path}", hint="name it with 'handler:' in function.yaml")
    if path.suffix != ".py" or path.stem in sys.stdlib_module_names:
        raise UsageError(f"the handler file {path.name} needs another name: *.py, and no module of Python's own")
    return path


def _use_packages(folder: str) -> None:
    """Let imports find the function's packages before those of this environment, and after Python's own modules.

    What the function pins is then what it gets, and no package stands in for a module of the standard library.
    """
    if not folder or folder in sys.path:
        return
    if not Path(folder).is_dir():
        raise UsageError(f"the function's packages are not in {folder} any more: deploy it again")
    names = [Path(entry).name for entry in sys.path]
    places = [names.index(name) for name in ("site-packages", "dist-packages") if name in names]
    sys.path.insert(min(places, default=len(names)), folder)


def _functions_framework(path: Path, env: Mapping[str, str]) -> Any:
    """Prepare for a functions-framework file, which is known before its import by its text or environment."""
    if not env.get("FUNCTION_TARGET") and not _FF_IMPORT.search(path.read_bytes()):
        return None
    from shoal.runtime import functions_framework

    return functions_framework.Compat(path, env)


def _import(path: Path, *, package: bool) -> ModuleType:
    """Import a file under its stem, so that annotations and pickles find its names.

    functions-framework imports it as a package, whose relative imports find the files beside it.
    """
    beside = [str(path.parent)] if package else None
    spec = importlib.util.spec_from_file_location(path.stem, path, submodule_search_locations=beside)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@overload
def http(function: H) -> H: ...
@overload
def http(function: None = None, *, methods: Iterable[str] = (), path: str = "") -> Callable[[H], H]: ...
def http(function: H | None = None, *, methods: Iterable[str] = (), path: str = "") -> H | Callable[[H], H]:
    """Answer HTTP requests with this function: ``@http``, or ``@http(methods=["GET"], path="/x")``.

    Without a path it takes every path no other handler names, without methods all. Raises UsageError for a path or
    method that cannot be.
    """

    def register(function: H) -> H:
        takes = frozenset([methods] if isinstance(methods, str) else methods)
        _check_http(function, path, takes)
        current().http.append(HttpRoute(function.__name__, function, path, takes))
        return function

    return register if function is None else register(function)


def _check_http(function: Handler, path: str, methods: frozenset[str]) -> None:
    if path and not path.startswith("/"):
        raise UsageError(f"{where(function)}: path {path!r} must start with '/'")
    if path.startswith(_RESERVED[0]) or path in _RESERVED:
        raise UsageError(f"{where(function)}: path {path!r} is the runtime's own ({', '.join(_RESERVED)})")
    for method in methods:
        if not _METHOD.fullmatch(method):
            raise UsageError(f"{where(function)}: method {method!r} must be upper-case letters, as GET")


@overload
def event(function: H) -> H: ...
@overload
def event(function: None = None, *, type: str = "", source: str = "", reply_type: str = "") -> Callable[[H], H]: ...
def event(
    function: H | None = None, *, type: str = "", source: str = "", reply_type: str = ""
) -> H | Callable[[H], H]:
    """Answer CloudEvents with this function: ``@event``, or ``@event(type="…", source="…")`` for exact matches.

    Of several handlers the one with the most matching filters takes an event. It returns None or a CloudEvent; with
    ``reply_type`` also the data of a reply of that type.
    """

    def register(function: H) -> H:
        current().events.append(EventRoute(function.__name__, function, type, source, reply_type))
        return function

    return register if function is None else register(function)


def start(function: H) -> H:
    """Run this function, synchronous or not, once before the first request."""
    current().start.append(function)
    return function


def stop(function: H) -> H:
    """Run this function, synchronous or not, once after the last request."""
    current().stop.append(function)
    return function
