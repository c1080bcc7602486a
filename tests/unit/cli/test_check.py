"""``shoal check``: it says what it looked at, and never more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers_cli import Shell
from helpers_functions import write_function

REPOSITORY = Path(__file__).parents[3] / "triton-repo"
ROUTES = """
    from shoal import event, http

    @http(path="/size", methods=["POST"])
    def size(body: bytes):
        return {}

    @http
    def rest():
        return {}

    @event(type="com.example.uploaded")
    def on_upload(data: dict):
        return None
"""
MODEL = """
    from shoal import Model, http

    magika = Model("magika", inputs={"bytes": "DATATYPE[-1,2048]"})

    @http
    async def kind(body: bytes):
        return {}
"""


@pytest.fixture(autouse=True)
def no_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOAL_MODEL_REPOSITORY", raising=False)


def test_handlers_are_shown_with_what_they_take(shell: Shell) -> None:
    write_function(shell.folder / "f", ROUTES)
    result = shell.run("check", "f")
    assert (result.exit_code, result.stderr) == (0, "f can be deployed\n")
    assert result.stdout.splitlines() == [
        "size: POST /size", "rest: any request", "on_upload: event com.example.uploaded",
    ]  # fmt: skip


def test_a_model_that_cannot_be_looked_at_is_not_called_right(shell: Shell) -> None:
    write_function(shell.folder / "f", MODEL.replace("DATATYPE", "INT32"))
    result = shell.run("check", "f")
    assert result.exit_code == 1
    assert result.stdout == "kind: any request\n"
    assert result.stderr == (
        "error: cannot say: model magika not checked, no model repository above f\n"
        "hint: SHOAL_MODEL_REPOSITORY=DIR shoal check f\n"
    )
    assert json.loads(shell.run("check", "f", "--json").stdout)["error"]["code"] == "deploy"


def test_with_a_repository_it_is_checked(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_MODEL_REPOSITORY", str(REPOSITORY))
    write_function(shell.folder / "f", MODEL.replace("DATATYPE", "INT32"))
    result = shell.run("check", "f")
    assert result.exit_code == 0, result.stderr
    assert "model magika: magika--" in result.stdout


def test_a_rule_of_ours_broken_at_import_is_told_plainly(shell: Shell) -> None:
    folder = write_function(shell.folder / "f", MODEL.replace("DATATYPE", "INT99"))
    result = shell.run("check", "f")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: tensor ")
    assert "INT99" in result.stderr
    assert f"({folder}/handler.py:4)" in result.stderr
    assert "UsageError" not in result.stderr
    assert "shoal check" not in result.stderr


def test_a_failing_import_does_not_advise_the_same_command(shell: Shell) -> None:
    write_function(shell.folder / "f", "import os\nos._exit(3)\n")
    result = shell.run("check", "f")
    assert result.exit_code == 1
    assert "cannot be imported" in result.stderr
    assert "hint" not in result.stderr
