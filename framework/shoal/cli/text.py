"""Small pieces of text: times, tables, bars, and the word that was probably meant. Pure functions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

BAR_CHARS: Final = 10
SHORT_ID_CHARS: Final = 8  # of a request's id, as 'shoal logs' shows and takes it
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def duration(seconds: float) -> str:
    """Write a span for people: ``340 ms``, ``1.2 s``, ``2 min 5 s``."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.00995 else f"{seconds * 1000:.0f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def ago(then: float, now: float) -> str:
    """Write how long ago ``then`` was (both seconds since the epoch): ``3 min ago``."""
    passed = now - then
    for size, unit in _SPANS:
        if passed >= size:
            return f"{passed // size:.0f} {unit} ago"
    return "now"


def instant(seconds: float) -> str:
    """Write a moment (seconds since the epoch) as UTC to the second: ``2026-11-22 17:15:04Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def bar(percent: int, *, unicode: bool = True) -> str:
    """Draw a percentage; anything above 0 shows at least one filled cell, anything below 100 one empty."""
    filled = round(percent * BAR_CHARS / 100)
    if 0 < percent < 100:
        filled = min(max(filled, 1), BAR_CHARS - 1)
    full, empty = ("█", "░") if unicode else ("#", "-")
    return full * filled + empty * (BAR_CHARS - filled)


def count(number: int, noun: str) -> str:
    """Write a number with its noun: ``1 revision``, ``2 revisions``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table(rows: Sequence[Sequence[str]], *, indent: str = "") -> list[str]:
    """Align columns with two spaces between; empty columns vanish."""
    if not rows:
        return []
    used = [index for index in range(len(rows[0])) if any(row[index] for row in rows)]
    widths = [max(len(row[index]) for row in rows) for index in used]
    return [
        (indent + "  ".join(row[index].ljust(width) for index, width in zip(used, widths, strict=True))).rstrip()
        for row in rows
    ]


def closest(given: str, known: Iterable[str]) -> str:
    """Give the known word that looks most like ``given``, or ''."""
    found = difflib.get_close_matches(given.lower(), list(known), n=1, cutoff=0.6)
    return found[0] if found else ""


def one_line(text: str, chars_max: int = 200) -> str:
    """Make a text fit one line."""
    line = " ".join(text.split())
    return line if len(line) <= chars_max else f"{line[: chars_max - 1]}…"
