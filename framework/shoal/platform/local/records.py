"""What the platform remembers: functions, revisions and traffic, as plain frozen values and their JSON form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from shoal.core import limits
from shoal.platform.port import HandlerInfo, Target


@dataclass(frozen=True, slots=True)
class TriggerSpec:
    """Which events of a broker a function receives, and how hard the broker tries."""

    broker: str = "default"
    filter: Mapping[str, str] = field(default_factory=dict)  # attribute -> exact value; "" matches any value
    retry: int = 5
    backoff_policy: str = "exponential"
    backoff_delay_s: float = 0.2
    timeout_s: float = limits.TIMEOUT_SECONDS_DEFAULT


@dataclass(frozen=True, slots=True)
class RunSpec:
    """All that running a revision needs besides its code."""

    handler: str = "handler.py"
    concurrency: int = limits.CONCURRENCY_DEFAULT
    timeout_s: float = limits.TIMEOUT_SECONDS_DEFAULT
    threads: int = limits.THREADS_DEFAULT
    scale_min: int = 0
    scale_max: int = 5
    window_s: float = 60.0  # idle time before the last instance goes
    env: Mapping[str, str] = field(default_factory=dict)
    triggers: tuple[TriggerSpec, ...] = ()
    packages: str = ""  # the folder with its third-party packages
    handlers: tuple[HandlerInfo, ...] = ()  # told by the code, for people to see

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form, which ``from_json`` reads."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> RunSpec:
        """Read the JSON form."""
        triggers = tuple(TriggerSpec(**trigger) for trigger in value["triggers"])
        handlers = tuple(handler_info(handler) for handler in value.get("handlers", ()))
        return RunSpec(**{**value, "triggers": triggers, "handlers": handlers})


@dataclass(frozen=True, slots=True)
class Revision:
    """One immutable revision."""

    name: str
    function: str
    number: int
    digest: str
    spec: RunSpec
    models: Mapping[str, str]  # alias -> exact version
    created: float
    ready: bool  # False while its deployment runs


def handler_info(value: Mapping[str, Any]) -> HandlerInfo:
    """Read a handler's JSON form, of which any part but name and kind may be absent."""
    return HandlerInfo(**{**value, "methods": tuple(value.get("methods", ()))})


def percents(targets: Sequence[Target]) -> dict[str, int]:
    """Sum the percents per revision, leaving out those without traffic."""
    sums: dict[str, int] = {}
    for target in targets:
        if target.percent:
            sums[target.revision] = sums.get(target.revision, 0) + target.percent
    return sums


def tags(targets: Sequence[Target]) -> dict[str, str]:
    """Map tag -> revision."""
    return {target.tag: target.revision for target in targets if target.tag}


def leading(targets: Sequence[Target]) -> str | None:
    """Name the revision with most traffic, the newest of equals: its triggers are the function's."""
    sums = percents(targets)
    return max(sums, key=lambda revision: (sums[revision], revision), default=None)


def with_all_traffic(targets: Sequence[Target], revision: str) -> tuple[Target, ...]:
    """Give a split that sends everything to ``revision`` and keeps the tags as they are."""
    return with_percents({revision: 100}, tags(targets))


def with_percents(shares: Mapping[str, int], addresses: Mapping[str, str]) -> tuple[Target, ...]:
    """Join percents and tags (tag -> revision) into one split; a tag stands beside its revision's percent."""
    left = dict(addresses)
    targets = []
    for revision, percent in shares.items():
        tag = next((tag for tag, tagged in left.items() if tagged == revision), "")
        left.pop(tag, None)
        targets.append(Target(revision, percent, tag))
    targets += [Target(revision, 0, tag) for tag, revision in left.items()]
    return tuple(targets)
