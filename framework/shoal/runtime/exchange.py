"""One request and its answer: identity, deadline, body, slot, handler, response, and what is counted and logged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
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
from shoal.runtime.body import HungUp, Receive
from shoal.runtime.function import Function
from shoal.runtime.handlers import Endpoint
from shoal.runtime.messages import Context, Request, Response
from shoal.runtime.metrics import UNMATCHED
from shoal.runtime.trace import identify
from shoal.runtime.watch import Watch

T = TypeVar("T")
_SERVER_LIMIT_MS_DIGITS = (
    9  # of shoal-timeout-ms: eleven days; more is bounded by the function's own timeout anyway
)


class Exchange:
    """Serves one request of ``function``; made and used by the task that serves it."""

    __slots__ = (
        "_answer",
        "_begun",
        "_context",
        "_entered",
        "_function",
        "_handler",
        "_headers",
        "_identity",
        "_late",
        "_phase",
        "_queue_s",
        "_receive",
        "_reported",
        "_scope",
        "_started",
        "_thread",
        "_watch",
    )

    def __init__(self, function: Function, scope: dict[str, Any], receive: Receive, answer: Answer) -> None:
        self._function = function
        self._scope = scope
        self._receive = receive
        self._answer = answer
        self._headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self._identity = identify(
            self._headers.get(b"traceparent"), self._headers.get(b"x-request-id"), function.bits
        )
        answer.request_id = self._identity.request_id
        self._started = function.loop.time()
        self._begun = function.monotonic()
        self._phase = "body"
        self._handler = UNMATCHED
        self._queue_s = 0.0
        self._entered = self._reported = False
        self._thread: Future[Any] | None = None
        self._late: asyncio.Task[None] | None = None
        self._context: Context | None = None
        self._watch: Watch

    async def serve(self) -> None:
        """Answer the request; raises nothing."""
        budget, mistake = _budget(self._headers.get(b"shoal-timeout-ms"), self._function.settings.timeout_s)
        deadline = self._started + budget
        self._watch = Watch(self._function.loop, self._receive, self._started, deadline, self._on_stuck)
        try:
            if mistake is not None:
                raise mistake
            response = await self._run()
            if self._watch.expired or self._watch.gone:  # the handler held on, and came too late
                raise asyncio.CancelledError
            await self._answer.send(response)
            self._report(response.status, None)
        except asyncio.CancelledError:
            await self._interrupted()
        except HungUp:
            self._report(HUNG_UP, None)
        except (Exception, SystemExit) as error:
            await self._fail(error)
        finally:
            self._watch.close()
            self._leave()

    async def _run(self) -> Response:
        function, scope = self._function, self._scope
        content = await body.read(function, self._receive, self._headers)
        self._watch.body_is_read()
        if not function.readiness.serving:
            raise NotRunningError(function.readiness.reason, retry_after_s=RETRY_AFTER_SECONDS)
        request = Request(scope["method"], scope["path"], scope["query_string"], scope["headers"], content)
        endpoint = self._pick(request)
        if isinstance(endpoint, Response):
            return endpoint
        self._handler = endpoint.name
        if not function.admission.try_enter():
            await self._queue()
        self._entered = True
        self._phase = "handler"
        context = Context(
            self._identity.request_id, self._identity.traceparent, self._watch.deadline,
            function.settings.service, function.settings.revision, request,
        )  # fmt: skip
        self._context = context
        current.context.set(context)
        return await endpoint(request, context, self._run_sync)

    def _pick(self, request: Request) -> Endpoint | Response:
        """Find the handler; HEAD goes where GET goes, OPTIONS is answered here unless a handler takes it."""
        dispatch = self._function.registry.dispatch
        try:
            return dispatch(request)
        except MethodError as error:
            if request.method == "HEAD":
                return dispatch(replace(request, method="GET"))
            if request.method == "OPTIONS":
                return Response(b"", 204, {"allow": ", ".join(sorted({*error.allowed, "OPTIONS"}))})
            raise

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
        seconds = self._watch.deadline - self._started
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
            response = problems.response(error, self._identity.request_id)
            if self._phase == "body":  # what is left of it would be taken for the next request
                self._answer.close_after()
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
        seconds = self._function.monotonic() - self._begun
        self._function.metrics.request(self._handler, status, seconds, self._queue_s)
        self._function.log.request(
            self._identity.trace_id, self._identity.request_id, self._scope["method"], self._scope["path"],
            status, seconds, self._queue_s, error,
        )  # fmt: skip

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
    if asked.isdigit() and len(asked) <= _SERVER_LIMIT_MS_DIGITS:
        return min(int(asked) / 1000, most), None
    text = asked[:32].decode("latin-1")
    return most, RequestError(f"header shoal-timeout-ms is {text!r}; it must be whole milliseconds")


def _guarded(work: Callable[[], T]) -> T:
    try:
        return work()
    except StopIteration as error:  # a future cannot carry one: its waiter would hang
        raise RuntimeError("the handler raised StopIteration") from error
