"""Synchronous HTTP for the command line: to the node over its unix socket, to functions over the public port.

The standard library's client, because a command line should not spend its first tenth of a second on imports.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from shoal.core.errors import NotRunningError, PlatformError
from shoal.core.problems import from_problem


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection through a unix socket; ``timeout_s`` None waits for ever."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("shoal", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def call(path: Path, method: str, target: str, body: Any = None, *, timeout_s: float | None = None) -> Any:
    """Call the node; raises the error it answers, or NotRunningError when it is not there."""
    with closing(UnixConnection(path, timeout_s)) as connection:
        response = _send(connection, method, target, body)
        text = response.read()
    return _answer(response.status, text)


def stream(path: Path, method: str, target: str, body: Any = None) -> Iterator[Any]:
    """Call the node and yield its answer's JSON lines as they come; raises as ``call`` does."""
    with closing(UnixConnection(path, None)) as connection:
        response = _send(connection, method, target, body)
        if response.status >= 400:
            _answer(response.status, response.read())
        for line in _lines(response):
            yield json.loads(line)


def _send(connection: UnixConnection, method: str, target: str, body: Any) -> http.client.HTTPResponse:
    data = None if body is None else json.dumps(body).encode()
    headers: Mapping[str, str] = {"Content-Type": "application/json"} if data is not None else {}
    try:
        connection.request(method, target, body=data, headers=dict(headers))
        return connection.getresponse()
    except TimeoutError as error:
        raise NotRunningError("the platform does not answer", hint="shoal status") from error
    except (OSError, http.client.HTTPException) as error:
        raise NotRunningError("the platform is not running", hint="shoal up") from error


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while line := response.readline():
            yield line
    except (OSError, http.client.HTTPException) as error:
        raise NotRunningError("the platform ended in the middle of its answer", hint="shoal up") from error


def _answer(status: int, text: bytes) -> Any:
    try:
        answer = json.loads(text) if text else {}
    except ValueError:
        raise PlatformError(f"the node answered {status} with something else than JSON") from None
    if status >= 400:
        raise from_problem(answer)
    return answer
