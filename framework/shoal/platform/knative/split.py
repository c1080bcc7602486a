"""Traffic splits on a cluster, without a cluster: their rules, their form in a Service, and their history."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.core import limits, names
from shoal.core.errors import ConflictError, NotFoundError, UsageError
from shoal.platform.knative.objects import HISTORY, Object, json_annotation
from shoal.platform.port import Target

Shares = Mapping[str, int]  # revision -> percent


@dataclass(frozen=True, slots=True)
class Split:
    """A split and the percents that came before it, newest last."""

    targets: tuple[Target, ...]
    history: tuple[Shares, ...] = ()

    def then(self, targets: Sequence[Target]) -> Split:
        """Give the split after a change; only a change of percents is remembered."""
        before = shares(self.targets)
        if not before or before == shares(targets):
            return Split(tuple(targets), self.history)
        return Split(tuple(targets), (*self.history, before)[-limits.CLUSTER_HISTORY_MAX :])

    def back(self, function: str, known: Sequence[str]) -> Split:
        """Give the split before the newest change of percents, tags as they are; ConflictError at the beginning."""
        now = shares(self.targets)
        for place in range(len(self.history) - 1, -1, -1):
            earlier = self.history[place]
            if earlier != now and set(known).issuperset(earlier):
                return Split(joined(earlier, tags(self.targets)), self.history[:place])
        raise ConflictError(f"the traffic of {function!r} has nothing before it to go back to", hint="shoal status")


def read(service: Object) -> Split:
    """Read what a Service says; an entry that follows the latest revision counts as what it is now."""
    status = service.get("status") or {}
    latest = str(status.get("latestReadyRevisionName") or "")
    entries = (service.get("spec") or {}).get("traffic") or ()
    targets = (
        Target(
            str(entry.get("revisionName") or latest), int(entry.get("percent") or 0), str(entry.get("tag") or "")
        )
        for entry in entries
    )
    history = json_annotation(service, HISTORY, [])
    return Split(tuple(target for target in targets if target.revision), tuple(map(_shares, history)))


def follows_latest(service: Object) -> bool:
    """Say whether any traffic follows the newest revision: a new template would take it unjudged."""
    entries = (service.get("spec") or {}).get("traffic") or ()
    return not entries or any(not entry.get("revisionName") for entry in entries)


def manifest(service: str, split: Split) -> Object:
    """Write a split as what the traffic manager applies: the whole list, and the history beside it."""
    return {
        "metadata": {
            "name": service,
            "annotations": {HISTORY: json.dumps([dict(one) for one in split.history], separators=(",", ":"))},
        },
        "spec": {"traffic": [entry(target) for target in split.targets]},
    }


def entry(target: Target) -> Object:
    """Write one target as the API has it after its defaults, so that nothing else changes."""
    found: Object = {"revisionName": target.revision, "percent": target.percent, "latestRevision": False}
    return found | ({"tag": target.tag} if target.tag else {})


def in_effect(service: Object, targets: Sequence[Target]) -> bool:
    """Say whether the status shows this split."""
    entries = (service.get("status") or {}).get("traffic") or ()
    shown = sorted(
        (str(one.get("revisionName", "")), int(one.get("percent") or 0), str(one.get("tag") or ""))
        for one in entries
    )
    return shown == sorted((target.revision, target.percent, target.tag) for target in targets)


def check(function: str, known: Sequence[str], targets: Sequence[Target]) -> None:
    """Raise UsageError unless percents sum to 100 and tags are unique and usable, NotFoundError for a revision."""
    for target in targets:
        if target.revision not in known:
            raise NotFoundError(f"{function!r} has no revision {target.revision!r}; it has {', '.join(known)}")
        if not 0 <= target.percent <= 100:
            raise UsageError(f"{target.percent} % for {target.revision} is not between 0 and 100")
        if target.tag:
            names.check_tag(target.tag)
    used = [target.tag for target in targets if target.tag]
    if len(used) != len(set(used)):
        raise UsageError(f"each tag names one revision: {', '.join(sorted(used))}")
    total = sum(target.percent for target in targets)
    if total != 100:
        raise UsageError(f"the percents sum to {total}, not 100", hint=f"shoal traffic {function} {known[0]}=100")


def shares(targets: Sequence[Target]) -> dict[str, int]:
    """Sum the percents per revision, leaving out those without traffic."""
    sums: dict[str, int] = {}
    for target in targets:
        if target.percent:
            sums[target.revision] = sums.get(target.revision, 0) + target.percent
    return sums


def tags(targets: Sequence[Target]) -> dict[str, str]:
    """Map tag -> revision."""
    return {target.tag: target.revision for target in targets if target.tag}


def joined(percents: Shares, addresses: Mapping[str, str]) -> tuple[Target, ...]:
    """Join percents and tags into one split; a tag stands beside its revision's percent."""
    left = dict(addresses)
    targets = []
    for revision, percent in percents.items():
        tag = next((tag for tag, tagged in left.items() if tagged == revision), "")
        left.pop(tag, None)
        targets.append(Target(revision, percent, tag))
    return (*targets, *(Target(revision, 0, tag) for tag, revision in left.items()))


def leading(targets: Sequence[Target]) -> str:
    """Name the revision with most traffic, the newest of equals; empty without traffic."""
    sums = shares(targets)
    return max(sums, key=lambda revision: (sums[revision], revision), default="")


def _shares(value: Any) -> dict[str, int]:
    return {str(name): int(percent) for name, percent in value.items()} if isinstance(value, dict) else {}
