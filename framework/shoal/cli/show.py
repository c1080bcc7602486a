"""A function and a platform as text: what ``status``, ``traffic``, ``rollback`` and ``deploy`` print."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.cli import terminal
from shoal.cli.text import ago, bar, count, one_line, table
from shoal.platform.port import Component, FunctionStatus, HandlerInfo, PlatformStatus, RevisionStatus, TriggerInfo


def overview(status: PlatformStatus, functions: Sequence[FunctionStatus], now: float) -> list[str]:
    """The platform's parts, the models the pool holds, and each function with the revisions that matter."""
    lines = [terminal.strong("platform"), *table([_component(part) for part in status.components], indent="  ")]
    if status.models:
        rows = [(version, one_line(state)) for version, state in sorted(status.models.items())]
        lines += ["", terminal.strong("models"), *table(rows, indent="  ")]
    lines += ["", terminal.strong("functions")]
    if not functions:
        lines.append("  none yet: shoal new greet && shoal deploy greet")
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
    """One function with what it answers to and all its revisions."""
    takes = [handler(one) for one in function.handlers] + [_trigger(one) for one in function.triggers]
    rows = [(*_row(one, now), one.digest[:12]) for one in function.revisions]
    return [_headline(function), *(f"  {line}" for line in takes), *table(rows, indent="  ")]


def handler(one: HandlerInfo) -> str:
    """One handler with what it answers to: ``size: POST /size``, ``on_upload: event com.example.uploaded``."""
    if one.kind == "event":
        source = f" from {one.source}" if one.source else ""
        return f"{one.name}: event {one.type or 'of any type'}{source}"
    return f"{one.name}: {requests(one)}"


def requests(one: HandlerInfo) -> str:
    """Which requests an HTTP handler takes: ``GET,POST /x``, ``GET any path``, ``any request``."""
    if not one.path and not one.methods:
        return "any request"
    return f"{','.join(one.methods) or 'any method'} {one.path or 'any path'}"


def _trigger(one: TriggerInfo) -> str:
    wanted = ", ".join(f"{name}={value or 'any'}" for name, value in one.filter.items())
    return f"trigger: broker {one.broker}, {wanted or 'every event'}"


def state(part: Component) -> tuple[str, str, str, str]:
    """A part's name, whether it is ready, its address, and the reason while it is not."""
    starting = "starting"
    if part.ready:
        return (part.name, "ready", part.address, "")
    if part.detail.startswith(starting):
        return (part.name, starting, part.address, one_line(part.detail.removeprefix(starting)))
    return (part.name, "not ready", part.address, one_line(part.detail))


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
    name, ready, address, reason = state(part)
    return (name, ready, address, pid, restarts, reason or (one_line(part.detail) if part.ready else ""))


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
