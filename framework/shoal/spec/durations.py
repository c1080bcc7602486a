"""Durations as people write them (``200ms``, ``1.5m``, ``1m30s``) to seconds, and back."""

from __future__ import annotations

import re
from typing import Final

UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
PATTERN: Final = r"^([0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h))+$"

_WHOLE = re.compile(PATTERN)
_PART = re.compile(r"([0-9.]+)(ms|s|m|h)")


def parse(text: str) -> float:
    """Give the seconds ``text`` stands for; ValueError with the rule when it is no duration."""
    if _WHOLE.fullmatch(text):
        return round(sum(float(number) * UNIT_SECONDS[unit] for number, unit in _PART.findall(text)), 9)
    raise ValueError(f"{text!r} is not a duration: a number with ms, s, m or h, as in 200ms, 60s, 1.5m or 1h")


def show(seconds: float) -> str:
    """Write ``seconds`` with the largest unit that keeps the number whole: ``90s``, ``200ms``."""
    for unit in ("h", "m", "s"):
        if seconds and seconds % UNIT_SECONDS[unit] == 0:
            return f"{seconds / UNIT_SECONDS[unit]:.0f}{unit}"
    return f"{seconds:g}s" if seconds >= 1 or not seconds else f"{seconds * 1000:g}ms"
