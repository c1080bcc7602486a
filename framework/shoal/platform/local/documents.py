"""What the node tells the other processes, and what it answers: pure functions of the state and the instances."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from shoal.core import limits
from shoal.platform.local.records import Revision, RunSpec, TriggerSpec, leading, percents, tags
from shoal.platform.port import FunctionStatus, RevisionStatus, Target, TriggerInfo

Endpoints = Callable[[str], Sequence[tuple[str, int]]]  # gives the (instance, port) of a revision's ready instances
_TRIGGER_HASH_CHARS: Final = 8


class Memory(Protocol):
    """What these documents are made from."""

    def function_names(self) -> list[str]:
        """Name the functions."""
        ...

    def revisions(self, function: str) -> list[Revision]:
        """Give a function's revisions, newest first."""
        ...

    def traffic(self, function: str) -> tuple[Target, ...]:
        """Give the split in effect."""
        ...


def routes(memory: Memory, endpoints: Endpoints, generation: int) -> dict[str, Any]:
    """Give the gateway's whole table; of two tables that with the higher ``generation`` counts."""
    functions: dict[str, Any] = {}
    revisions: dict[str, Any] = {}
    for name in memory.function_names():
        known, targets = memory.revisions(name), memory.traffic(name)
        functions[name] = function_route(targets, known)
        reachable = {target.revision for target in targets}
        revisions |= {item.name: revision_route(item, endpoints) for item in known if item.name in reachable}
    return {"generation": generation, "functions": functions, "revisions": revisions}


def all_triggers(memory: Memory, gateway: str, generation: int) -> dict[str, Any]:
    """Give the broker's triggers; ``gateway`` is where it delivers."""
    names = memory.function_names()
    found = [one for name in names for one in triggers(name, memory.traffic(name), memory.revisions(name))]
    return {"generation": generation, "gateway": gateway, "triggers": found}


def models(memory: Memory, alive: Iterable[Revision], leases: Iterable[set[str]]) -> list[str]:
    """Name the model versions the pool should hold.

    Those functions keep, those of revisions with a process ``alive`` (one that left its split may still answer its
    last requests), and the ``leases`` of work under way.
    """
    kept = [leased(memory.revisions(name), memory.traffic(name)) for name in memory.function_names()]
    used = {version for revision in alive for version in revision.models.values()}
    return sorted(used.union(*kept, *leases))


def leased(revisions: Sequence[Revision], targets: Sequence[Target]) -> set[str]:
    """Name the model versions a function keeps on the pool.

    Those of every revision with traffic or a tag, and of its three newest revisions: the way back from a bad
    version must not wait for a model to load. ``revisions`` newest first.
    """
    reachable = {target.revision for target in targets}
    kept = [revision for revision in revisions if revision.name in reachable]
    kept += revisions[: limits.REVISIONS_LEASED]
    return {version for revision in kept for version in revision.models.values()}


def disposable(revisions: Sequence[Revision], history: Iterable[Target]) -> list[Revision]:
    """List the revisions beyond those kept; newest first in, none that ``history`` names comes out."""
    named = {target.revision for target in history}
    return [revision for revision in revisions[limits.REVISIONS_KEPT_MAX :] if revision.name not in named]


def function_route(targets: Sequence[Target], revisions: Sequence[Revision]) -> dict[str, Any]:
    """Give one function's entry in the gateway's table."""
    shares, addresses = percents(targets), tags(targets)
    reachable = {*shares, *addresses.values()}
    timeouts = [revision.spec.timeout_s for revision in revisions if revision.name in reachable]
    return {
        "targets": [{"revision": revision, "percent": percent} for revision, percent in shares.items()],
        "tags": addresses,
        "timeout_s": max(timeouts, default=limits.TIMEOUT_SECONDS_DEFAULT),
    }


def revision_route(revision: Revision, endpoints: Endpoints) -> dict[str, Any]:
    """Give one revision's entry in the gateway's table."""
    return {"endpoints": endpoint_list(endpoints(revision.name)), "concurrency": revision.spec.concurrency}


def endpoint_list(endpoints: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """Give endpoints in the form the gateway reads."""
    return [{"id": identity, "port": port} for identity, port in endpoints]


def triggers(function: str, targets: Sequence[Target], revisions: Sequence[Revision]) -> list[dict[str, Any]]:
    """Give a function's triggers for the broker: those of the revision with most traffic."""
    specs = leading_spec(targets, revisions).triggers
    return [
        {
            "name": name,
            "function": function,
            "broker": trigger.broker,
            "filter": dict(trigger.filter),
            "retry": trigger.retry,
            "backoff_policy": trigger.backoff_policy,
            "backoff_delay_s": trigger.backoff_delay_s,
            "timeout_s": trigger.timeout_s,
        }
        for name, trigger in zip(_trigger_names(function, specs), specs, strict=True)
    ]


def _trigger_names(function: str, triggers: Iterable[TriggerSpec]) -> Iterator[str]:
    """Name triggers by what they take, so that deliveries under way find theirs after any change of the others."""
    seen: Counter[str] = Counter()
    for trigger in triggers:
        text = json.dumps([trigger.broker, dict(trigger.filter)], sort_keys=True)
        name = f"{function}-{hashlib.sha256(text.encode()).hexdigest()[:_TRIGGER_HASH_CHARS]}"
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}-{seen[name]}"


def leading_spec(targets: Sequence[Target], revisions: Sequence[Revision]) -> RunSpec:
    """Give what the revision with most traffic needs to run; an empty one where nothing has traffic."""
    name = leading(targets)
    return next((revision.spec for revision in revisions if revision.name == name), RunSpec())


def function_status(
    name: str,
    url: str,
    targets: Sequence[Target],
    revisions: Sequence[Revision],
    instances: Mapping[str, int],
    reasons: Mapping[str, str],
) -> FunctionStatus:
    """Describe one function; ``instances`` and ``reasons`` by revision."""
    shares, addresses = percents(targets), tags(targets)
    described = tuple(
        RevisionStatus(
            name=revision.name,
            created=revision.created,
            ready=not reasons.get(revision.name),
            reason=reasons.get(revision.name, ""),
            instances=instances.get(revision.name, 0),
            percent=shares.get(revision.name, 0),
            tags=tuple(tag for tag, tagged in addresses.items() if tagged == revision.name),
            models=revision.models,
            digest=revision.digest,
        )
        for revision in revisions
    )
    broken = [f"{status.name}: {status.reason}" for status in described if status.percent and not status.ready]
    reason = "no revision has traffic" if not shares else "; ".join(broken)
    spec = leading_spec(targets, revisions)
    waits = tuple(TriggerInfo(trigger.broker, trigger.filter) for trigger in spec.triggers)
    return FunctionStatus(
        name, url, not reason, reason, tuple(targets), described, handlers=spec.handlers, triggers=waits
    )


def model_text(model: Mapping[str, Any]) -> str:
    """Say how a model is, from the pool's answer."""
    return str(model.get("reason") or model.get("state") or "unknown")
