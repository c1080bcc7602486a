"""Writing a function to a cluster: template and traffic by two field managers, in steps that may be run again.

Three traps, and what is done about them (found on Knative 1.23):
- A Service without traffic follows its newest revision, and nobody owns that default. So the split is pinned to
  revisions by name before a template changes, and right after the first one is ready.
- A template may only change together with its name, and defaults the webhook set count as a change. So a template
  that is there already is left alone, and going back writes what was read, defaults and all.
- A revision's number is never given twice while its function lives: what is left of a removed revision would stand
  in the way of a new one of that name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from shoal.core import limits, names
from shoal.core.clock import Clock
from shoal.core.errors import ConflictError, DeployError, NotFoundError, PlatformError
from shoal.platform.knative import objects, render, split, waiting
from shoal.platform.knative.client import Cluster
from shoal.platform.knative.objects import Object, annotation, name_of, number_of
from shoal.platform.knative.render import Plan, TriggerRule
from shoal.platform.knative.split import Split
from shoal.platform.port import Target


@dataclass(frozen=True, slots=True)
class Made:
    """The revision a plan became: its name, whether it is new, and the template before it."""

    revision: str
    created: bool
    before: Object | None = None  # the Service as it was; None when there was none


def find(cluster: Cluster, name: str) -> Object | None:
    """Read a function's Service; None when there is none, ConflictError when it is not shoal's."""
    try:
        found = cluster.get(objects.SERVICE, name)
    except NotFoundError as error:
        if "namespace" in error.message.partition(" in ")[0]:
            raise
        return None
    if objects.label(found, objects.MANAGED_BY) != "shoal":
        raise ConflictError(
            f"the Service {name!r} in {cluster.where} was not made by shoal",
            hint="choose another name in function.yaml",
        )
    return found


def revisions(cluster: Cluster, function: str) -> list[Object]:
    """List a function's revisions, newest first; those on their way out do not count."""
    found = cluster.list(objects.REVISION, labels=f"{objects.SERVICE_LABEL}={function}")
    return newest_first([item for item in found if not objects.deleted(item)])


def newest_first(items: Sequence[Object]) -> list[Object]:
    """Sort revisions, newest first."""
    return sorted(
        items, key=lambda item: (objects.created(item), number_of(name_of(item)), name_of(item)), reverse=True
    )


def template(cluster: Cluster, plan: Plan, clock: Clock) -> Made:
    """Make the plan's revision, or find it: the same digest as the newest one makes nothing new."""
    service = find(cluster, plan.name)
    if service is not None and objects.deleted(service):
        waiting.gone(cluster, plan.name, clock)
        service = None
    if service is None:
        _write(cluster, plan, names.revision(plan.name, 1), 1)
        return Made(names.revision(plan.name, 1), True)
    known = revisions(cluster, plan.name)
    current = service["spec"]["template"]
    if annotation(current, objects.DIGEST) == plan.digest and name_of(current):
        return Made(name_of(current), name_of(current) not in map(name_of, known), service)
    pin(cluster, service, known)
    number = 1 + max([_given(service), *(number_of(name_of(item)) for item in known)])
    _write(cluster, plan, names.revision(plan.name, number), number)
    return Made(names.revision(plan.name, number), True, service)


def pin(cluster: Cluster, service: Object, known: Sequence[Object]) -> None:
    """Name the revisions that have the traffic now, so that a new template does not take it unjudged."""
    if not split.follows_latest(service):
        return
    ready = str((service.get("status") or {}).get("latestReadyRevisionName") or "")
    if ready in map(name_of, known):
        now = split.read(service)
        traffic(cluster, name_of(service), Split(now.targets or (Target(ready, 100),), now.history))


def traffic(cluster: Cluster, function: str, wanted: Split) -> Object:
    """Write a split and its history; ConflictError names another tool that holds the traffic."""
    return cluster.apply(objects.SERVICE, split.manifest(function, wanted), objects.TRAFFIC_MANAGER)


def withdraw(cluster: Cluster, plan: Plan, made: Made, clock: Clock) -> None:
    """Undo a revision that did not get ready: the template before it, or nothing when it was the first."""
    if made.before is None:
        cluster.delete(objects.SERVICE, plan.name)
        waiting.gone(cluster, plan.name, clock)
        return
    before = made.before["spec"]["template"]
    known = revisions(cluster, plan.name)
    if name_of(before) and name_of(before) != made.revision and name_of(before) in map(name_of, known):
        meta = {"name": plan.name, "annotations": {objects.NUMBER: str(number_of(made.revision))}}
        meta["labels"] = {**objects.MANAGED, objects.FUNCTION: plan.name}
        item = {"metadata": meta, "spec": {"template": before}}
        cluster.apply(objects.SERVICE, item, objects.TEMPLATE_MANAGER)
        cluster.delete(objects.REVISION, made.revision)
        waiting.settled(cluster, plan.name, clock)


def prune(cluster: Cluster, service: Object) -> None:
    """Remove revisions nobody needs: neither in the split nor its history, not newest, failed or too many."""
    now = split.read(service)
    kept = {target.revision for target in now.targets} | {name for one in now.history for name in one}
    newest = str((service.get("status") or {}).get("latestCreatedRevisionName") or "")
    known = revisions(cluster, name_of(service))
    for place, item in enumerate(known):
        name = name_of(item)
        spare = place >= limits.REVISIONS_KEPT_MAX or objects.condition(item).status == "False"
        if spare and name not in kept and name != newest and name != name_of(service["spec"]["template"]):
            with suppress(PlatformError):  # the next deployment tries again
                cluster.delete(objects.REVISION, name)


def triggers(cluster: Cluster, function: str, rules: Sequence[TriggerRule], clock: Clock) -> None:
    """Make a function's triggers exactly these and wait until they take events; others of it are removed."""
    sinks = _dead_letters(brokers(cluster, rules))
    wanted = {name_of(item): item for item in render.triggers(function, rules, sinks)}
    for item in wanted.values():
        cluster.apply(objects.TRIGGER, item, objects.TEMPLATE_MANAGER)
    for found in _own_triggers(cluster, function, required=bool(wanted)):
        if name_of(found) not in wanted:
            cluster.delete(objects.TRIGGER, name_of(found))
    waiting.triggers_ready(cluster, wanted, clock)


def brokers(cluster: Cluster, rules: Sequence[TriggerRule]) -> dict[str, Object]:
    """Read the brokers that triggers name; DeployError for one that is not there: its events would never come."""
    found = {}
    for broker in dict.fromkeys(rule.broker for rule in rules):
        try:
            found[broker] = cluster.get(objects.BROKER, broker)
        except NotFoundError:
            raise DeployError(
                f"there is no broker {broker!r} in {cluster.where}, which a trigger names",
                hint="shoal platform install --target cluster",
            ) from None
    return found


def _dead_letters(brokers: Mapping[str, Object]) -> dict[str, Object]:
    """Give each broker's dead letter sink, of those that have one."""
    deliveries = {name: (item.get("spec") or {}).get("delivery") or {} for name, item in brokers.items()}
    return {
        name: delivery["deadLetterSink"] for name, delivery in deliveries.items() if "deadLetterSink" in delivery
    }


def _own_triggers(cluster: Cluster, function: str, *, required: bool) -> list[Object]:
    try:
        return cluster.list(objects.TRIGGER, labels=f"{objects.FUNCTION}={function},{objects.MANAGED_BY}=shoal")
    except PlatformError:
        if required:
            raise
        return []  # a cluster without Eventing has no triggers


def _write(cluster: Cluster, plan: Plan, revision: str, number: int) -> None:
    item = render.service(plan, revision)
    item["metadata"]["annotations"] = {objects.NUMBER: str(number)}
    cluster.apply(objects.SERVICE, item, objects.TEMPLATE_MANAGER)


def _given(service: Object) -> int:
    text = annotation(service, objects.NUMBER)
    return int(text) if text.isascii() and text.isdigit() else 0
