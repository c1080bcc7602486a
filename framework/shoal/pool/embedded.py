"""The stand-in as the agent wants a server: prepared on first use, up and down without blocking the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from shoal.pool.environment import Progress, prepare
from shoal.pool.ports import LOOPBACK, Ports
from shoal.pool.server import TritonServer


class EmbeddedTriton:
    """A Triton over ``repository``; its ports are known at once, its environment is made at the first ``up``.

    ``up`` belongs on the main thread's event loop: the server dies with the thread that started it.
    """

    def __init__(self, *, repository: Path, state: Path, log: Path, progress: Progress) -> None:
        self._repository, self._state, self._log, self._progress = repository, state, log, progress
        self._ports = Ports(state)
        self._server: TritonServer | None = None

    @property
    def http(self) -> str:
        """``host:port`` for inference."""
        return f"{LOOPBACK}:{self._ports.http}"

    @property
    def grpc(self) -> str:
        """``host:port`` for control."""
        return f"{LOOPBACK}:{self._ports.grpc}"

    @property
    def pid(self) -> int:
        """Its process; 0 when it is not running."""
        return self._server.pid if self._server else 0

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._server is not None and self._server.running

    async def up(self) -> None:
        """Start it and return once it takes calls; UsageError when this machine cannot run it."""
        if self._server is None:
            environment = await asyncio.to_thread(prepare, None, self._progress)
            self._server = TritonServer(
                environment, repository=self._repository, state=self._state, log=self._log, ports=self._ports
            )
        self._server.start()
        await asyncio.to_thread(self._server.wait_ready)

    async def down(self) -> None:
        """End it and give its ports back."""
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)
        self._ports.close()

    async def answers(self) -> bool:
        """Ask it once for its health, and keep its log within bounds on the way."""
        if self._server is None:
            return False
        await asyncio.to_thread(self._server.trim_log)
        return await asyncio.to_thread(self._server.answers)

    def kill(self) -> None:
        """End its process at once."""
        if self._server is not None:
            self._server.kill()

    def stubs(self) -> Mapping[str, int]:
        """Count the live Python stubs of each model."""
        return self._server.stubs() if self._server else {}
