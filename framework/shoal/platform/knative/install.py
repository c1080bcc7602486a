"""Installing shoal's own part of a cluster, and removing it again: the pool with what guards it, and the broker.

Everything is applied under one field manager and is the same at each run, so a second run changes nothing and an
interrupted one is finished by the next. What the cluster lacks is said before anything is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from shoal.core import limits
from shoal.core.clock import Clock, SystemClock
from shoal.core.errors import DeployError, NotFoundError, UsageError
from shoal.core.packages import cache_folder
from shoal.image import base as bases
from shoal.image.blobs import BlobStore
from shoal.platform.knative import install_checks, install_images, install_manifests
from shoal.platform.knative.client import Cluster
from shoal.platform.knative.objects import (
    BROKER,
    CONFIG_MAP,
    DEPLOYMENT,
    MANAGED,
    POD,
    SYSTEM_NAMESPACE,
    Kind,
    Object,
    condition,
    label,
    metadata,
    name_of,
    observed,
)
from shoal.platform.port import Stage
from shoal.pool import cluster_image

MANAGER: Final = "shoal-install"
NAMESPACE: Final = Kind("v1", "namespaces", "Namespace")
PRIORITY: Final = Kind("scheduling.k8s.io/v1", "priorityclasses", "PriorityClass")
_POOL: Final = "shoal-pool"
_TRITON: Final = "shoal-pool-triton"  # the images' names in the manifests
_AGENT: Final = "shoal-pool-agent"
_PLACEHOLDER: Final = f"registry.example/nvidia/tritonserver@sha256:{'0' * 64}"
_EVERYWHERE: Final = "*"  # for kinds without a namespace
_CLUSTER_WIDE: Final = frozenset({"Namespace", "PriorityClass"})
KINDS: Final = {
    kind.name: kind
    for kind in (
        NAMESPACE,
        PRIORITY,
        BROKER,
        CONFIG_MAP,
        DEPLOYMENT,
        Kind("v1", "serviceaccounts", "ServiceAccount"),
        Kind("v1", "services", "Service"),
        Kind("rbac.authorization.k8s.io/v1", "roles", "Role"),
        Kind("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding"),
        Kind("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
        Kind("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget"),
        Kind("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    )
}


@dataclass(frozen=True, slots=True)
class InstallSettings:
    """What is installed and where; images left empty are built on this machine and pushed to ``registry``.

    ``registry`` is host[:port][/path] as this machine names it, ``registry_pull`` as pods do (the same when empty).
    ``plain_http`` holds the registries' hosts that speak no TLS.
    """

    registry: str = ""
    registry_pull: str = ""
    plain_http: frozenset[str] = frozenset()
    overlay: str = "cpu"  # a folder of knative/pool/overlays
    broker: str = "base"  # "base", or a folder of knative/broker/overlays
    namespace: str = SYSTEM_NAMESPACE  # of the pool; another one is for trying things out
    triton_image: str = ""
    agent_image: str = ""
    base: str = bases.DEBIAN  # what the pool's images are built on: image/base.py
    store: Path = field(default_factory=lambda: cache_folder() / "images")

    @property
    def pull(self) -> str:
        """The registry as pods name it."""
        return self.registry_pull or self.registry

    @property
    def model_registry(self) -> str:
        """The address the agents pull model versions from."""
        host = self.pull.partition("/")[0]
        return f"{'http' if host in self.plain_http else 'https'}://{self.pull}"


def objects(settings: InstallSettings, functions_namespace: str) -> list[Object]:
    """Render everything that is installed, in the order it is applied; UsageError when an overlay is not there."""
    root = install_manifests.root()
    rendered = install_manifests.render(_overlay(root / "pool", settings.overlay))
    pool = [_moved(item, settings.namespace) for item in rendered]
    images = {_TRITON: settings.triton_image, _PLACEHOLDER: settings.triton_image, _AGENT: settings.agent_image}
    install_manifests.set_images(pool, {name: image for name, image in images.items() if image})
    for item in pool:
        if item["kind"] == "ConfigMap" and name_of(item) == _POOL:
            item["data"]["registry"] = settings.model_registry
    broker = install_manifests.render(_overlay(root / "broker", settings.broker))
    for item in broker:
        item["metadata"]["namespace"] = functions_namespace
    return [*pool, *broker]


def install(
    cluster: Cluster,
    settings: InstallSettings,
    *,
    clock: Clock | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Stage]:
    """Make the cluster ready for functions, step by step; done again, it changes nothing.

    Raises UsageError with what the cluster or the settings lack, ImageError or RegistryError from the images,
    ForbiddenError with the verb that is not allowed, DeployError with why the pool or the broker is not ready.
    """
    stage = _Stages(clock or SystemClock(), sleep)
    yield stage.start("versions")
    versions = install_checks.check(cluster)
    _check_namespace(cluster)
    yield stage.done(", ".join(f"{name} {version}" for name, version in versions.items()))
    yield stage.start("images")
    settings = with_images(settings)
    yield stage.done(f"{settings.triton_image}, {settings.agent_image}")
    yield stage.start("objects")
    wanted = objects(settings, cluster.namespace)
    for item in wanted:
        _apply(cluster, item)
    yield stage.done(f"{len(wanted)} applied")
    yield stage.start("broker")
    stage.until(lambda: _broker_state(cluster), "the broker")
    yield stage.done(f"default in namespace {cluster.namespace}")
    yield stage.start("pool")
    stage.until(lambda: _pool_state(cluster, settings.namespace), "the pool")
    yield stage.done(f"namespace {settings.namespace}")


def uninstall(
    cluster: Cluster,
    settings: InstallSettings,
    *,
    clock: Clock | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Stage]:
    """Remove everything ``install`` made, and wait until it is gone; a broker somebody else made stays.

    Functions are not touched; they answer on, but their models are gone.
    """
    stage = _Stages(clock or SystemClock(), sleep)
    yield stage.start("objects")
    everything = objects(settings, cluster.namespace)
    last = [item for item in everything if item["kind"] == NAMESPACE.name]
    removed = [item for item in reversed(everything) if item not in last and _remove(cluster, item)]
    yield stage.done(f"{len(removed)} removed")
    yield stage.start("namespace")
    # A namespace with pods looks for their end at half their grace period only: 45 s instead of 20.
    stage.until(lambda: _pods_state(cluster, settings.namespace), "the pool")
    for item in last:
        _remove(cluster, item)
    stage.until(lambda: _namespace_state(cluster, settings.namespace), f"namespace {settings.namespace}")
    yield stage.done(f"{settings.namespace} is gone")


def with_images(settings: InstallSettings) -> InstallSettings:
    """Give settings whose images are references by digest: those stated, else built and pushed now."""
    if settings.overlay == "gpu" and not settings.triton_image:
        raise UsageError(
            "no Triton image is named for GPUs",
            hint="triton_image: registry.example/nvidia/tritonserver@sha256:…, a release of 26.05 or later",
        )
    if settings.triton_image and settings.agent_image:
        return settings
    if not settings.registry:
        raise UsageError(
            "no registry is named, and the pool's images are not",
            hint="set registry in the settings, or both images",
        )
    connect, store = bases.connect(settings.plain_http), BlobStore(settings.store)
    base = bases.resolve(settings.base, store, connect)

    def made(image: cluster_image.Image) -> str:
        built = install_images.build(image, base, store)
        return f"{settings.pull}/{install_images.push(built, image.name, settings.registry, connect)}"

    triton = settings.triton_image or made(cluster_image.TRITON)
    return replace(settings, triton_image=triton, agent_image=settings.agent_image or made(cluster_image.AGENT))


def _overlay(root: Path, name: str) -> Path:
    folder = root / "base" if name == "base" else root / "overlays" / name
    if folder.is_dir() and name not in ("", ".", ".."):
        return folder
    known = ", ".join(sorted(path.name for path in (root / "overlays").iterdir()))
    raise UsageError(f"there is no overlay {name!r} of {root.name}; there is {known}")


def _moved(item: Object, namespace: str) -> Object:
    """Put an object of the system namespace into another one, with what refers to it."""
    if namespace == SYSTEM_NAMESPACE:
        return item
    meta = item["metadata"]
    if item["kind"] in _CLUSTER_WIDE:
        meta["name"] = meta["name"].replace(SYSTEM_NAMESPACE, namespace)
    if "namespace" in meta:
        meta["namespace"] = namespace
    for subject in item.get("subjects", ()):
        subject["namespace"] = namespace
    spec = install_manifests.pod_spec(item)
    if "priorityClassName" in spec:
        spec["priorityClassName"] = spec["priorityClassName"].replace(SYSTEM_NAMESPACE, namespace)
    return item


def _place(item: Object) -> tuple[Kind, str]:
    return KINDS[item["kind"]], metadata(item).get("namespace", _EVERYWHERE)


def _apply(cluster: Cluster, item: Object) -> None:
    kind, namespace = _place(item)
    live = _live(cluster, item)
    if kind is BROKER and live and not _ours(live):
        return
    if kind is DEPLOYMENT and live:
        item["spec"]["replicas"] = live["spec"]["replicas"]  # the autoscaler's by now; left out, it would become 1
    cluster.apply(kind, item, MANAGER, namespace, force=True)


def _remove(cluster: Cluster, item: Object) -> bool:
    kind, namespace = _place(item)
    live = _live(cluster, item)
    if live is None or (kind is BROKER and not _ours(live)):
        return False
    return cluster.delete(kind, name_of(item), namespace)


def _live(cluster: Cluster, item: Object) -> Object | None:
    kind, namespace = _place(item)
    try:
        return cluster.get(kind, name_of(item), namespace)
    except NotFoundError:
        return None


def _ours(item: Object) -> bool:
    return all(label(item, name) == value for name, value in MANAGED.items())


def _check_namespace(cluster: Cluster) -> None:
    try:
        cluster.get(NAMESPACE, cluster.namespace, _EVERYWHERE)
    except NotFoundError:
        raise UsageError(
            f"there is no namespace {cluster.namespace!r} for functions (context {cluster.context!r})",
            hint=f"kubectl create namespace {cluster.namespace}",
        ) from None


def _broker_state(cluster: Cluster) -> str:
    """Say why the broker is not ready; empty when it is."""
    broker = cluster.get(BROKER, "default")
    ready = condition(broker)
    if ready.true and observed(broker):
        return ""
    return ready.message or ready.reason or "its controller has not looked at it"


def _pool_state(cluster: Cluster, namespace: str) -> str:
    """Say why the pool's pods are not all ready; empty when they are."""
    deployment = cluster.get(DEPLOYMENT, _POOL, namespace)
    status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
    counts = [status.get(name, 0) for name in ("updatedReplicas", "readyReplicas", "replicas")]
    if observed(deployment) and counts == [wanted] * 3:
        return ""
    pods = cluster.list(POD, namespace, labels=f"app.kubernetes.io/name={_POOL}")
    reasons = [f"{name_of(pod)}: {told}" for pod in pods if (told := _trouble(pod))]
    ready = f"{counts[1]} of {wanted} replicas are ready"
    return f"{ready}; {reasons[0]}" if reasons else ready


def _trouble(pod: Object) -> str:
    """Say what keeps a pod from being ready, as far as its status does."""
    scheduled = condition(pod, "PodScheduled")
    if scheduled.status == "False":
        return scheduled.message
    status = pod.get("status") or {}
    for one in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]:
        state = one.get("state") or {}
        waiting, ended = state.get("waiting") or {}, (one.get("lastState") or {}).get("terminated") or {}
        if waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            code = f", exit code {ended['exitCode']}" if "exitCode" in ended else ""
            return f"container {one['name']}: {waiting['reason']}{code} {waiting.get('message', '')}".strip()
    return ""


def _pods_state(cluster: Cluster, namespace: str) -> str:
    left = cluster.list(POD, namespace, labels=f"app.kubernetes.io/name={_POOL}")
    return f"{len(left)} pods are ending" if left else ""


def _namespace_state(cluster: Cluster, namespace: str) -> str:
    try:
        found = cluster.get(NAMESPACE, namespace, _EVERYWHERE)
    except NotFoundError:
        return ""
    told = [
        one.get("message", "") for one in (found.get("status") or {}).get("conditions", ()) if one.get("message")
    ]
    return told[-1] if told else "it is being removed"


class _Stages:
    """Writes the lines of progress, and waits; one stage is under way at a time."""

    def __init__(self, clock: Clock, sleep: Callable[[float], None]) -> None:
        self._clock, self._sleep, self._name, self._began = clock, sleep, "", 0.0

    def start(self, name: str) -> Stage:
        self._name, self._began = name, self._clock.monotonic()
        return Stage(name, "started")

    def done(self, detail: str) -> Stage:
        return Stage(self._name, "done", self._clock.monotonic() - self._began, detail)

    def until(self, state: Callable[[], str], what: str) -> None:
        """Look until there is no reason left why not; DeployError with the last one when that takes too long."""
        deadline = self._clock.monotonic() + limits.INSTALL_READY_SECONDS_MAX
        while told := state():
            if self._clock.monotonic() > deadline:
                waited = f"{limits.INSTALL_READY_SECONDS_MAX:.0f} s"
                raise DeployError(f"{what} is not as wanted after {waited}: {told}")
            self._sleep(limits.INSTALL_LOOK_SECONDS)


def pods(cluster: Cluster, namespace: str = SYSTEM_NAMESPACE) -> Sequence[str]:
    """Name the pool's pods that are not on their way out."""
    found = cluster.list(POD, namespace, labels=f"app.kubernetes.io/name={_POOL}")
    return [name_of(pod) for pod in found if "deletionTimestamp" not in metadata(pod)]
