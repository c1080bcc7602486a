"""The fake pool as a server: both protocols on loopback, brought up and down as a Triton is."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from aiohttp import web

from shoal.models.fake import FakeModels
from shoal.models.fake_http import application

LOOPBACK: Final = "127.0.0.1"
_SHUTDOWN_SECONDS: Final = 0.1


class FakePool:
    """A pool without a Triton, in this process, on its event loop; ``models`` says what it holds and how it fails.

    As an async context manager it is up inside. Ports given as 0 are the kernel's choice, and kept after that.
    """

    def __init__(self, repository: Path | None = None, *, http_port: int = 0, grpc_port: int = 0) -> None:
        self.models = FakeModels(repository)
        self._http_port, self._grpc_port = http_port, grpc_port
        self._web: web.AppRunner | None = None
        self._listener: socket.socket | None = None
        self._service: Any = None
        self._ending: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.down()

    @property
    def http(self) -> str:
        """``host:port`` of the inference protocol over HTTP."""
        return f"{LOOPBACK}:{self._http_port}"

    @property
    def grpc(self) -> str:
        """``host:port`` of the gRPC service."""
        return f"{LOOPBACK}:{self._grpc_port}"

    @property
    def url(self) -> str:
        """The HTTP address as a URL."""
        return f"http://{self.http}"

    @property
    def pid(self) -> int:
        """This process while it is up; 0 when not."""
        return os.getpid() if self.running else 0

    @property
    def running(self) -> bool:
        """Whether it is up."""
        return self._web is not None

    async def up(self) -> None:
        """Take calls; what was loaded before is forgotten, as by a server that starts."""
        from shoal.models import fake_grpc

        await self.down()
        self._web = web.AppRunner(application(self.models), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await self._web.setup()
        self._listener = _listen(self._http_port)
        self._http_port = self._listener.getsockname()[1]
        await web.SockSite(self._web, self._listener).start()
        self._service, self._grpc_port = fake_grpc.server(self.models, LOOPBACK, self._grpc_port)
        await self._service.start()

    async def down(self) -> None:
        """Take no more calls."""
        runner, self._web = self._web, None
        service, self._service = self._service, None
        listener, self._listener = self._listener, None
        self.models.clear()
        if runner is not None:
            await runner.cleanup()
        if listener is not None:
            listener.close()  # the runner has, unless it was cancelled while it started
        if service is not None:
            await service.stop(grace=None)

    async def answers(self) -> bool:
        """Whether it is up."""
        return self.running

    def kill(self) -> None:
        """End at once, as a killed process does."""
        task = asyncio.get_running_loop().create_task(self.down())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def stubs(self) -> Mapping[str, int]:
        """Count the stub processes a real server would have."""
        return self.models.stubs()


def _listen(port: int) -> socket.socket:
    """Bind a loopback port (0: the kernel's choice) that the pool's process may have reserved."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((LOOPBACK, port))
    return listener
