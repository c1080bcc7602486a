"""The handlers of a file as endpoints: what each takes, and how it is called."""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, Union, get_args, get_origin

from shoal.core.errors import EventError, UsageError
from shoal.runtime.binding import Binding, Call, Handler, bind, where
from shoal.runtime.convert import bare, type_name
from shoal.runtime.events import CloudEvent
from shoal.runtime.messages import Context, Request, Response
from shoal.runtime.results import RULE, Stamp, event_response, http_response, is_stream, reply_of, stream
from shoal.runtime.sdk_events import is_sdk_class

RunSync = Callable[[Callable[[], Any]], Awaitable[Any]]


class Endpoint(Protocol):
    """What answers one request."""

    @property
    def name(self) -> str:
        """The handler's name."""
        ...

    async def __call__(self, request: Request, context: Context, run_sync: RunSync) -> Response:
        """Answer ``request``; synchronous handlers run through ``run_sync``."""
        ...


@dataclass(slots=True)
class HttpRoute:
    """One ``@http`` handler; an empty ``path`` takes any, empty ``methods`` take all."""

    name: str
    function: Handler
    path: str = ""
    methods: frozenset[str] = frozenset()
    binding: Binding | None = None

    def bound(self) -> Binding:
        """Give the compiled parameters, compiling them the first time."""
        if self.binding is None:
            self.binding = bind(self.function)
        return self.binding

    async def __call__(self, request: Request, context: Context, run_sync: RunSync) -> Response:
        """Answer ``request``."""
        binding = self.binding or self.bound()
        call = Call(request, context)
        if binding.is_async and not binding.is_generator:
            result = await binding.function(*binding.arguments(call))
        else:
            result = await invoke(binding, call, run_sync)
        return await stream(result, run_sync) if is_stream(result) else http_response(result)


@dataclass(slots=True)
class EventRoute:
    """One ``@event`` handler; empty filters take any."""

    name: str
    function: Handler
    type: str = ""
    source: str = ""
    reply_type: str = ""
    binding: Binding | None = None

    def takes(self, event: CloudEvent) -> bool:
        """Tell whether the filters pass the event."""
        return self.type in ("", event.type) and self.source in ("", event.source)

    def bound(self) -> Binding:
        """Give the compiled parameters, compiling and checking them the first time."""
        if self.binding is None:
            self.binding = bind(self.function, event=True)
            _check_returns(self.binding, self.reply_type)
        return self.binding


@dataclass(frozen=True, slots=True)
class EventCall:
    """The endpoint of one request that carries events: each with the handler that takes it."""

    name: str
    deliveries: tuple[tuple[EventRoute, CloudEvent], ...]
    stamp: Stamp = field(default_factory=Stamp)

    async def __call__(self, request: Request, context: Context, run_sync: RunSync) -> Response:
        """Handle the events in turn, and answer with the replies.

        A batch is at-least-once as a whole: when one event's handler raises, the caller sends all of it again.
        """
        replies: list[CloudEvent] = []
        for route, event in self.deliveries:
            result = await invoke(route.bound(), Call(request, context, event), run_sync)
            source = f"/functions/{context.function}"
            reply = reply_of(result, reply_type=route.reply_type, source=source, stamp=self.stamp)
            if isinstance(reply, CloudEvent):
                replies.append(reply)
            elif reply is not None:
                return self._whole(reply)
        return event_response(replies, broker=_wants_one_reply(request))

    def _whole(self, response: Response) -> Response:
        """Pass a handler's own Response, which stands for the whole request."""
        if len(self.deliveries) == 1:
            return response
        raise EventError("the handler answers a batch with a Response: send its events one by one")


def _wants_one_reply(request: Request) -> bool:
    """Tell whether the caller is a broker, which asks with ``Prefer: reply``."""
    return "reply" in (wish.strip().lower() for wish in request.header("prefer").split(","))


async def invoke(binding: Binding, call: Call, run_sync: RunSync) -> Any:
    """Call a handler: a coroutine on the loop, anything else through ``run_sync``; generators are only made."""
    arguments = binding.arguments(call)
    if binding.is_generator:
        return binding.function(*arguments)
    if binding.is_async:
        return await binding.function(*arguments)
    result = await run_sync(lambda: binding.function(*arguments))
    return await result if inspect.isawaitable(result) else result


def _check_returns(binding: Binding, reply_type: str) -> None:
    """Raise UsageError for an event handler whose annotated result no broker would accept."""
    if binding.is_generator:
        raise UsageError(f"{where(binding.function)}: an event handler does not stream: {RULE}")
    if reply_type or binding.returns in (inspect.Parameter.empty, None, Any):
        return
    kind = bare(binding.returns)
    members = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for member in members:
        if member not in (types.NoneType, CloudEvent, Response, Any, object) and not is_sdk_class(member):
            raise UsageError(f"{where(binding.function)} returns {type_name(member)}: {RULE}")
