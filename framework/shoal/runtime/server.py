"""One function process from its first request to its last: it accepts, drains when told to, says how it ended."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Final

from shoal.core import limits
from shoal.core.clock import SystemClock
from shoal.runtime.accesslog import Log
from shoal.runtime.admission import Admission
from shoal.runtime.app import App
from shoal.runtime.failures import report
from shoal.runtime.function import Function
from shoal.runtime.handlers import Registry
from shoal.runtime.lines import LineWriter
from shoal.runtime.metrics import Metrics
from shoal.runtime.protocol import Config, FunctionProtocol, ServerState
from shoal.runtime.readiness import Readiness
from shoal.runtime.reports import Reports
from shoal.runtime.settings import Settings
from shoal.runtime.startup import Startup, connect
from shoal.runtime.watch import Watches

EXIT_OK: Final = 0
EXIT_STARTUP: Final = 3  # as uvicorn's: the function could not start
EXIT_KILLED: Final = 128 + signal.SIGTERM  # told twice to stop
_STDOUT: Final = 1
_LOG_CLOSE_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.01  # while connections close: they tell nobody
_THREAD_NAME: Final = "shoal-handler"
_THREAD_END_SECONDS: Final = 1.0


class Server:
    """Serves one function on one listening socket; made inside the event loop that ``run`` is awaited in."""

    def __init__(self, settings: Settings, registry: Registry, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._log = Log(LineWriter(_STDOUT), SystemClock(), settings.service, settings.revision, settings.log_level)
        self._function = assemble(settings, registry, self._loop, self._log)
        self._app = App(self._function)
        self._startup = Startup(self._function, connect)
        self._state = ServerState()
        self._told_to_stop = asyncio.Event()

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then drain; 0 is the exit code after it, 3 if a start hook failed."""
        self._log.writer.attach(self._loop)
        self._log.adopt_logging()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)
        try:
            hooks = self._startup.begin()
            accepting = await self._accept()
            code = await self._until_stopped(hooks)
            await self._drain(accepting)
            hooks.cancel()
            await self._stop()
            return code
        finally:
            self._close_log()

    def _close_log(self) -> None:
        self._function.reports.settle()
        self._log.writer.close(_LOG_CLOSE_SECONDS)

    async def _accept(self) -> asyncio.Server:
        config = Config(
            self._app, loop="none", http="httptools", ws="none", lifespan="off", log_config=None, access_log=False,
            interface="asgi3", proxy_headers=False, server_header=False,
            timeout_keep_alive=limits.KEEP_ALIVE_SECONDS,
        )  # fmt: skip
        config.load()
        self._set_date()
        return await self._loop.create_server(
            lambda: FunctionProtocol(config, self._state, {}, self._loop),
            sock=self._listener,
            backlog=limits.BACKLOG_CONNECTIONS_MAX,
        )

    def _set_date(self) -> None:
        """Keep the answers' date, once a second."""
        self._app.common.set_date(formatdate(SystemClock().now(), usegmt=True).encode())
        self._loop.call_later(1.0, self._set_date)

    async def _until_stopped(self, hooks: asyncio.Task[None]) -> int:
        stopped = self._loop.create_task(self._told_to_stop.wait())
        await asyncio.wait({hooks, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if hooks.done() and (error := hooks.exception()) is not None:
            report("start hook", error, self._settings)
            stopped.cancel()
            return EXIT_STARTUP
        await stopped
        return EXIT_OK

    def _on_signal(self) -> None:
        if self._told_to_stop.is_set():
            self._log.say("warning", "told twice to stop: leaving at once")
            self._close_log()
            os._exit(EXIT_KILLED)
        self._app.drain()
        self._told_to_stop.set()

    async def _drain(self, accepting: asyncio.Server) -> None:
        """Let the requests in flight finish, then stop accepting, then let finish what came meanwhile."""
        self._app.drain()
        end = self._loop.time() + self._settings.timeout_s + limits.DRAIN_MARGIN_SECONDS
        if in_flight := set(self._state.tasks):
            self._log.say("info", "draining", in_flight=len(in_flight))
            await asyncio.wait(in_flight, timeout=end - self._loop.time())
        await asyncio.sleep(limits.DRAIN_SETTLE_SECONDS)
        accepting.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        while self._state.connections and self._loop.time() < end:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(_POLL_SECONDS)
        if left := set(self._state.tasks):
            self._log.say("warning", "requests cut at the end of the drain", requests=len(left))
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=limits.DRAIN_MARGIN_SECONDS)

    async def _stop(self) -> None:
        try:
            async with asyncio.timeout(limits.STOP_HOOKS_SECONDS_MAX):
                await self._startup.run_stop_hooks()
        except TimeoutError:
            self._log.say("error", f"the stop hooks were not done within {limits.STOP_HOOKS_SECONDS_MAX:g} s")
        await self._startup.end()
        self._function.executor.shutdown(wait=False, cancel_futures=True)


def assemble(settings: Settings, registry: Registry, loop: asyncio.AbstractEventLoop, log: Log) -> Function:
    """Put the parts of a function process together."""
    admission, readiness = Admission(settings.concurrency, settings.queue_max), Readiness()
    gauges = {
        "shoal_requests_in_flight": ("Requests in the handler.", lambda: float(admission.in_flight)),
        "shoal_queue_depth": ("Requests waiting for a slot.", lambda: float(admission.queued)),
        "shoal_ready": ("1 when the readiness probe says yes.", lambda: float(readiness.ready)),
        "shoal_log_lines_dropped": ("Log lines nobody read in time.", lambda: float(log.writer.dropped)),
    }
    metrics = Metrics(settings.service, settings.revision, gauges)
    return Function(
        settings=settings,
        registry=registry,
        loop=loop,
        executor=ThreadPoolExecutor(settings.threads, thread_name_prefix=_THREAD_NAME),
        admission=admission,
        readiness=readiness,
        metrics=metrics,
        log=log,
        reports=Reports(metrics, log, loop, SystemClock().now),
        bits=random.Random().getrandbits,  # noqa: S311  names, not secrets
        monotonic=SystemClock().monotonic,
        watches=Watches(loop),
    )


def threads_ended() -> bool:
    """Say whether all handler threads are gone, after a short wait; one that hangs would hold up the exit."""
    mine = [thread for thread in threading.enumerate() if thread.name.startswith(_THREAD_NAME)]
    for thread in mine:
        thread.join(_THREAD_END_SECONDS / len(mine))
    return not any(thread.is_alive() for thread in mine)
