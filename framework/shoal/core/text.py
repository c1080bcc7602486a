"""Texts of others in messages of ours: bounded, so that one long value does not bury the sentence around it."""

from __future__ import annotations

from shoal.core.limits import ERROR_TEXT_CHARS_MAX


def bounded(text: str, chars_max: int = ERROR_TEXT_CHARS_MAX) -> str:
    """Give a text, cut to ``chars_max`` characters; the last one then says so."""
    return text if len(text) <= chars_max else f"{text[: chars_max - 1]}…"
