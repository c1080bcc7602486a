"""The Triton in the container beside the agent, as the agent wants a server.

The kubelet starts it, and starts it again when it ends; the agent waits until it is there. Both containers share
their process numbers, so the agent sees the server's process and each model's stubs, and may end one that hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp

from shoal.core.errors import PoolUnreachableError
from shoal.core.limits import POOL_WATCH_SECONDS, TRITON_ANSWER_SECONDS_MAX, TRITON_START_SECONDS_MAX
from shoal.pool.ports import LOOPBACK
from shoal.pool.server import stubs_of

HTTP_PORT: Final = 8000
GRPC_PORT: Final = 8001
KEY_NAME: Final = "shoal"  # of the key that restricted calls carry
_PROCESS: Final = "tritonserver"


class NeighbourTriton:
    """The server of this pod; ``address`` is its host, ports are Triton's own unless given."""

    def __init__(self, *, address: str = LOOPBACK, http_port: int = HTTP_PORT, grpc_port: int = GRPC_PORT) -> None:
        self.http, self.grpc = f"{address}:{http_port}", f"{address}:{grpc_port}"
        self._pid = 0

    @property
    def pid(self) -> int:
        """Its process; 0 when it is not running."""
        return self._pid if self.running else 0

    @property
    def running(self) -> bool:
        """Whether the process that ``up`` found is still there."""
        return self._pid != 0 and _is_triton(self._pid)

    async def up(self) -> None:
        """Wait until the kubelet's server takes calls; PoolUnreachableError when it does not in time."""
        self._pid = 0
        for _ in range(max(1, round(TRITON_START_SECONDS_MAX / POOL_WATCH_SECONDS))):
            pid = _find()
            if pid and await self.answers():
                self._pid = pid
                return
            await asyncio.sleep(POOL_WATCH_SECONDS)
        raise PoolUnreachableError(f"the Triton server beside the agent takes no calls at {self.http}")

    async def down(self) -> None:
        """Leave it: the kubelet ends it."""

    async def answers(self) -> bool:
        """Ask it once for its health."""
        timeout = aiohttp.ClientTimeout(total=TRITON_ANSWER_SECONDS_MAX)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://{self.http}/v2/health/ready") as answer,
            ):
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    def kill(self) -> None:
        """End its process at once; the kubelet starts another."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def stubs(self) -> Mapping[str, int]:
        """Count the live Python stubs of each model."""
        return stubs_of(self._pid)


def ensure_key(path: Path) -> str:
    """Give the key of Triton's model control, made at the pod's first start; the other container reads the file."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().strip()
    key = secrets.token_hex(32)
    part = path.with_suffix(".part")
    part.touch(mode=0o400)
    part.chmod(0o600)
    part.write_text(key)
    part.rename(path)
    return key


def control_headers(key: str) -> dict[str, str]:
    """Give the gRPC metadata that restricted calls carry."""
    return {f"triton-grpc-protocol-{KEY_NAME}": key}


def _find() -> int:
    return next((int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_triton(int(path.name))), 0)


def _is_triton(pid: int) -> bool:
    """Whether a process is a Triton server that has not ended: a zombie has a name but no command line."""
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        return Path(os.fsdecode(command)).name == _PROCESS
    return False
