"""The command line on a platform in memory: run commands, write down what they print."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner, Result

from helpers_fake_platform import FakePlatform
from shoal.cli.root import root
from shoal.cli.session import Session
from shoal.core.clock import FakeClock


@dataclass
class Shell:
    """Runs commands in one folder, one after the other, on one platform."""

    platform: FakePlatform
    clock: FakeClock
    folder: Path

    def session(self) -> Session:
        """A run's session, with a clock and identifiers that do not move by themselves."""
        return Session(
            clock=self.clock,
            new_id=lambda: "00000000-0000-4000-8000-000000000001",
            open=self.platform.open,
            choose=lambda session: self.platform.open(home=session.home),
        )

    def run(self, *args: str, input: bytes | None = None, env: Mapping[str, str] | None = None) -> Result:
        """Run ``shoal`` with these arguments."""
        variables = {"SHOAL_HOME": str(self.folder / "home"), "COLUMNS": "100", "NO_COLOR": None, **(env or {})}
        return CliRunner(env=variables).invoke(root, args, obj=self.session(), input=input)

    def function_folder(self, name: str) -> str:
        """Make an empty folder; the platform in memory looks no further."""
        (self.folder / name).mkdir(exist_ok=True)
        return name

    def deploy(self, name: str, *, traffic: bool = True) -> None:
        """Deploy without the command line."""
        list(self.platform.deploy(self.folder / self.function_folder(name), traffic=traffic))
        self.platform.calls.clear()


def transcript(shell: Shell, *commands: str) -> str:
    """Run commands and write down what each printed where, and its exit code."""
    parts = []
    for command in commands:
        result = shell.run(*shlex.split(command)[1:])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        parts.append(f"$ {command}\n")
        parts += [f"--- stdout\n{result.stdout}"] if result.stdout else []
        parts += [f"--- stderr\n{result.stderr}"] if result.stderr else []
        parts.append(f"--- exit {result.exit_code}\n\n")
    return "".join(parts).replace(str(shell.folder), "FOLDER")
