"""The node process: ``python -m shoal.platform.local.node --home DIR``.

It holds a lock for as long as it lives, which is how others know that it does; files it left behind mean nothing.
Ports are chosen once and remembered, so that addresses survive a restart.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from shoal.core.errors import ConflictError, ShoalError, UsageError
from shoal.platform.local import problems, serving, sockets, strays, supervisor
from shoal.platform.local.controlapi import application
from shoal.platform.local.engine import COMPONENTS, Engine
from shoal.platform.local.layout import Home, home_of
from shoal.platform.local.state import State

PORTS: Final[Mapping[str, int]] = {"gateway": 8080, "broker": 8081}
_FLAGS: Final[Mapping[str, str]] = {"gateway": "--port", "broker": "--broker-port"}
FAILED_EXIT: Final = 3
_LOCK_SECONDS: Final = 2.0  # somebody may be looking whether the lock is held
_LOCK_RETRY_SECONDS: Final = 0.05

log = logging.getLogger("shoal.node")


@dataclass(frozen=True, slots=True)
class Options:
    """What a node is started with; a port of None means the remembered one, else the default."""

    home: Home
    gateway_port: int | None = None
    broker_port: int | None = None
    fake_pool: bool = False
    report_fd: int | None = None  # gets one line of JSON: ``{"ready": true}`` or ``{"problem": …}``


@contextmanager
def _locked(home: Home) -> Iterator[None]:
    """Hold the home's lock; ConflictError when another node does."""
    descriptor = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise ConflictError(f"the platform in {home.root} is already running", hint="shoal status")
            time.sleep(_LOCK_RETRY_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def serve(options: Options) -> None:
    """Run a node until it is told to stop; raises ShoalError when it cannot start."""
    options.home.make()
    with ExitStack() as stack:
        stack.enter_context(_locked(options.home))
        options.home.card.write_text(json.dumps({"pid": os.getpid()}))
        state = State(options.home.database)
        stack.callback(state.close)
        listeners = _listeners(options, state, stack)
        asyncio.run(_serve(Engine(options.home, state, listeners, options.fake_pool), options))
        for name in ("node", *COMPONENTS):
            options.home.socket(name).unlink(missing_ok=True)


async def _serve(engine: Engine, options: Options) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, engine.stopping.set)
    runner = await serving.serve_control(application(engine), engine.home.socket("node"))
    try:
        await engine.start()
        await _first(engine.settle(), supervisor.first_refusal(engine.parts.values()), engine.stopping.wait())
        log.info("ready")
        _report(options, {"ready": True})
        await engine.stopping.wait()
        log.info("stopping")
    finally:
        await runner.cleanup()  # first: what it is asked to do needs the parts
        await engine.stop()
        await strays.end_all()


async def _first(*waits: Any) -> None:
    """Wait for the first of several; the error it ended with is raised, the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()


def _listeners(options: Options, state: State, stack: ExitStack) -> dict[str, socket.socket]:
    """Listen on all ports and remember them, or on none; the UsageError names every port that is not to be had."""
    found: dict[str, socket.socket] = {}
    refused: dict[str, str] = {}
    for name in PORTS:
        try:
            found[name] = stack.enter_context(_listener(name, options, state))
        except UsageError as error:
            refused[name] = error.message
    if refused:
        free = " ".join(f"{_FLAGS[name]} 0" for name in refused)
        raise UsageError("; ".join(refused.values()), hint=f"shoal up {free}   (any that is free)")
    for name, listener in found.items():
        state.remember(f"{name}_port", sockets.port_of(listener))
    return found


def _listener(name: str, options: Options, state: State) -> socket.socket:
    """Listen on the port asked for, else the one used before, else the default."""
    asked = options.gateway_port if name == "gateway" else options.broker_port
    try:
        return sockets.listen(_port(asked, state.setting(f"{name}_port"), PORTS[name]), purpose=name)
    except UsageError:
        if asked != 0:
            raise
        return sockets.listen(0, purpose=name)


def _port(asked: int | None, remembered: int | None, default: int) -> int:
    if asked:
        return asked
    if remembered is not None:
        return remembered
    return default if asked is None else 0


def _report(options: Options, message: Mapping[str, Any]) -> None:
    if options.report_fd is None:
        return
    try:
        os.write(options.report_fd, json.dumps(message).encode() + b"\n")
        os.close(options.report_fd)
    except OSError:
        log.warning("whoever started this node did not wait for it")


def _options(argv: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(prog="python -m shoal.platform.local.node", description=__doc__)
    parser.add_argument("--home", help="default: SHOAL_HOME, else ~/.shoal")
    parser.add_argument("--port", type=int, help="of the gateway; 0: any free one")
    parser.add_argument("--broker-port", type=int, help="of the broker; 0: any free one")
    parser.add_argument("--pool-fake", action="store_true", help="models answer from their contract")
    parser.add_argument("--report-fd", type=int, help=argparse.SUPPRESS)
    found = parser.parse_args(argv)
    return Options(home_of(found.home), found.port, found.broker_port, found.pool_fake, found.report_fd)


def _raise_file_limit() -> None:
    """Let children inherit the highest limit: every request through the gateway can need two files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a node; exit code 0 after an orderly end, 3 when it could not start."""
    options = _options(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _raise_file_limit()
    strays.adopt()
    try:
        serve(options)
    except ShoalError as error:
        _report(options, {"problem": problems.document(error)})
        print(f"error: {error.message}", file=sys.stderr)
        return FAILED_EXIT
    return 0


if __name__ == "__main__":
    sys.exit(main())
