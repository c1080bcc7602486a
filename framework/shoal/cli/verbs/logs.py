"""``shoal logs``: a function's log."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import click

import shoal
from shoal.cli import options, split, terminal
from shoal.cli.session import Session, pass_session
from shoal.cli.text import SHORT_ID_CHARS

LINES_MAX: Final = 100_000
_SHOWN_FIRST: Final = ("time", "level", "message", "service")
_HIDDEN: Final = frozenset((*_SHOWN_FIRST, "trace_id", "request_id", "traceback"))
_MACHINERY: Final = (
    f'"{Path(shoal.__file__).parent}{os.sep}',
    "concurrent/futures/thread.py",
    '"<frozen importlib',
)


@click.command("logs")
@options.function_name
@click.option("-f", "--follow", is_flag=True, help="Go on as lines are written, until Ctrl-C.")
@click.option("--revision", metavar="REVISION", default="", help="One revision: name, number, tag or @latest.")
@click.option(
    "-n",
    "--lines",
    metavar="NUMBER",
    type=click.IntRange(1, LINES_MAX),
    default=100,
    show_default=True,
    help="How many of the last lines.",
)
@click.option("--request", metavar="ID", default="", help="One request: its id, or the beginning of it.")
@options.common
@pass_session
def command(session: Session, name: str, follow: bool, revision: str, lines: int, request: str) -> None:
    """Print a function's log, oldest first; or that of node, gateway, broker or pool.

    Lines are shortened for reading, and tracebacks to the frames of the function; --json prints lines as they were
    written, one JSON object a line. --request looks through all lines kept.
    """
    exact = split.resolve(revision, session.platform.function(name)) if revision else ""
    count = LINES_MAX if request else lines
    for line in session.platform.logs(name, revision=exact, follow=follow, lines=count):
        record = _record(line)
        if not request or str(record.get("request_id", "")).startswith(request):
            terminal.out(line if session.as_json else readable(line))


def _record(line: str) -> dict[str, Any]:
    """Read a JSON log line; empty for any other."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def readable(line: str) -> str:
    """Shorten a JSON log line to time, level, message and what else it says; other lines stay as they are."""
    record = _record(line)
    if "message" not in record:
        return line
    moment = str(record.get("time", "")).partition("T")[2][:12]
    level = str(record.get("level", "")).upper()
    head = f"{moment} {_level(level)} {record['message']}".strip()
    said = [_facts(record)]
    if level == "ERROR" and record.get("request_id"):
        said.append(f"request={str(record['request_id'])[:SHORT_ID_CHARS]}")
    return "  ".join(filter(None, [head, *said])) + _traceback(str(record.get("traceback", "")))


def _traceback(text: str) -> str:
    """Give a traceback without the frames of the framework and of Python's machinery, indented below its line."""
    kept, skipping = [], False
    for line in text.splitlines():
        if line.startswith('  File "'):
            skipping = any(part in line for part in _MACHINERY)
        elif not line.startswith("    "):
            skipping = False
        if not skipping:
            kept.append(f"\n    {line}")
    return "".join(kept)


def _level(level: str) -> str:
    padded = f"{level:<7}"
    return terminal.bad(padded) if level in ("ERROR", "WARNING") else padded


def _facts(record: dict[str, Any]) -> str:
    if record.get("message") == "request":
        words = [str(record.get(key, "")) for key in ("method", "path", "status")]
        words += [f"{record.get('duration_ms', '?')} ms", str(record.get("revision", ""))]
        said = ": ".join(str(record[key]) for key in ("component", "detail") if record.get(key))
        return " ".join(words) + (f"  {said}" if said else "")
    return " ".join(f"{key}={value}" for key, value in record.items() if key not in _HIDDEN and value != "")
