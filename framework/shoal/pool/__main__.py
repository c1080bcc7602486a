"""``python -m shoal.pool --home DIR [--fake]``: one Triton (or its fake), kept as the node wants it.

Ends at SIGTERM or SIGINT, with exit code 0. Where this machine cannot run the server, the process stays: its status
and every answer say why.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from shoal.core import lifeline
from shoal.core.errors import UsageError
from shoal.models.fake_pool import FakePool
from shoal.pool.agent import Agent, Server
from shoal.pool.api import application
from shoal.pool.embedded import EmbeddedTriton
from shoal.pool.ports import Ports
from shoal.triton.control import GrpcControl


def main() -> None:
    """Run the pool until it is told to end."""
    parser = argparse.ArgumentParser(prog="python -m shoal.pool", description=__doc__)
    home = os.environ.get("SHOAL_HOME") or str(Path.home() / ".shoal")
    parser.add_argument("--home", type=Path, default=Path(home), help="the platform's folder (SHOAL_HOME)")
    parser.add_argument("--fake", action="store_true", help="answer from signatures, without a Triton")
    options = parser.parse_args()
    lifeline.die_with_parent()
    asyncio.run(_serve(options.home.expanduser().absolute(), fake=options.fake))


async def _serve(home: Path, *, fake: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = _server(home, fake=fake)
    agent = Agent(server, GrpcControl, home / "models", note=_log)
    runner = await _control(agent, home / "run" / "pool.sock")
    life = asyncio.create_task(agent.run())
    told = asyncio.create_task(stop.wait())
    _log("info", f"pool for {home}", http=server.http, grpc=server.grpc, fake=fake)
    try:
        await asyncio.wait([life, told], return_when=asyncio.FIRST_COMPLETED)
        _check(life)
        await told
    finally:
        for task in (life, told):
            task.cancel()
        await asyncio.gather(life, told, return_exceptions=True)
        await runner.cleanup()
        await agent.close()


def _server(home: Path, *, fake: bool) -> Server:
    state = home / "run" / "pool"
    if not fake:
        log = home / "logs" / "triton.log"
        return EmbeddedTriton(
            repository=home / "models", state=state, log=log, progress=lambda line: _log("info", line)
        )
    ports = Ports(state)  # held for the process's life: the fake shares them
    (home / "models").mkdir(parents=True, exist_ok=True)
    return FakePool(home / "models", http_port=ports.http, grpc_port=ports.grpc)


async def _control(agent: Agent, path: Path) -> web.AppRunner:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    runner = web.AppRunner(application(agent), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    await web.UnixSite(runner, str(path)).start()
    path.chmod(0o600)
    return runner


def _check(life: asyncio.Task[None]) -> None:
    """Log why the agent ended, if this machine cannot run the server; anything else is a defect and is raised."""
    error = life.exception() if life.done() else None
    if isinstance(error, UsageError):
        _log("error", error.message, hint=error.hint)
    elif error is not None:
        raise error


def _log(level: str, message: str, **fields: Any) -> None:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    print(json.dumps({"time": time, "level": level, "message": message, **fields}), flush=True)


if __name__ == "__main__":
    main()
