"""``shoal logs``: a function's log."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from shoal.cli import options, split, terminal
from shoal.cli.session import Session, pass_session

LINES_MAX: Final = 100_000
_SHOWN_FIRST: Final = ("time", "level", "message", "service")
_HIDDEN: Final = frozenset((*_SHOWN_FIRST, "trace_id", "request_id"))


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
@options.common
@pass_session
def command(session: Session, name: str, follow: bool, revision: str, lines: int) -> None:
    """Print a function's log, oldest first; or that of node, gateway, broker or pool.

    Lines are shortened for reading; --json prints them as they were written, one JSON object a line.
    """
    exact = split.resolve(revision, session.platform.function(name)) if revision else ""
    for line in session.platform.logs(name, revision=exact, follow=follow, lines=lines):
        terminal.out(line if session.as_json else readable(line))


def readable(line: str) -> str:
    """Shorten a JSON log line to time, level, message and what else it says; other lines stay as they are."""
    try:
        record = json.loads(line)
    except ValueError:
        return line
    if not isinstance(record, dict) or "message" not in record:
        return line
    moment = str(record.get("time", "")).partition("T")[2][:12]
    level = str(record.get("level", "")).upper()
    head = f"{moment} {_level(level)} {record['message']}".strip()
    return f"{head}  {_facts(record)}".rstrip()


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
