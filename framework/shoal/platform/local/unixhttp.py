"""Synchronous HTTP for the command line: to the node over its unix socket, to functions over the public port.

The standard library's client, because a command line should not spend its first tenth of a second on imports.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from shoal.core import limits
from shoal.core.errors import NotRunningError, PlatformError
from shoal.core.problems import from_problem

_SILENT: Final = "the node does not answer"
_SILENT_HINT: Final = "shoal down && shoal up   (a stopped process ends with it)"


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection through a unix socket; ``timeout_s`` bounds each wait for the other side."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("shoal", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def wait_up_to(self, seconds: float) -> None:
        """Bound each further wait for the other side, also when the answer is the connection's last."""
        self._line.settimeout(seconds)


def call(
    path: Path, method: str, target: str, body: Any = None, *, timeout_s: float = limits.CONTROL_SECONDS_MAX
) -> Any:
    """Call the node; raises the error it answers, or NotRunningError when it is not there."""
    with closing(UnixConnection(path, timeout_s)) as connection:
        response = _send(connection, method, target, body)
        with _patience():
            text = read(response, limits.CONTROL_BODY_BYTES_MAX)
    return _answer(response.status, text)


def stream(
    path: Path,
    method: str,
    target: str,
    body: Any = None,
    *,
    silence_s: float = limits.DEPLOY_SILENCE_SECONDS_MAX,
) -> Iterator[Any]:
    """Call the node and yield its answer's JSON lines as they come; raises as ``call`` does.

    ``silence_s`` is how long it may say nothing once the answer has begun, which it does at once.
    """
    with closing(UnixConnection(path, limits.CONTROL_SECONDS_MAX)) as connection:
        response = _send(connection, method, target, body)
        connection.wait_up_to(silence_s)
        if response.status >= 400:
            with _patience():
                _answer(response.status, read(response, limits.CONTROL_BODY_BYTES_MAX))
        for line in _lines(response):
            yield json.loads(line)


def read(response: http.client.HTTPResponse, bytes_max: int) -> bytes:
    """Read a body whole; PlatformError when it is longer than ``bytes_max``."""
    text = response.read(bytes_max + 1)
    if len(text) > bytes_max:
        raise PlatformError(f"the answer passes the limit of {bytes_max} bytes")
    if response.length:  # read with a size does not mind a body that ends early
        raise http.client.IncompleteRead(text, response.length)
    return text


def _send(connection: UnixConnection, method: str, target: str, body: Any) -> http.client.HTTPResponse:
    data = None if body is None else json.dumps(body).encode()
    headers: Mapping[str, str] = {"Content-Type": "application/json"} if data is not None else {}
    try:
        connection.request(method, target, body=data, headers=dict(headers))
        return connection.getresponse()
    except TimeoutError as error:
        raise NotRunningError(_SILENT, hint=_SILENT_HINT) from error
    except (OSError, http.client.HTTPException) as error:
        raise NotRunningError("the platform is not running", hint="shoal up") from error


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        with _patience():
            line = response.readline(limits.CONTROL_BODY_BYTES_MAX)
        if not line:
            return
        if len(line) == limits.CONTROL_BODY_BYTES_MAX:
            raise PlatformError(f"a line of the answer passes the limit of {len(line)} bytes")
        yield line


@contextmanager
def _patience() -> Iterator[None]:
    """Say what a broken or silent connection in the middle of an answer means."""
    try:
        yield
    except TimeoutError as error:
        raise NotRunningError("the node stopped in the middle of its answer", hint=_SILENT_HINT) from error
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
