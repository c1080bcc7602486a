"""The pool's two ports: kept while the process lives, remembered for its next life.

Functions are told the pool's address once, when they start. So a bound socket that never listens reserves each
port, and the server shares it (SO_REUSEPORT): a restarted server is found where its predecessor was.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"


class Ports:
    """An HTTP and a gRPC port on loopback, the same as last time if they are free; ``state`` remembers them."""

    def __init__(self, state: Path) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self._reserved = (_reserve(state / "http.port"), _reserve(state / "grpc.port"))
        self.http, self.grpc = (int(one.getsockname()[1]) for one in self._reserved)

    def close(self) -> None:
        """Give both back to the kernel."""
        for reserved in self._reserved:
            reserved.close()


def _reserve(memory: Path) -> socket.socket:
    """Bind the port remembered in a file, or one of the kernel's choice when there is none or it is taken."""
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        reserved.bind((LOOPBACK, int(memory.read_text())))
    except (OSError, ValueError, OverflowError):
        reserved.bind((LOOPBACK, 0))
    memory.write_text(str(reserved.getsockname()[1]))
    return reserved
