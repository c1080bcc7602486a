"""Stages as they pass: a live line on a terminal, one plain line per finished stage anywhere else."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, TypeVar

import click

from shoal.cli import terminal
from shoal.cli.text import duration, one_line
from shoal.platform.port import Stage

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
_NAME_CHARS: Final = 12


def follow(items: Iterable[Stage | T]) -> list[T]:
    """Show each Stage on stderr as it comes; give what else came."""
    rest: list[T] = []
    with _live() as live:
        for item in items:
            if not isinstance(item, Stage):
                rest.append(item)
            elif live is not None:
                _redraw(live, item)
            elif item.state != "started":
                terminal.note(_line(item))
    return rest


def _line(stage: Stage) -> str:
    tick = _tick(stage.state == "done")
    name = f"{stage.name:<{_NAME_CHARS}}"
    detail = f"  {terminal.faint(one_line(stage.detail))}" if stage.detail else ""
    return f"  {tick} {name} {duration(stage.seconds):>8}{detail}"


def _tick(good: bool) -> str:
    mark = ("✓" if good else "✗") if terminal.unicode_err() else ("+" if good else "x")
    return terminal.good(mark) if good else terminal.bad(mark)


def _live() -> AbstractContextManager[Progress | None]:
    """Make rich's live display where stderr is a terminal; rich is imported only then."""
    if not terminal.is_live():
        return nullcontext(None)
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn(" "),
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True, highlight=False)
    return Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)


def _redraw(live: Progress, stage: Stage) -> None:
    """Replace the running line, and leave a line behind for each stage that ended."""
    for task in list(live.task_ids):
        live.remove_task(task)
    if stage.state == "started":
        live.add_task(f"{stage.name:<{_NAME_CHARS}} {one_line(stage.detail, 60)}", total=None)
    else:
        live.console.print(_rich_text(_line(stage)))


def _rich_text(line: str) -> object:
    from rich.text import Text

    return Text.from_ansi(line if terminal.has_colour() else click.unstyle(line))
