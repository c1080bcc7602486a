"""Families of processes and their orphans, on real processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal.core import lifeline, proctree


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start processes of a program that lies in the test's folder."""
    program = tmp_path / "run" / "sleep"
    program.parent.mkdir()
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(lifeline.tied([str(program), "600"])))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_family_is_a_process_and_all_below_it() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = proctree.family(child.pid)
        assert len(found) == 2
        assert all(proctree.same(pid, born) for pid, born in found.items())
        assert set(found) < set(proctree.family(os.getpid()))
        child.communicate()
    assert not any(proctree.same(pid, born) for pid, born in found.items())
    assert proctree.family(0) == {}


def test_a_number_with_another_birth_is_another_process() -> None:
    assert proctree.same(os.getpid(), proctree.family(os.getpid())[os.getpid()])
    assert not proctree.same(os.getpid(), "0")


def test_orphans_are_those_of_the_folder_outside_the_family(
    sleeper: Callable[[], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = sleeper()
    deadline = time.monotonic() + 60
    while not (Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(bytes(tmp_path))):
        assert time.monotonic() < deadline
    assert proctree.end_orphans(tmp_path / "run", os.getpid()) == []
    assert proctree.end_orphans(tmp_path / "elsewhere", 0) == []
    assert process.poll() is None
    assert proctree.end_orphans(tmp_path / "run", 0) == [process.pid]
    assert process.wait(60) == -9
