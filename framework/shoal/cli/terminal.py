"""What goes where: data to stdout, everything said about it to stderr, colour only where a person sees it."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

import click


def take_any_text() -> None:
    """Let stdout escape what its encoding lacks: a name that is no UTF-8 must not become a failure of its own."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def out(text: str = "") -> None:
    """Print a line of data on stdout."""
    click.echo(text, color=_colour())


def raw(data: bytes) -> None:
    """Write bytes to stdout as they are; on a terminal end with a line break."""
    click.echo(data, nl=sys.stdout.isatty() and not data.endswith(b"\n"))


def out_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=not unicode_out()))


def note(text: str = "") -> None:
    """Print a line for the person on stderr."""
    click.echo(text, err=True, color=_colour())


def is_live() -> bool:
    """Whether stderr is a terminal that can redraw a line."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def is_person() -> bool:
    """Whether someone can answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def unicode_out() -> bool:
    """Whether stdout takes bars and ticks."""
    return _takes_unicode(sys.stdout.encoding)


def unicode_err() -> bool:
    """Whether stderr takes bars and ticks."""
    return _takes_unicode(sys.stderr.encoding)


def good(text: str) -> str:
    """Style what is as it should be."""
    return click.style(text, fg="green")


def bad(text: str) -> str:
    """Style what is not as it should be."""
    return click.style(text, fg="red")


def faint(text: str) -> str:
    """Style what matters less."""
    return click.style(text, dim=True)


def strong(text: str) -> str:
    """Style a heading."""
    return click.style(text, bold=True)


def has_colour() -> bool:
    """Whether colour is wanted at all."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _colour() -> bool | None:
    """Give False when colour is off by choice; None lets the stream decide."""
    return None if has_colour() else False


def _takes_unicode(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("-", "") == "utf8"
