"""The function as it runs: a real Triton with the real model, and the function's own process in front."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers_triton import prepared, running
from shoal.models.repository import ModelRepository

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1] / "triton-repo"
READY_SECONDS = 90.0
_LIBC = ctypes.CDLL(None)


@pytest.fixture(scope="session")
def filetype_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``host:port`` of the served function."""
    prepared()
    home = tmp_path_factory.mktemp("filetype")
    version = ModelRepository(REPOSITORY).materialise("magika", home / "models").name
    with running(home, [version]) as triton, socket.create_server(("127.0.0.1", 0)) as listener:
        env = {
            **os.environ,
            "SHOAL_SOURCE": str(FOLDER),
            "SHOAL_POOL": triton.http,
            "SHOAL_MODELS": json.dumps({"magika": version}),
            "SHOAL_LISTEN_FD": str(listener.fileno()),
            "K_SERVICE": "filetype",
            "K_REVISION": "filetype-00001",
        }
        with (home / "function.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "shoal.runtime"],
                env=env,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                preexec_fn=_die_with_parent,
            )
        try:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            _until(lambda: _ready(address, process), home / "function.log")
            yield address
        finally:
            process.kill()
            process.wait()


def _die_with_parent() -> None:
    _LIBC.prctl(1, signal.SIGKILL)


def _ready(address: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the function's process ended"
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("GET", "/_shoal/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _until(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-2_000:]
        time.sleep(0.05)
