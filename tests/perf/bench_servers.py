"""The subjects of the benchmarks: processes pinned to one core, asked over loopback by wrk on the other."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

APPS = Path(__file__).resolve().parent / "apps"
SERVER_CORE, LOAD_CORE = "0", "1"
START_SECONDS_MAX = 60.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
ECHO_BODY = '{"numbers": [1, 2, 3, 4, 5, 6, 7, 8], "text": "one small request", "nested": {"ok": true}}'
WRK_SCRIPT = """
wrk.method = "POST"
wrk.headers["content-type"] = "{content_type}"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
"""


def free_port() -> int:
    """Ask the kernel for a port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """One server process."""

    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    body: bytes = ECHO_BODY.encode()
    content_type: str = "application/json"
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Spawn it and wait for its first 200."""
        self.port = free_port()
        environment = {"PATH": os.environ["PATH"], "PORT": str(self.port), **self.environment}
        self.process = subprocess.Popen(
            ["taskset", "-c", SERVER_CORE, *self.command],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        begun = time.monotonic()
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() - begun > START_SECONDS_MAX:
                raise RuntimeError(f"no answer from {' '.join(self.command)} (exit code {self.process.poll()})")
            time.sleep(0.002)

    def _answers(self) -> bool:
        headers = {"content-type": self.content_type}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/", self.body, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        """End it and everything it started."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def cpu_seconds(self) -> float:
        """Processor time of its process group so far."""
        total = 0
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if self.process is not None and int(fields[2]) == self.process.pid:
                total += int(fields[11]) + int(fields[12])
        return total / TICKS_PER_SECOND


def load(server: Server, seconds: int, connections: int = 16) -> float:
    """Give the requests per second that wrk gets answered with 2xx; RuntimeError on any other answer."""
    if not shutil.which("wrk"):
        raise RuntimeError("wrk is missing: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        body, script = Path(folder, "body"), Path(folder, "post.lua")
        body.write_bytes(server.body)
        script.write_text(WRK_SCRIPT.format(content_type=server.content_type, body=body))
        output = subprocess.run(
            ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script),
             f"http://127.0.0.1:{server.port}/"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    if bad := re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", output):
        raise RuntimeError(f"not every answer was good: {bad.group(0)}")
    match = re.search(r"Requests/sec:\s+([\d.]+)", output)
    if match is None:
        raise RuntimeError(f"wrk said: {output}")
    return float(match.group(1))


def bare() -> Server:
    """The bare ASGI echo on uvicorn."""
    return Server([sys.executable, str(APPS / "bare.py")])


def shoal_echo() -> Server:
    """The echo as a shoal function."""
    return shoal_function("shoal_echo")


def shoal_function(app: str, **environment: str) -> Server:
    """Any of the applications here as a shoal function."""
    settings = {"SHOAL_SOURCE": str(APPS / app), "K_SERVICE": app.replace("_", "-"), "K_REVISION": f"{app}-00001"}
    return Server([sys.executable, "-m", "shoal.runtime"], {**settings, **environment})


def functions_framework() -> Server:
    """The echo on functions-framework, as its own command serves it."""
    command = [
        str(Path(sys.executable).parent / "functions-framework"), "--target", "echo",
        "--source", str(APPS / "ff_echo" / "main.py"),
    ]  # fmt: skip
    return Server(command, {"GUNICORN_LOG_LEVEL": "error"})
