"""What the node tells the other processes, and what it answers: pure functions of the state and the instances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shoal.core import limits
from shoal.platform.local.records import Revision, RunSpec, leading, percents, tags
from shoal.platform.port import FunctionStatus, RevisionStatus, Target, TriggerInfo

Endpoints = Mapping[str, Sequence[tuple[str, int]]]  # revision -> (instance, port) of its ready instances


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
    found = endpoints.get(revision.name, ())
    return {"endpoints": endpoint_list(found), "concurrency": revision.spec.concurrency}


def endpoint_list(endpoints: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """Give endpoints in the form the gateway reads."""
    return [{"id": identity, "port": port} for identity, port in endpoints]


def triggers(function: str, targets: Sequence[Target], revisions: Sequence[Revision]) -> list[dict[str, Any]]:
    """Give a function's triggers for the broker: those of the revision with most traffic."""
    return [
        {
            "name": f"{function}-{index}",
            "function": function,
            "broker": trigger.broker,
            "filter": dict(trigger.filter),
            "retry": trigger.retry,
            "backoff_policy": trigger.backoff_policy,
            "backoff_delay_s": trigger.backoff_delay_s,
            "timeout_s": trigger.timeout_s,
        }
        for index, trigger in enumerate(leading_spec(targets, revisions).triggers)
    ]


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
