"""The onnxruntime backend's process ends with the server that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from helpers_process import die_with_parent
from shoal.pool import backends

MODEL = Path(backends.__path__[0]) / "onnxruntime" / "model.py"
STUB = """
import runpy, sys, time, types
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
runpy.run_path(sys.argv[1])
print("loaded", flush=True)
time.sleep(600)
"""
SERVER = """
import subprocess, sys
stub = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.PIPE)
stub.stdout.readline()
print(stub.pid, flush=True)
stub.wait()
"""


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_backend_ends_when_its_server_is_killed() -> None:
    argv = [sys.executable, "-c", SERVER, STUB, str(MODEL)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, preexec_fn=die_with_parent) as server:
        assert server.stdout is not None
        stub = int(server.stdout.readline())
        assert runs(stub)
        server.kill()
    deadline = time.monotonic() + 60
    try:
        while runs(stub):
            assert time.monotonic() < deadline, "the backend outlives its server"
            time.sleep(0.05)
    finally:
        if runs(stub):
            os.kill(stub, signal.SIGKILL)
