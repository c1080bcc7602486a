"""A function and a platform as text: what ``status``, ``traffic``, ``rollback`` and ``deploy`` print."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.cli import terminal
from shoal.cli.text import ago, bar, count, one_line, table
from shoal.platform.port import Component, FunctionStatus, PlatformStatus, RevisionStatus


def overview(status: PlatformStatus, functions: Sequence[FunctionStatus], now: float) -> list[str]:
    """The platform's parts, the models the pool holds, and each function with the revisions that matter."""
    lines = [terminal.strong("platform"), *table([_component(part) for part in status.components], indent="  ")]
    if status.models:
        rows = [(version, one_line(state)) for version, state in sorted(status.models.items())]
        lines += ["", terminal.strong("models"), *table(rows, indent="  ")]
    lines += ["", terminal.strong("functions")]
    if not functions:
        lines.append("  none yet: shoal new hello && shoal deploy hello")
    for one in functions:
        lines += [f"  {line}" for line in brief(one, now)]
    return lines


def brief(function: FunctionStatus, now: float) -> list[str]:
    """One function: a headline, and one line for each revision with traffic, a tag, an instance or a reason."""
    shown = [one for one in function.revisions if one.percent or one.tags or one.instances or one.reason]
    lines = [_headline(function), *table([_row(one, now) for one in shown], indent="  ")]
    if hidden := len(function.revisions) - len(shown):
        lines.append(terminal.faint(f"  and {count(hidden, 'revision')} without traffic"))
    return lines


def whole(function: FunctionStatus, now: float) -> list[str]:
    """One function with all its revisions."""
    rows = [(*_row(one, now), one.digest[:12]) for one in function.revisions]
    return [_headline(function), *table(rows, indent="  ")]


def traffic(function: FunctionStatus) -> list[str]:
    """The split alone: percent, bar, revision, tag."""
    rows = [
        (f"{target.percent:>3} %", bar(target.percent, unicode=terminal.unicode_out()), target.revision, target.tag)
        for target in function.traffic
    ]
    return table(rows)


def _headline(function: FunctionStatus) -> str:
    state = terminal.good("ready") if function.ready else terminal.bad("not ready")
    reason = "" if function.ready else f": {one_line(function.reason)}"
    return f"{terminal.strong(function.name)}  {state}{reason}  {function.url}"


def _component(part: Component) -> tuple[str, ...]:
    restarts = f"restarted {count(part.restarts, 'time')}" if part.restarts else ""
    pid = f"pid {part.pid}" if part.pid else ""
    return (part.name, "ready" if part.ready else "not ready", part.address, pid, restarts, one_line(part.detail))


def _row(one: RevisionStatus, now: float) -> tuple[str, ...]:
    return (
        one.name,
        f"{bar(one.percent, unicode=terminal.unicode_out())} {one.percent:>3} %",
        f"tag {', '.join(one.tags)}" if one.tags else "",
        count(one.instances, "instance") if one.instances else "at zero",
        ", ".join(one.models.values()),
        ago(one.created, now),
        "" if one.ready else f"not ready: {one_line(one.reason)}",
    )
