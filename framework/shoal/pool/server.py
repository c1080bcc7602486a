"""One Triton server as a child process: its flags, ports, log, death and leftovers.

The child gets its own process group (its Python stubs are in it) and dies with the thread that started it
(core/lifeline.py), so ``start`` belongs on a thread that lives as long as the process, normally the main one.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import IO, Final

from shoal.core import lifeline, proctree
from shoal.core.errors import PoolError, PoolUnreachableError
from shoal.core.limits import (
    LOG_BYTES_MAX,
    TRITON_ANSWER_SECONDS_MAX,
    TRITON_START_SECONDS_MAX,
    TRITON_STOP_SECONDS_MAX,
)
from shoal.pool.environment import TritonEnvironment, assemble_backends
from shoal.pool.ports import LOOPBACK, Ports

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is, shm_overview(7)
_POLL_SECONDS: Final = 0.05
_LOG_LINES_SHOWN: Final = 5
_SHM_NAME: Final = re.compile(r"shoal_(\d+)_(\d+)_(\d+)_")


class TritonServer:
    """A server over a model repository; nothing is loaded until the control API asks for it.

    ``state`` is a folder of its own: backends are laid out there, and ports remembered where none are given.
    ``log`` receives the output.
    """

    def __init__(
        self,
        environment: TritonEnvironment,
        *,
        repository: Path,
        state: Path,
        log: Path,
        ports: Ports | None = None,
    ) -> None:
        self._environment = environment
        self._repository = repository
        self._state = state
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = ports or Ports(state)
        self._shm_prefix = _shm_prefix(os.getpid())
        self.starts = 0

    @property
    def http(self) -> str:
        """``host:port`` of the inference protocol over HTTP."""
        return f"{LOOPBACK}:{self._ports.http}"

    @property
    def grpc(self) -> str:
        """``host:port`` of the gRPC service, which also controls models."""
        return f"{LOOPBACK}:{self._ports.grpc}"

    @property
    def pid(self) -> int:
        """The running server's process id; 0 when none runs."""
        return self._process.pid if self.running and self._process else 0

    @property
    def running(self) -> bool:
        """Whether the process is there; a ready one is more (``wait_ready``)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process and return at once; PoolError when the binary does not even start."""
        self.kill()
        sweep_shared_memory()
        self._state.mkdir(parents=True, exist_ok=True)
        self._repository.mkdir(parents=True, exist_ok=True)
        backends = assemble_backends(self._environment, self._state / "backends")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = self._spawn(self._arguments(backends), log)
        self.starts += 1

    def wait_ready(self, timeout_s: float = TRITON_START_SECONDS_MAX) -> None:
        """Block until the server takes calls; PoolError with the log's end when it dies or takes too long."""
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            if not self.running:
                raise PoolError(
                    f"the Triton server ended while starting: {self.log_end()}", hint=f"read {self._log}"
                )
            if time.monotonic() > deadline:
                raise PoolUnreachableError(
                    f"the Triton server is not ready after {timeout_s:.0f} s: {self.log_end()}"
                )
            time.sleep(_POLL_SECONDS)

    def answers(self) -> bool:
        """Ask the server once whether it is ready to take calls."""
        connection = http.client.HTTPConnection(LOOPBACK, self._ports.http, timeout=TRITON_ANSWER_SECONDS_MAX)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self, timeout_s: float = TRITON_STOP_SECONDS_MAX) -> None:
        """Ask the server to end, wait, then kill what is left of its group; a dead stub can make it hang."""
        if self._process is not None and self.running:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """Kill the server and its stubs at once, and remove the shared memory they leave.

        The stubs of a server that was killed hold its listening sockets: connections to its successor would wait
        in a dead queue. They are found by their program's path, since the server's number may be another's by now.
        """
        if self._process is None:
            return
        if self.running:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        proctree.end_orphans(self._state, 0)
        _remove_shared_memory(self._shm_prefix)

    def close(self) -> None:
        """Stop the server and give its ports back."""
        self.stop()
        self._ports.close()

    def trim_log(self) -> None:
        """Keep the log bounded: beyond the limit it moves to ``<log>.1`` and starts anew; the server appends."""
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > LOG_BYTES_MAX:
                shutil.copyfile(self._log, f"{self._log}.1")
                os.truncate(self._log, 0)

    def stubs(self) -> dict[str, int]:
        """Count the live Python stubs of each model; one that died leaves its model READY, each call failing."""
        return stubs_of(self.pid)

    def log_end(self, lines: int = _LOG_LINES_SHOWN) -> str:
        """Give the last lines of the log that say something went wrong, else the last lines."""
        with contextlib.suppress(OSError):
            found = self._log.read_text(errors="replace").splitlines()[-200:]
            wrong = [line for line in found if line.startswith(("E1", "E0", "error:", "Traceback"))]
            return " | ".join((wrong or found)[-lines:])
        return "(no log)"

    def _arguments(self, backends: Path) -> list[str]:
        return [
            str(self._environment.binary),
            f"--model-repository={self._repository}",
            f"--backend-directory={backends}",
            "--model-control-mode=explicit",
            "--strict-readiness=false",  # else one bad model takes the whole server out
            "--exit-on-error=false",
            "--disable-auto-complete-config",  # every config is complete; completing starts one more stub per load
            f"--http-address={LOOPBACK}",
            f"--http-port={self._ports.http}",
            "--reuse-http-port=true",
            f"--grpc-address={LOOPBACK}",
            f"--grpc-port={self._ports.grpc}",
            "--reuse-grpc-port=true",
            # Loading over HTTP stalls every other HTTP connection: its key is thrown away, control is by gRPC.
            f"--http-restricted-api=model-repository,shared-memory,logging,trace:shoal={secrets.token_hex(16)}",
            "--allow-metrics=false",
            f"--exit-timeout-secs={int(TRITON_STOP_SECONDS_MAX)}",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
        ]

    def _spawn(self, arguments: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                lifeline.tied(arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._state,
                env={**os.environ, **self._environment.variables()},
                start_new_session=True,
            )
        except OSError as error:
            raise PoolError(f"the Triton server does not start: {error}") from error


def stubs_of(pid: int) -> dict[str, int]:
    """Count the live Python stubs below the Triton process ``pid``, by model; none when it is gone."""
    return dict(Counter(filter(None, map(_stub_model, _children(pid)))))


def sweep_shared_memory() -> None:
    """Remove the shared memory of servers whose owner is gone (killed before it could clean up)."""
    for path in SHARED_MEMORY.glob("shoal_*"):
        match = _SHM_NAME.match(path.name)
        if match and int(match[1]) == _pid_namespace() and _started(int(match[2])) != int(match[3]):
            _remove_shared_memory(match[0])


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, listing.read_text().split())
    return found


def _stub_model(pid: int) -> str:
    """Name the model a stub serves, from its command, ``stub REPOSITORY/<model>/1/model.py …``; else give ''."""
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if len(command) > 1 and command[0].endswith(b"triton_python_backend_stub"):
            return Path(os.fsdecode(command[1])).parent.parent.name
    return ""


def _shm_prefix(pid: int) -> str:
    """Name shared memory after its owner: process ids mean something in one namespace, and are used again."""
    return f"shoal_{_pid_namespace()}_{pid}_{_started(pid)}_{secrets.token_hex(3)}_"


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _started(pid: int) -> int:
    """Give a process's start time in clock ticks since boot; -1 when it is gone (field 22 of proc(5) stat)."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return -1 if fields[0] == "Z" else int(fields[19])  # of one that nobody reaps, all is gone but the number
    return -1


def _remove_shared_memory(prefix: str) -> None:
    for path in SHARED_MEMORY.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)
