"""The listening socket: inherited from the node, so that it outlives a restart, or bound to HOST and PORT."""

from __future__ import annotations

import os
import socket

from shoal.core.errors import UsageError
from shoal.core.limits import BACKLOG_CONNECTIONS_MAX
from shoal.runtime.settings import Settings


def listen(settings: Settings) -> socket.socket:
    """Give a listening socket; UsageError names the variable when there is none to be had."""
    if settings.listen_fd is not None:
        return _inherited(settings.listen_fd)
    return _bound(settings.host, settings.port)


def _inherited(fd: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=fd)
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listener.listen(BACKLOG_CONNECTIONS_MAX)
    except OSError as error:
        raise UsageError(
            f"environment variable SHOAL_LISTEN_FD is '{fd}'; it must be an open socket, bound to an address "
            f"({os.strerror(error.errno or 0)})"
        ) from error
    listener.set_inheritable(False)  # a program the handler starts must not hold the port
    listener.setblocking(False)
    return listener


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG_CONNECTIONS_MAX)
    except OSError as error:
        raise UsageError(
            f"environment variables HOST and PORT are {host!r} and '{port}'; the address cannot be bound "
            f"({error.strerror})"
        ) from error
    listener.setblocking(False)
    return listener
