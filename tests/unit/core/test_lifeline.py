"""Processes tied to their parent, on real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shoal.core import lifeline, proctree

PARENT = """
import subprocess, sys, time
from shoal.core import lifeline
code = "import time; print('up', flush=True); time.sleep(600)"
child = subprocess.Popen(lifeline.tied([sys.executable, "-c", code]))
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_child_dies_with_its_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        said = {parent.stdout.readline().strip() for _ in range(2)}
        (child,) = (int(line) for line in said - {"up"})
        born = proctree.family(parent.pid)[child]
        parent.kill()
    deadline = time.monotonic() + 60
    while proctree.same(child, born):
        assert time.monotonic() < deadline, "the child outlives its parent"
        time.sleep(0.02)


def test_a_child_whose_parent_is_gone_already_does_not_begin(tmp_path: Path) -> None:
    tied = lifeline.tied(["/bin/sh", "-c", f"touch {tmp_path}/begun"])
    tied[tied.index(str(os.getpid()))] = str(os.getppid())  # not the process that starts it
    assert subprocess.run(tied, check=False).returncode == 1
    assert list(tmp_path.iterdir()) == []
    assert subprocess.run(lifeline.tied(["/bin/sh", "-c", f"touch {tmp_path}/begun"]), check=False).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


def test_the_program_finds_itself_as_if_started_directly() -> None:
    code = "import os; print(os.getpid(), os.getppid(), open('/proc/self/status').read())"
    argv = [sys.executable, "-I", "-c", code]
    plain = subprocess.run(argv, capture_output=True, text=True, check=True)
    with subprocess.Popen(lifeline.tied(argv), stdout=subprocess.PIPE, text=True) as child:
        said = child.communicate()[0]
    assert said.split()[:2] == [str(child.pid), str(os.getpid())]
    assert ignored(said) == ignored(plain.stdout)


def test_a_plain_program_ignores_no_signal_but_what_its_starter_does() -> None:
    argv = ["cat", "/proc/self/status"]
    plain = subprocess.run(argv, capture_output=True, text=True, check=True)
    said = subprocess.run(lifeline.tied(argv), capture_output=True, text=True, check=True)
    assert ignored(said.stdout) == ignored(plain.stdout)


def test_a_program_that_is_not_there_is_told_at_once() -> None:
    with pytest.raises(FileNotFoundError, match="/no-such-program"):
        lifeline.tied(["/no-such-program"])


def ignored(status: str) -> str:
    return next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
