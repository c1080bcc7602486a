"""Functions written for functions-framework, run unmodified through the real package, without its faults.

Kept: the decorators, Flask's and Starlette's requests and responses, error handlers, templates, FUNCTION_TARGET and
FUNCTION_SIGNATURE_TYPE. Changed: an event function's answer is 204 or the CloudEvent it returns and never the text
``OK``, which a broker takes for a failure; data that claim to be JSON and are not never reach the function; a batch
is refused with 415; synchronous functions run on the function's bounded threads; an exception's text stays in the
log.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from shoal.core.errors import BodyError, EventError, MediaTypeError, UsageError
from shoal.runtime import event_codec, jsontext
from shoal.runtime.binding import Binding
from shoal.runtime.events import CloudEvent
from shoal.runtime.messages import Context, Request, Response
from shoal.runtime.results import Stamp, event_response, reply_of
from shoal.runtime.routes import EventRoute, HttpRoute, RunSync
from shoal.runtime.sdk_events import is_sdk_event
from shoal.runtime.starlette_bridge import answer_with_starlette
from shoal.runtime.wsgi import Wsgi, environ_of

if TYPE_CHECKING:
    from shoal.runtime.handlers import Registry

HTTP: Final = "http"
CLOUD_EVENT: Final = "cloudevent"
LEGACY_EVENT: Final = "event"
TYPED: Final = "typed"

_EVENT_KEY: Final = "shoal.event"  # where the WSGI environment carries the event to the view
_CONTEXT_KEY: Final = "shoal.context"
_TRUE: Final = ("y", "yes", "t", "true", "on", "1")


class Compat:
    """The real package, prepared for one file: ``importing`` around the import, then ``register``."""

    def __init__(self, path: Path, env: Mapping[str, str]) -> None:
        self._path = path
        self._env = env
        self._framework = _real_package(path)
        self._known = import_module("functions_framework._function_registry")
        for names in (self._known.REGISTRY_MAP, self._known.INPUT_TYPE_MAP, self._known.ASGI_FUNCTIONS):
            names.clear()
        self._app = _flask_app(path.parent)
        self._framework.errorhandler = self._app.errorhandler

    def importing(self) -> AbstractContextManager[Any]:
        """Give the application context that the file's import expects."""
        return self._app.app_context()  # type: ignore[no-any-return]

    def register(self, module: ModuleType, registry: Registry) -> None:
        """Make the target function the registry's only endpoint; raises UsageError when there is no one target."""
        target = self._target(module, registry)
        if not target:
            return
        function = self._function(module, target)
        signature = self._known.REGISTRY_MAP.get(target) or self._env.get("FUNCTION_SIGNATURE_TYPE") or HTTP
        self._check(target, signature)
        registry.sole = self._endpoint(target, function, signature, registry.stamp)
        binding = Binding(function, (), is_async=False, is_generator=False, returns=None)
        if signature in (CLOUD_EVENT, LEGACY_EVENT):
            registry.events.append(EventRoute(target, function, binding=binding))
        else:
            registry.http.append(HttpRoute(target, function, binding=binding))

    def _target(self, module: ModuleType, registry: Registry) -> str:
        """Choose the function: FUNCTION_TARGET, or the only decorated one; "" in a file of shoal's own handlers."""
        decorated = sorted(name for name in self._known.REGISTRY_MAP if hasattr(module, name))
        own = [route.name for route in registry.http] + [route.name for route in registry.events]
        if own and decorated:
            names = f"{', '.join(decorated)} (functions-framework) and {', '.join(own)} (shoal)"
            raise UsageError(f"{self._path} has handlers of two frameworks: {names}; use the decorators of one")
        if own:
            return ""
        if target := self._env.get("FUNCTION_TARGET", ""):
            return target
        if len(decorated) > 1:
            raise UsageError(
                f"{self._path} has {len(decorated)} functions ({', '.join(decorated)}) and one must be chosen",
                hint=f"set FUNCTION_TARGET={decorated[0]} under 'env:' in function.yaml",
            )
        return decorated[0] if decorated else ""

    def _function(self, module: ModuleType, target: str) -> Callable[..., Any]:
        try:
            return self._known.get_user_function(str(self._path), module, target)  # type: ignore[no-any-return]
        except import_module("functions_framework.exceptions").FunctionsFrameworkException as error:
            raise UsageError(f"FUNCTION_TARGET is {target!r}: {error}") from error

    def _check(self, target: str, signature: str) -> None:
        if signature not in (HTTP, CLOUD_EVENT, LEGACY_EVENT, TYPED):
            rule = f"{HTTP}, {CLOUD_EVENT}, {LEGACY_EVENT} or {TYPED}"
            raise UsageError(f"FUNCTION_SIGNATURE_TYPE is {signature!r}: it must be {rule}")
        if signature == TYPED and target not in self._known.INPUT_TYPE_MAP:
            raise UsageError(f"{self._path}: {target} is called as typed: it needs the decorator @typed(InputType)")

    def _endpoint(self, target: str, function: Callable[..., Any], signature: str, stamp: Stamp) -> Any:
        on_loop = target in self._known.ASGI_FUNCTIONS or inspect.iscoroutinefunction(function)
        if on_loop or self._env.get("FUNCTION_USE_ASGI", "").lower() in _TRUE:
            if signature not in (HTTP, CLOUD_EVENT):
                raise UsageError(
                    f"{self._path}: {target} is async: signature type {signature!r} is synchronous only"
                )
            kind = _AsyncHttp if signature == HTTP else _AsyncEvent
            return kind(target, function, stamp)
        self._framework._configure_app(self._app, function, signature)
        if signature == CLOUD_EVENT:
            self._app.view_functions[CLOUD_EVENT] = _event_view(function, stamp)
        return _Flask(target, Wsgi(self._app), signature)


class _Flask:
    """A synchronous function behind its Flask application."""

    def __init__(self, name: str, wsgi: Wsgi, signature: str) -> None:
        self.name = name
        self._wsgi = wsgi
        self._signature = signature

    async def __call__(self, request: Request, context: Context, run_sync: RunSync) -> Response:
        """Answer ``request``; raises RequestError before the function is called for what it would choke on."""
        environ = environ_of(request)
        if self._signature == TYPED:
            _check_json(request)
        elif self._signature == CLOUD_EVENT:
            environ |= {_EVENT_KEY: sdk_event(request), _CONTEXT_KEY: context}
        elif self._signature == LEGACY_EVENT:
            _refuse_batch(event_codec.mode(request.raw_headers))
        response = await self._wsgi.answer(environ, run_sync)
        if self._signature == LEGACY_EVENT and response.status == 200:
            return Response(status=204)  # the package's own "OK"
        return response


class _AsyncHttp:
    """A function of ``functions_framework.aio``, or any coroutine function."""

    def __init__(self, name: str, function: Callable[..., Any], stamp: Stamp) -> None:
        framework, tracing = import_module("functions_framework"), import_module("functions_framework.execution_id")
        self.name = name
        self._function = tracing.set_execution_context_async(framework._enable_execution_id_logging())(function)

    async def __call__(self, request: Request, context: Context, run_sync: RunSync) -> Response:
        """Answer ``request``."""
        return await answer_with_starlette(self._function, request, run_sync)


class _AsyncEvent:
    """An event function of ``functions_framework.aio``."""

    def __init__(self, name: str, function: Callable[..., Any], stamp: Stamp) -> None:
        self.name = name
        self._function = function
        self._stamp = stamp

    async def __call__(self, request: Request, context: Context, run_sync: RunSync) -> Response:
        """Answer with 204, or with the CloudEvent the function returns."""
        event = sdk_event(request)
        if event is None:
            raise EventError(
                "the request is no CloudEvent: it needs the ce- headers, or a cloudevents content type"
            )
        if inspect.iscoroutinefunction(self._function):
            result = await self._function(event)
        else:
            result = await run_sync(lambda: self._function(event))
        return event_answer(result, context, self._stamp)


def _real_package(path: Path) -> Any:
    try:
        return import_module("functions_framework")
    except ImportError as error:
        raise UsageError(
            f"{path} is written for functions-framework, which is not installed: {error}",
            hint="add functions-framework==VERSION, and what it needs, to the function's requirements.txt",
        ) from error


def _flask_app(folder: Path) -> Any:
    """Make the Flask application: as the package makes it, but exceptions leave it instead of becoming text."""
    flask, tracing = import_module("flask"), import_module("functions_framework.execution_id")
    app = flask.Flask("function", root_path=str(folder), template_folder=str(folder / "templates"))
    app.wsgi_app = tracing.WsgiMiddleware(app.wsgi_app)
    app.log_exception = lambda exc_info: None  # logged once, by the server, with the request's id

    def leave(error: Any) -> Any:
        if (original := getattr(error, "original_exception", None)) is not None:
            raise original
        return error

    app.register_error_handler(500, leave)
    return app


def _event_view(function: Callable[..., Any], stamp: Stamp) -> Callable[[str], Any]:
    """Make the view of an event function: it answers with what the function returned, not with ``OK``."""
    flask, tracing = import_module("flask"), import_module("functions_framework.execution_id")
    framework = import_module("functions_framework")

    @tracing.set_execution_context(flask.request, framework._enable_execution_id_logging())  # type: ignore[untyped-decorator]
    def view(path: str) -> Any:
        environ = flask.request.environ
        event = environ[_EVENT_KEY]
        result = function(_from_legacy(flask.request) if event is None else event)
        response = event_answer(result, environ[_CONTEXT_KEY], stamp)
        return flask.Response(response.body, response.status, dict(response.headers))

    return view  # type: ignore[no-any-return]


def _from_legacy(request: Any) -> Any:
    """Read a background event of Google's older format as a CloudEvent."""
    conversion = import_module("functions_framework.event_conversion")
    try:
        return conversion.background_event_to_cloud_event(request)
    except import_module("functions_framework.exceptions").EventConversionException as error:
        raise EventError(
            "the request is neither a CloudEvent (ce- headers, or a cloudevents content type) nor a legacy event: "
            f"{error}"
        ) from error


def event_answer(result: Any, context: Context, stamp: Stamp) -> Response:
    """Answer for an event function: the CloudEvent it returned, else 204; the package discards results too."""
    if not isinstance(result, CloudEvent | Response) and not is_sdk_event(result):
        return Response(status=204)
    reply = reply_of(result, reply_type="", source=f"/functions/{context.function}", stamp=stamp)
    return reply if isinstance(reply, Response) else event_response([reply] if reply else [], broker=False)


def sdk_event(request: Request) -> Any:
    """Read the request's event as the package's SDK does, after our own codec has passed it; None for no event.

    Raises EventError for what breaks a rule and MediaTypeError for a batch.
    """
    how = event_codec.mode(request.raw_headers)
    _refuse_batch(how)
    if not how:
        return None
    event_codec.parse(request)
    try:
        return import_module("cloudevents.http").from_http(request.headers, request.body)
    except (import_module("cloudevents.exceptions").GenericException, ValueError, TypeError) as error:
        raise EventError(f"the event is not taken: {error}") from error


def _refuse_batch(how: str) -> None:
    if how == "batch":
        raise MediaTypeError("a functions-framework function takes one event, not a batch")


def _check_json(request: Request) -> None:
    """Raise MediaTypeError or BodyError where the package would answer 500 for the caller's mistake."""
    if not event_codec.is_json(request.header("content-type")):
        raise MediaTypeError("a typed function takes application/json")
    try:
        jsontext.loads(request.body)
    except ValueError as error:
        raise BodyError(f"the body is not JSON: {error}") from None
