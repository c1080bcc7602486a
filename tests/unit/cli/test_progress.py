"""Stages: plain lines into a pipe, a live line on a terminal, no colour where none is wanted."""

from __future__ import annotations

import os
import subprocess
import sys

from shoal.cli import progress
from shoal.platform.port import Stage

SCRIPT = """
from shoal.cli import progress, terminal
from shoal.platform.port import Stage
stages = [
    Stage("check", "started"), Stage("check", "done", 0.2, "1 handler"),
    Stage("ready", "started", detail="[bold] is text"), Stage("ready", "failed", 3, "[x]"),
]
found = progress.follow(iter([*stages, 7]))
assert found == [7]
terminal.note(terminal.bad("error:"))
"""


def on_a_terminal(**env: str) -> str:
    """Run the script with a pseudo-terminal for stderr; give what it wrote there."""
    leader, follower = os.openpty()
    variables = {**os.environ, "TERM": "xterm-256color", **env}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=follower, env=variables)
    os.close(follower)
    written = b""
    try:
        while chunk := os.read(leader, 65_536):
            written += chunk
    except OSError:  # Linux tells the end of a terminal's other side so
        pass
    finally:
        os.close(leader)
    assert process.wait(60) == 0
    return written.decode()


def test_a_terminal_gets_a_live_line_and_the_same_lines_in_the_end() -> None:
    written = on_a_terminal(NO_COLOR="")
    assert "\x1b[" in written
    for part in ("check", "200 ms", "1 handler", "[bold] is text", "✗", "[x]", "error:"):
        assert part in written


def test_no_color_is_respected() -> None:
    written = on_a_terminal(NO_COLOR="1")
    for colour in ("\x1b[31m", "\x1b[32m", "\x1b[2m", "\x1b[1m"):
        assert colour not in written
    assert "error:" in written


def test_a_dumb_terminal_gets_plain_lines() -> None:
    written = on_a_terminal(TERM="dumb")
    assert "\x1b" not in written
    assert "  ✓ check          200 ms  1 handler" in written


def test_a_pipe_gets_one_line_for_each_stage_that_ended() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        "  ✓ check          200 ms  1 handler",
        "  ✗ ready           3.0 s  [x]",
        "error:",
    ]


def test_an_old_locale_gets_no_unicode() -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True, env=env
    )
    assert ended.stderr.splitlines()[0] == "  + check          200 ms  1 handler"


def test_what_is_no_stage_comes_back_in_order() -> None:
    assert progress.follow([1, Stage("a", "started"), 2]) == [1, 2]
