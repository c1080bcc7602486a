"""The parts of a cluster that functions need, and how each is: Serving, Eventing, gateway, broker, pool."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from shoal.core.errors import DeployError, ForbiddenError, NotFoundError, NotRunningError, ShoalError
from shoal.platform.knative import front, leases, objects
from shoal.platform.knative.client import Cluster
from shoal.platform.knative.front import Gateway
from shoal.platform.knative.objects import Object, condition, label, name_of
from shoal.platform.port import Component

KNATIVE_MIN: Final = (1, 16)  # the oldest this is written for
_SERVING: Final = "knative-serving"
_EVENTING: Final = "knative-eventing"
_VERSION_LABEL: Final = "app.kubernetes.io/version"
_PROBE_SECONDS: Final = 5.0


def of(cluster: Cluster, gateway: Gateway) -> tuple[Component, ...]:
    """Describe each part; what may not be looked at says so instead of failing the rest."""
    return (
        _deployments(cluster, "serving", _SERVING),
        _deployments(cluster, "eventing", _EVENTING),
        _gateway(gateway),
        _broker(cluster),
        _pool(cluster),
    )


def require_version(cluster: Cluster) -> None:
    """Raise DeployError when Knative is too old; whoever may not look at its parts is not held up by that."""
    try:
        old = check_version(cluster.list(objects.DEPLOYMENT, _SERVING))
    except ForbiddenError:
        return
    if old:
        raise DeployError(f"{old}, which shoal needs ({cluster.where})", hint="upgrade Knative Serving")


def check_version(deployments: Iterable[Object]) -> str:
    """Give the reason Knative is too old for shoal, empty when it is not or does not say."""
    for item in deployments:
        version = label(item, _VERSION_LABEL)
        found = re.match(r"v?(\d+)\.(\d+)", version)
        if found and _release(int(found[1]), int(found[2])) < KNATIVE_MIN:
            return f"Knative {version} is older than {'.'.join(map(str, KNATIVE_MIN))}"
    return ""


def _release(major: int, minor: int) -> tuple[int, int]:
    """Turn a module's version into its release: 0.50 is Knative 1.23."""
    return (1, minor - 27) if major == 0 else (major, minor)


def _deployments(cluster: Cluster, name: str, namespace: str) -> Component:
    try:
        found = cluster.list(objects.DEPLOYMENT, namespace)
    except ShoalError as error:
        return Component(name, False, error.message)
    if not found:
        return Component(name, False, f"there is nothing in namespace {namespace!r}")
    if old := check_version(found):
        return Component(name, False, old)
    down = [name_of(item) for item in found if not condition(item, "Available").true]
    version = next(filter(None, (label(item, _VERSION_LABEL) for item in found)), "")
    return Component(name, not down, f"{', '.join(down)} not available" if down else version)


def _gateway(gateway: Gateway) -> Component:
    if not gateway.address:
        return Component("gateway", True, f"by each function's own host name, *.{gateway.domain}")
    try:
        gateway.call(gateway.host("shoal-probe"), "GET", "/", {}, b"", _PROBE_SECONDS)
    except NotRunningError as error:
        return Component("gateway", False, error.message, gateway.address)
    return Component("gateway", True, f"*.{gateway.domain}", gateway.address)


def _broker(cluster: Cluster) -> Component:
    try:
        return Component("broker", True, "default", front.broker_address(cluster, "default"))
    except (NotFoundError, NotRunningError) as error:
        return Component("broker", False, error.message)


def _pool(cluster: Cluster) -> Component:
    try:
        pods: Sequence[Object] = cluster.list(objects.POD, objects.SYSTEM_NAMESPACE, labels=leases.POOL_LABEL)
    except ShoalError as error:
        return Component("pool", False, error.message)
    ready = sum(condition(pod).true for pod in pods)
    detail = f"{ready} of {len(pods)} replicas ready" if pods else "not installed"
    return Component("pool", bool(pods) and ready == len(pods), detail, objects.POOL_ADDRESS)
