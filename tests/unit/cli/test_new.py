"""What ``shoal new`` writes works as it is."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from helpers_cli import Shell
from shoal.cli.verbs.new import FILES, TEMPLATES, identifier
from shoal.spec.function import load

HANDLER_LINES_MAX = 18


@pytest.fixture(params=TEMPLATES)
def made(request: pytest.FixtureRequest, shell: Shell) -> Path:
    assert shell.run("new", "my-function", "--template", request.param).exit_code == 0
    return shell.folder / "my-function"


def test_its_specification_is_right(made: Path) -> None:
    spec = load(made)
    assert spec.name == "my-function"
    assert spec.description


@pytest.mark.parametrize("runner", ["unittest", "pytest"])
def test_its_own_test_passes(made: Path, runner: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", runner, *(["-p", "no:cacheprovider"] if runner == "pytest" else [])],
        cwd=made, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_its_own_test_can_fail(made: Path) -> None:
    handler = made / "handler.py"
    handler.write_text(handler.read_text().replace("    return ", "    return None and "))
    ended = subprocess.run(
        [sys.executable, "-m", "unittest"], cwd=made, capture_output=True, timeout=120, check=False
    )
    assert ended.returncode == 1


def test_its_handler_is_short_and_formatted(made: Path) -> None:
    text = (made / "handler.py").read_text()
    assert len(text.splitlines()) <= HANDLER_LINES_MAX
    command = [sys.executable, "-m", "ruff", "format", "--check", "--isolated", "--line-length", "116", str(made)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize("name", ["class", "match", "http", "event", "magika-", "a-b-c", "print", "test"])
def test_any_function_name_gives_a_handler_that_loads(shell: Shell, name: str) -> None:
    name = name.rstrip("-")
    for template in TEMPLATES:
        folder = shell.folder / template / name
        assert shell.run("new", str(folder), "--template", template).exit_code == 0
        tree = ast.parse((folder / "handler.py").read_text())
        assert [node.name for node in tree.body if isinstance(node, ast.AsyncFunctionDef)] == [identifier(name)]
        ended = subprocess.run(
            [sys.executable, "-m", "unittest"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_overwritten(shell: Shell, file: str) -> None:
    (shell.folder / "f").mkdir()
    (shell.folder / "f" / file).write_text("mine")
    assert shell.run("new", "f").exit_code == 5
    assert [path.name for path in (shell.folder / "f").iterdir()] == [file]
    assert (shell.folder / "f" / file).read_text() == "mine"


def test_a_folder_that_cannot_be_made(shell: Shell) -> None:
    (shell.folder / "file").write_text("")
    result = shell.run("new", "file/f")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
