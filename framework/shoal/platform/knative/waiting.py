"""Waiting on a cluster, bounded: for a revision's verdict, for a split in effect, for a function to be gone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from shoal.core import limits
from shoal.core.clock import Clock
from shoal.core.errors import DeployError, NotFoundError, PlatformError
from shoal.platform.knative import objects, split
from shoal.platform.knative.client import Cluster
from shoal.platform.knative.objects import Kind, Object, condition, observed
from shoal.platform.knative.verdict import Snapshot, Verdict, judge
from shoal.platform.port import Target

Note = Callable[[str], None]  # progress


def revision_ready(cluster: Cluster, service: str, revision: str, clock: Clock, note: Note) -> None:
    """Return when the revision is ready; DeployError with the one reason when it will not be."""
    begun = clock.monotonic()
    while True:
        waited_s = clock.monotonic() - begun
        seen = snapshot(cluster, service, revision, waited_s)
        verdict = judge(seen)
        if verdict.state == "ready":
            return
        if verdict.state == "failed":
            raise _failed(cluster, revision, verdict)
        if waited_s > limits.CLUSTER_READY_SECONDS_MAX:
            late = Verdict("failed", f"not ready after {limits.CLUSTER_READY_SECONDS_MAX:g} s: {verdict.text}")
            raise _failed(cluster, revision, late)
        note(verdict.text)
        _pause(cluster, objects.REVISION, revision, seen.revision)


def snapshot(cluster: Cluster, service: str, revision: str, waited_s: float) -> Snapshot:
    """Look once at everything a verdict is made from; events only when no condition decides."""
    found = _revision(cluster, revision)
    if found is not None and observed(found) and condition(found).true:
        return Snapshot({}, found)
    pods = cluster.list(objects.POD, labels=f"{objects.REVISION_LABEL}={revision}")
    events = _events(cluster, revision) if not pods or waited_s > limits.CLUSTER_VERDICT_SECONDS / 2 else ()
    return Snapshot(cluster.get(objects.SERVICE, service), found, pods, events, waited_s)


def split_in_effect(cluster: Cluster, service: str, targets: Sequence[Target], clock: Clock) -> Object:
    """Return the Service when its route shows the split; PlatformError with the route's reason otherwise."""
    begun = clock.monotonic()
    while True:
        found = cluster.get(objects.SERVICE, service)
        routes = condition(found, "RoutesReady")
        if observed(found) and routes.true and split.in_effect(found, targets):
            return found
        if clock.monotonic() - begun > limits.CLUSTER_ROUTE_SECONDS_MAX:
            reason = f"{routes.reason}: {routes.message}" if routes.reason else "no reason is given"
            raise PlatformError(f"the split of {service!r} is not in effect in {cluster.where}: {reason}")
        _pause(cluster, objects.SERVICE, service, found)


def triggers_ready(cluster: Cluster, names: Collection[str], clock: Clock) -> None:
    """Return when these triggers take events: one published earlier would be lost. DeployError with the reason."""
    begun = clock.monotonic()
    for name in names:
        while not _is_ready(found := cluster.get(objects.TRIGGER, name)):
            if clock.monotonic() - begun > limits.CLUSTER_ROUTE_SECONDS_MAX:
                ready = condition(found)
                reason = ready.message or ready.reason or "no reason is given"
                raise DeployError(f"the trigger {name!r} does not get ready: {reason} ({cluster.where})")
            _pause(cluster, objects.TRIGGER, name, found)


def settled(cluster: Cluster, service: str, clock: Clock) -> bool:
    """Wait until the Service is ready again, for a while; says whether it is."""
    begun = clock.monotonic()
    while clock.monotonic() - begun <= limits.CLUSTER_ROUTE_SECONDS_MAX:
        found = cluster.get(objects.SERVICE, service)
        if observed(found) and condition(found).true:
            return True
        _pause(cluster, objects.SERVICE, service, found)
    return False


def gone(cluster: Cluster, service: str, clock: Clock) -> None:
    """Return when nothing of a deleted function is left but pods that finish their requests.

    Names are then free again: a revision made anew does not meet the old one's Deployment.
    """
    begun = clock.monotonic()
    kinds = [objects.ROUTE, objects.CONFIGURATION, objects.REVISION, objects.AUTOSCALER, objects.DEPLOYMENT]
    while kinds:
        left = cluster.list(kinds[-1], labels=f"{objects.SERVICE_LABEL}={service}")
        if not left:
            kinds.pop()
            continue
        if clock.monotonic() - begun > limits.CLUSTER_DELETE_SECONDS_MAX:
            names = ", ".join(f"{kinds[-1].plural}/{objects.name_of(item)}" for item in left[:5])
            raise PlatformError(f"still there in {cluster.where}: {names}", hint="kubectl get events")
        _pause(cluster, kinds[-1], objects.name_of(left[0]), left[0])


def _is_ready(item: Object) -> bool:
    return observed(item) and condition(item).true


def _failed(cluster: Cluster, revision: str, verdict: Verdict) -> DeployError:
    return DeployError(f"{revision} does not get ready: {verdict.text} ({cluster.where})", hint=verdict.hint)


def _pause(cluster: Cluster, kind: Kind, name: str, seen: Object | None) -> None:
    """Wait for the object's next change, a second at most: what it depends on changes without it."""
    version = str(objects.metadata(seen or {}).get("resourceVersion") or "0")
    for _ in cluster.watch(kind, name, version, limits.CLUSTER_RESYNC_SECONDS):
        return


def _revision(cluster: Cluster, name: str) -> Object | None:
    try:
        return cluster.get(objects.REVISION, name)
    except NotFoundError:
        return None


def _events(cluster: Cluster, revision: str) -> list[Object]:
    """Read the newest warnings about a revision, its replica set and its pods, oldest first."""
    found = [
        event
        for event in cluster.list(objects.EVENT, fields="type=Warning")
        if str((event.get("involvedObject") or {}).get("name", "")).startswith(revision)
    ]
    return found[-limits.CLUSTER_EVENTS_MAX :]
