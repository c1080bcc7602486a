"""README's commands, run in their order in one shell on a copy of the project, against a platform of their own."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND_SECONDS_MAX = 240
COPIED = ("Makefile", "functions", "triton-repo", "docs", "framework", "pyproject.toml", "requirements")


@dataclass(frozen=True)
class Command:
    """A line after ``$`` and the output README shows below it."""

    line: str
    shown: str


def commands() -> list[Command]:
    """Read the console blocks."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, shown = entry.partition("\n")
            found.append(Command(line, shown.strip()))
    return found


def rounded(text: str) -> str:
    """Cut fractions to three digits: the last ones of a model's score depend on the processor."""
    return re.sub(r"(\.\d{3})\d+", r"\1", text.strip())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Shell:
    """Runs README's lines: its ports are replaced by free ones, and ``make up`` by what it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.folder.mkdir()
        for name in COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            copy(source, self.folder / name)
        self.port, self.broker_port = free_port(), free_port()
        binaries = str(Path(sys.executable).parent)
        self.environment = {
            **os.environ,
            "SHOAL_HOME": str(folder / "home"),
            "PATH": binaries + os.pathsep + os.environ["PATH"],
            "NO_COLOR": "1",
        }

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        line = line.replace("8080", str(self.port))
        if line == "make up":
            line = f"shoal up --port {self.port} --broker-port {self.broker_port}"
        line = re.sub(r"^make deploy FUNCTION=", "shoal deploy ", line)
        line = line.replace("make down", "shoal down")
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    found = Shell(tmp_path)
    yield found
    found.run("shoal down")


def test_there_are_commands() -> None:
    assert len(commands()) > 12


@pytest.mark.triton
@pytest.mark.timeout(900)
def test_each_command_does_what_it_shows(shell: Shell) -> None:
    for command in commands():
        done = shell.run(command.line)
        assert done.returncode == 0, f"$ {command.line}\n{done.stdout}{done.stderr}"
        if command.shown:
            assert rounded(done.stdout) == rounded(command.shown), f"$ {command.line}"


def test_the_make_targets_run_what_the_test_runs_for_them() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target, recipe in {
        "up": "$(BIN)/shoal up",
        "down": "$(BIN)/shoal down",
        "deploy": "$(BIN)/shoal deploy $(FUNCTION)",
    }.items():
        assert re.search(rf"^{target}:.*\n(\t@.*\n)*\t{re.escape(recipe)}$", makefile, re.MULTILINE), target
