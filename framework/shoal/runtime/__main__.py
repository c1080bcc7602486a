"""``python -m shoal.runtime``: read the environment, listen, import the handler, serve until told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping

import uvloop

from shoal.core.errors import UsageError
from shoal.runtime import handlers
from shoal.runtime.failures import report
from shoal.runtime.listener import listen
from shoal.runtime.server import EXIT_OK, EXIT_STARTUP, Server, threads_ended
from shoal.runtime.settings import Settings
from shoal.runtime.startup import check_models


def main(env: Mapping[str, str]) -> int:
    """Run one function process; give its exit code."""
    # Until the loop takes over, leave at once: process 1 of a container would ignore a signal without a handler.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(EXIT_OK))
    try:
        settings = Settings.from_env(env)
        listener = listen(settings)
    except UsageError as error:
        report("settings", error, Settings())
        return EXIT_STARTUP
    registry = _import(settings, env)
    if registry is None:
        return EXIT_STARTUP
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, registry, listener))


def _import(settings: Settings, env: Mapping[str, str]) -> handlers.Registry | None:
    """Import the handler in this, the serving process; None once its failure is reported."""
    try:
        registry = handlers.load(settings.source, settings.handler, env)
        check_models(registry.models, settings)
    except BaseException as error:
        report("import", error, settings)
        return None
    return registry


async def _serve(settings: Settings, registry: handlers.Registry, listener: socket.socket) -> int:
    return await Server(settings, registry, listener).run()


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    if not threads_ended():
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # what a handler prints must not wait in a buffer
    _leave(main(os.environ))
