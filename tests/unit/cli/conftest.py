"""A command line on a platform in memory, and golden transcripts of what it prints."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers_cli import Shell
from helpers_fake_platform import FakePlatform
from shoal.core.clock import FakeClock

GOLDEN = Path(__file__).parent / "golden"
ACCEPT = "SHOAL_ACCEPT_GOLDEN"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    clock = FakeClock()
    return Shell(FakePlatform(clock), clock, tmp_path)


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare a text with ``golden/<name>.txt``; the failure shows the difference and how to accept it."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if os.environ.get(ACCEPT):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        kept = path.read_text() if path.exists() else ""
        assert text == kept, f"not as kept; if it should be: {ACCEPT}=1 pytest {Path(__file__).parent}"

    return check
