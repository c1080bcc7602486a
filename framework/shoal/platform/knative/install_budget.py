"""Whether the pool has memory for one more version, before anything is changed.

A rollout needs no second set of GPUs, but both versions of its model must fit beside all others.
"""

from __future__ import annotations

from collections.abc import Collection

from shoal.core.errors import NotFoundError, ShoalError
from shoal.image.base import Connect
from shoal.image.reference import Reference
from shoal.platform.knative.client import Cluster
from shoal.platform.knative.objects import CONFIG_MAP, SYSTEM_NAMESPACE
from shoal.pool.cluster_leases import LEASES, SETTINGS, Budget, check_fits, wanted
from shoal.pool.cluster_models import MANIFEST_TYPE, read_manifest, reference


def check_budget(
    cluster: Cluster,
    versions: Collection[str],
    registry: str,
    connect: Connect,
    *,
    namespace: str = SYSTEM_NAMESPACE,
) -> int:
    """Give the memory (bytes) one replica needs for these versions and all that are leased already.

    The versions have been pushed to ``registry``, which tells the sizes of their files; one it does not know counts
    as empty. Raises ConflictError with the figures when they pass the budget in the pool's settings.
    """
    leased, _ = wanted(_data(cluster, LEASES, namespace))
    budget = Budget.of(_data(cluster, SETTINGS, namespace))
    together = leased.union(versions)
    return check_fits(together, {name: _size(name, registry, connect) for name in together}, budget)


def _data(cluster: Cluster, name: str, namespace: str) -> dict[str, str]:
    try:
        return dict(cluster.get(CONFIG_MAP, name, namespace).get("data") or {})
    except NotFoundError:
        return {}


def _size(version: str, registry: str, connect: Connect) -> int:
    repository, tag = reference(version)
    place = Reference.parse(f"{registry}/{repository}:{tag}")
    try:
        _, body = connect(place.host).manifest(place, frozenset({MANIFEST_TYPE}))
        return sum(one.size for one in read_manifest(version, body))
    except ShoalError:
        return 0
