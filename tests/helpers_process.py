"""A real function process for tests: its socket, its environment, its answers and its log."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")
PATIENCE_S = 90.0  # for conditions: the machine may stand still for a while
FRAMEWORK = Path(__file__).resolve().parents[1] / "framework"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass
class Answer:
    """One HTTP answer; header names are lower-case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class FunctionProcess:
    """One ``python -m shoal.runtime``, listening on ``port`` of loopback."""

    process: subprocess.Popen[bytes]
    port: int
    log_path: Path
    error_path: Path
    connections: list[http.client.HTTPConnection] = field(default_factory=list)

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        self.connections.append(connection)
        return connection

    def ask(
        self, path: str = "/", body: bytes | None = None, method: str = "", headers: Mapping[str, str] = {}
    ) -> Answer:
        """Send one request on a connection of its own."""
        connection = self.connect()
        connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers))
        return read_answer(connection)

    def raw(self) -> socket.socket:
        """Open a bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def ready(self) -> bool:
        return self.ask("/_shoal/ready").status == 200

    def lines(self) -> list[dict[str, Any]]:
        """Give the JSON lines written so far."""
        text = self.log_path.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]

    def line(self, **wanted: Any) -> dict[str, Any]:
        """Wait for a line with these values and give it."""

        def find() -> dict[str, Any] | None:
            return next((one for one in self.lines() if wanted.items() <= one.items()), None)

        return until(find, f"a log line with {wanted}")

    def error(self) -> dict[str, Any]:
        """Give the one JSON line on standard error."""
        lines = self.error_path.read_text().splitlines()
        assert len(lines) == 1, lines
        return json.loads(lines[0])

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self) -> int:
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
        self.process.kill()
        self.process.wait()


def read_answer(connection: http.client.HTTPConnection) -> Answer:
    """Read the answer to what was sent on ``connection``."""
    reply = connection.getresponse()
    return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())


def until(condition: Callable[[], T | None], what: str) -> T:
    """Wait until ``condition`` gives something true, and give it."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.02)
    return value


def die_with_parent() -> None:
    """Ask the kernel to kill this child when its parent dies, however it dies."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """Give the variables of a function process, and nothing of the test's own but the way to Python."""
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(FRAMEWORK), "SHOAL_SOURCE": str(folder)}
    return {**base, "K_SERVICE": "echo", "K_REVISION": "echo-00001", **settings}


def write_handler(folder: Path, code: str) -> Path:
    """Write a handler file into ``folder`` and give the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "handler.py").write_text(textwrap.dedent(code))
    return folder


@contextmanager
def spawned(home: Path, code: str, *, prefix: tuple[str, ...] = (), **settings: str) -> Iterator[FunctionProcess]:
    """Run a function process over ``code`` on a socket made here; it is gone afterwards."""
    folder = write_handler(home / "function", code)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        os.set_inheritable(listener.fileno(), True)
        env = environment(folder, SHOAL_LISTEN_FD=str(listener.fileno()), **settings)
        with spawned_with(home, env, port, prefix=prefix, fds=(listener.fileno(),)) as function:
            listener.close()
            yield function


@contextmanager
def spawned_with(
    home: Path,
    env: Mapping[str, str],
    port: int,
    *,
    prefix: tuple[str, ...] = (),
    fds: tuple[int, ...] = (),
    out: BinaryIO | None = None,
) -> Iterator[FunctionProcess]:
    """Run a function process with exactly these variables; it is gone afterwards."""
    log_path, error_path = home / "out.log", home / "error.log"
    with log_path.open("wb") as log, error_path.open("wb") as error:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "shoal.runtime"],
            env=dict(env),
            stdout=out or log,
            stderr=error,
            pass_fds=fds,
            preexec_fn=die_with_parent,
        )
    function = FunctionProcess(process, port, log_path, error_path)
    try:
        yield function
    finally:
        function.close()


@contextmanager
def served(home: Path, code: str, **settings: str) -> Iterator[FunctionProcess]:
    """Run a function process and wait until it is ready."""
    with spawned(home, code, **settings) as function:
        until(function.ready, "the function to be ready")
        yield function
