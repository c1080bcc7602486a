"""Listening sockets the node binds and its children inherit: while one restarts, connections wait."""

from __future__ import annotations

import errno
import socket
from typing import Final

from shoal.core import limits
from shoal.core.errors import UsageError

LOOPBACK: Final = "127.0.0.1"


def listen(port: int = 0, *, purpose: str = "", hint: str = "") -> socket.socket:
    """Listen on a loopback port (0: the kernel chooses); UsageError with the next command when it is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(limits.LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        raise _refusal(error, port, purpose, hint) from error
    except OverflowError as error:
        listener.close()
        raise UsageError(f"port {port} is not between 0 and 65535", hint=hint) from error
    return listener


def port_of(listener: socket.socket) -> int:
    """Give the port a socket listens on."""
    return int(listener.getsockname()[1])


def _refusal(error: OSError, port: int, purpose: str, hint: str) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(f"port {port} for the {purpose} is taken by another process", hint=hint)
    return UsageError(f"port {port} for the {purpose} cannot be used: {error.strerror}", hint=hint)
