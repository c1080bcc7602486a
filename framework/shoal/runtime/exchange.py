"""One request and its answer: identity, deadline, body, slot, handler, response, and what is counted and logged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import replace
from typing import Any, TypeVar

from shoal.core.errors import (
    DeadlineError,
    HandlerError,
    MethodError,
    NotRunningError,
    RequestError,
    ShoalError,
    SlowRequestError,
)
from shoal.core.limits import RETRY_AFTER_SECONDS
from shoal.runtime import body, current, problems
from shoal.runtime.accesslog import HUNG_UP
from shoal.runtime.answer import Answer
from shoal.runtime.asgi import Receive, Scope
from shoal.runtime.body import HungUp
from shoal.runtime.function import Function
from shoal.runtime.messages import Context, Request, Response
from shoal.runtime.metrics import UNMATCHED
from shoal.runtime.routes import Endpoint, HttpRoute
from shoal.runtime.trace import identify
from shoal.runtime.watch import Watch

T = TypeVar("T")
_COMMON_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")  # of a handler that takes all
_TIMEOUT_DIGITS_MAX = 9  # of shoal-timeout-ms: eleven days; more is bounded by the function's own timeout anyway


class Exchange:
    """Serves one request of ``function``; made and used by the task that serves it."""

    _phase = "body"
    _handler = UNMATCHED
    _queue_s = 0.0
    _entered = False  # holds a slot
    _reported = False
    _thread: Future[Any] | None = None  # the last one that ran this request's handler
    _late: asyncio.Task[None] | None = None  # the answer in place of a handler that does not end
    _watch: Watch

    def __init__(self, function: Function, scope: Scope, receive: Receive, answer: Answer) -> None:
        self._function = function
        self._scope = scope
        self._receive = receive
        self._answer = answer
        self._headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self._trace_id, self._traceparent, self._request_id = identify(
            self._headers.get(b"traceparent"), self._headers.get(b"x-request-id"), function.bits
        )
        answer.request_id = self._request_id
        self._begun = function.monotonic()

    async def serve(self) -> None:
        """Answer the request; raises nothing."""
        function, answer = self._function, self._answer
        budget, mistake = _budget(self._headers.get(b"shoal-timeout-ms"), function.settings.timeout_s)
        watch = self._watch = Watch(function.watches, self._receive, budget, self._on_stuck)
        try:
            if mistake is not None:
                raise mistake
            response = await self._run()
            if watch.expired or watch.gone:  # the handler held on, and came too late
                raise asyncio.CancelledError
            if not answer.send_at_once(response):
                await answer.send(response)
            self._report(response.status, None)
        except asyncio.CancelledError:
            await self._interrupted()
        except HungUp:
            self._report(HUNG_UP, None)
        except GeneratorExit:  # this coroutine itself is thrown away: nothing can be awaited any more
            raise
        except BaseException as error:  # a handler's KeyboardInterrupt, too: Ctrl-C reaches the process as a signal
            await self._fail(error)
        finally:
            watch.close()
            self._leave()

    async def _run(self) -> Response:
        function, scope = self._function, self._scope
        content = await self._body()
        self._watch.body_read = True
        if not function.readiness.serving:
            raise NotRunningError(function.readiness.reason, retry_after_s=RETRY_AFTER_SECONDS)
        request = Request(scope["method"], scope["path"], scope["query_string"], scope["headers"], content)
        endpoint = function.routes.get((request.method, request.path)) or self._pick(request)
        if isinstance(endpoint, Response):
            return endpoint
        self._handler = endpoint.name
        if not function.admission.try_enter():
            await self._queue()
        self._entered = True
        self._phase = "handler"
        settings = function.settings
        context = Context(
            self._request_id, self._traceparent, self._watch.deadline, settings.service, settings.revision, request
        )
        current.context.set(context)
        return await endpoint(request, context, self._run_sync)

    async def _body(self) -> bytes:
        """Give the body: mostly it is there whole already."""
        first = None if b"expect" in self._headers else await self._receive()
        if first is not None and first["type"] == "http.request" and not first["more_body"]:
            whole: bytes = first["body"]
            if len(whole) <= self._function.settings.body_bytes_max:
                return whole
        return await body.read(self._function, self._receive, self._headers, first)

    def _pick(self, request: Request) -> Endpoint | Response:
        """Find the handler; HEAD goes where GET goes, and OPTIONS to a handler only if it names that method."""
        dispatch = self._function.registry.dispatch
        try:
            endpoint = dispatch(request)
        except MethodError as error:
            if request.method == "HEAD" and "GET" in error.allowed:
                return dispatch(replace(request, method="GET"))
            if request.method == "OPTIONS":
                return _options(error.allowed)
            raise
        if not isinstance(endpoint, HttpRoute):
            return endpoint
        if request.method == "OPTIONS" and not endpoint.methods:
            return _options(_COMMON_METHODS)
        self._function.remember(request, endpoint)
        return endpoint

    async def _queue(self) -> None:
        self._phase = "queue"
        begun = self._function.monotonic()
        try:
            await self._function.admission.enter()
        finally:
            self._queue_s = self._function.monotonic() - begun

    async def _run_sync(self, work: Callable[[], T]) -> T:
        """Run synchronous code on a thread, in this call's context; the slot is kept until the thread is done."""
        self._thread = self._function.executor.submit(copy_context().run, _guarded, work)
        return await asyncio.wrap_future(self._thread)

    async def _interrupted(self) -> None:
        """Answer after a cancellation, whoever asked: the watch, the process's end, or the handler itself."""
        task = asyncio.current_task()
        asked = task is not None and task.cancelling() > 0
        if self._late is not None:
            return
        if self._watch.expired:
            await self._refuse(self._deadline_error())
        elif self._watch.gone:
            self._report(HUNG_UP, None)
        elif asked:
            await self._refuse(NotRunningError("the process was told to stop and this request outlived its grace"))
        else:
            await self._fail(asyncio.CancelledError("raised inside the handler"))

    def _deadline_error(self) -> ShoalError:
        seconds = self._watch.budget
        if self._phase == "body":
            return SlowRequestError(f"the body was not complete after {seconds:.3f} s")
        if self._phase == "queue":
            return DeadlineError(f"no slot became free within {seconds:.3f} s")
        return DeadlineError(f"the handler was not done within {seconds:.3f} s")

    async def _fail(self, error: BaseException) -> None:
        """Answer with an exception's problem; the handler's own goes to the log with its traceback."""
        if self._watch.expired:  # what a handler makes of its cancellation
            await self._interrupted()
            return
        problem = problems.from_exception(error)
        if isinstance(problem, HandlerError):
            self._function.log.failure(f"handler {self._handler} failed", error)
        await self._refuse(problem)

    async def _refuse(self, error: ShoalError) -> None:
        if not self._answer.started:
            response = problems.response(error, self._request_id)
            if self._phase == "body":  # what is left of it would be taken for the next request
                self._answer.close = True
            with contextlib.suppress(asyncio.CancelledError):
                await self._answer.send(response)
        self._report(error.status, error)

    def _on_stuck(self) -> None:
        """Answer without the handler, which does not end although cancelled; it keeps its slot until it does."""
        if not self._answer.started:
            self._late = self._function.loop.create_task(self._refuse(self._deadline_error()))

    def _report(self, status: int, error: ShoalError | None) -> None:
        if self._reported:
            return
        self._reported = True
        function, scope = self._function, self._scope
        seconds = function.monotonic() - self._begun
        function.reports.add((
            function.reports.now(), self._handler, status, seconds, self._queue_s,
            self._trace_id, self._request_id, scope["method"], scope["path"], error,
        ))  # fmt: skip

    def _leave(self) -> None:
        """Give the slot back, or leave that to the thread that still runs this call's handler."""
        if not self._entered:
            return
        function, thread = self._function, self._thread
        if thread is None or thread.done():
            function.admission.leave()
            return

        def give_back(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                function.loop.call_soon_threadsafe(function.admission.leave)

        thread.add_done_callback(give_back)


def _budget(asked: bytes | None, most: float) -> tuple[float, RequestError | None]:
    """Give the seconds this request has: what its caller has left, at most the function's own timeout."""
    if asked is None:
        return most, None
    if asked.isdigit() and len(asked) <= _TIMEOUT_DIGITS_MAX:
        return min(int(asked) / 1000, most), None
    text = asked[:32].decode("latin-1")
    return most, RequestError(f"header shoal-timeout-ms is {text!r}; it must be whole milliseconds")


def _options(methods: Sequence[str]) -> Response:
    known = {*methods, "OPTIONS", *(["HEAD"] if "GET" in methods else [])}
    return Response(b"", 204, {"allow": ", ".join(sorted(known))})


def _guarded(work: Callable[[], T]) -> T:
    try:
        return work()
    except StopIteration as error:  # a future cannot carry one: its waiter would hang
        raise RuntimeError("the handler raised StopIteration") from error
