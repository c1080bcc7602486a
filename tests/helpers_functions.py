"""Tiny functions for tests, and waiting for conditions."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from shoal.platform.port import Deployment, Platform, Stage

T = TypeVar("T")
Make = Callable[..., Path]  # write a function folder: code, config, name
WAIT_SECONDS = 90.0


def write_function(folder: Path, code: str, *, config: str = "") -> Path:
    """Write a function's folder; ``config`` is the text of function.yaml, none without it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "handler.py").write_text(textwrap.dedent(code))
    if config:
        (folder / "function.yaml").write_text(textwrap.dedent(config))
    return folder


def deploy(platform: Platform, folder: Path, *, traffic: bool = True) -> Deployment:
    """Deploy and give the result; what the stages said is checked to be well-formed."""
    *stages, last = list(platform.deploy(folder, traffic=traffic))
    assert isinstance(last, Deployment)
    assert all(isinstance(stage, Stage) for stage in stages)
    return last


def until(condition: Callable[[], T], what: str, seconds: float = WAIT_SECONDS) -> T:
    """Wait until ``condition`` gives something true, and give it."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)
    return value
