"""Leases on the pool: what a function's revisions need, written for the pool's agents, and how they report back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from shoal.core import limits
from shoal.core.clock import Clock
from shoal.core.errors import DeployError, NotFoundError
from shoal.platform.knative import objects, split
from shoal.platform.knative.client import Cluster
from shoal.platform.knative.objects import Object, json_annotation, label, name_of
from shoal.pool import cluster_leases

POOL_LABEL = "app.kubernetes.io/name=shoal-pool"


def write(cluster: Cluster, function: str, versions: Collection[str]) -> None:
    """Lease exactly these versions for a function; none ends its lease. Forbidden and absent parts are said so."""
    key = f"{cluster.namespace}.{function}"
    manager = cluster_leases.field_manager(f"{cluster.namespace}-{function}")
    lease = cluster_leases.lease(key, versions)
    lease.pop("apiVersion")
    lease.pop("kind")
    try:
        cluster.apply(objects.CONFIG_MAP, lease, manager, objects.SYSTEM_NAMESPACE)
    except NotFoundError:
        raise no_pool(cluster) from None


def end(cluster: Cluster, function: str) -> None:
    """End a function's lease if it has one; a cluster without a pool has none."""
    try:
        held = cluster.get(objects.CONFIG_MAP, objects.LEASES, objects.SYSTEM_NAMESPACE).get("data") or {}
    except NotFoundError:
        return
    if f"{cluster.namespace}.{function}" in held:
        write(cluster, function, ())


def needed(service: Object | None, revisions: Sequence[Object]) -> set[str]:
    """Give the versions that stay leased: of revisions in the split, tagged, or among the newest few."""
    named = {target.revision for target in split.read(service).targets} if service else set()
    return {
        str(version)
        for place, item in enumerate(revisions)
        if place < limits.REVISIONS_LEASED or name_of(item) in named
        for version in json_annotation(item, objects.MODELS, {}).values()
    }


def states(cluster: Cluster) -> dict[str, str]:
    """Give each version the pool has been told of: READY, LOADING or the failure's text; empty without a pool."""
    try:
        reports = cluster.get(objects.CONFIG_MAP, objects.POOL_STATUS, objects.SYSTEM_NAMESPACE).get("data") or {}
    except NotFoundError:
        return {}
    return cluster_leases.model_states(cluster_leases.read_reports(reports, pods(cluster)))


def pods(cluster: Cluster) -> list[str]:
    """List the pool's pods by name."""
    found = cluster.list(objects.POD, objects.SYSTEM_NAMESPACE, labels=POOL_LABEL)
    return [name_of(pod) for pod in found if not objects.deleted(pod) and label(pod, objects.REVISION_LABEL) == ""]


def wait_loaded(cluster: Cluster, versions: Collection[str], clock: Clock) -> None:
    """Return when every replica holds these versions; DeployError with the pool's own reason when one cannot."""
    if not pods(cluster):
        raise no_pool(cluster)
    begun = clock.monotonic()
    while True:
        now = states(cluster)
        missing = {name: now.get(name, "LOADING") for name in versions if now.get(name) != cluster_leases.READY}
        if not missing:
            return
        waited_s = clock.monotonic() - begun
        _raise_failed(missing, cluster)
        if waited_s > limits.MODEL_LOAD_SECONDS_MAX:
            raise DeployError(f"the pool has not loaded {', '.join(sorted(missing))} after {waited_s:.0f} s")
        _pause(cluster)


def no_pool(cluster: Cluster) -> DeployError:
    """Say that there is nothing to load models."""
    text = (
        f"the cluster has no model pool: there is none in namespace {objects.SYSTEM_NAMESPACE!r} ({cluster.where})"
    )
    return DeployError(text, hint="shoal platform install --target cluster")


def _raise_failed(missing: Mapping[str, str], cluster: Cluster) -> None:
    for name, state in sorted(missing.items()):
        if state != "LOADING":
            raise DeployError(f"the pool cannot load {name}: {state}", hint=f"shoal status ({cluster.where})")


def _pause(cluster: Cluster) -> None:
    path = objects.CONFIG_MAP.path(objects.SYSTEM_NAMESPACE)
    parameters = {
        "watch": 1,
        "fieldSelector": f"metadata.name={objects.POOL_STATUS}",
        "timeoutSeconds": max(1, round(limits.CLUSTER_RESYNC_SECONDS)),
    }
    for _, _line in zip(range(2), cluster.lines(path, parameters, limits.CLUSTER_CALL_SECONDS_MAX), strict=False):
        pass
