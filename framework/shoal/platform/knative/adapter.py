"""The cluster as the command line sees it: the platform port over the API server, the gateway and the broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shoal.core import limits
from shoal.core.clock import Clock, SystemClock
from shoal.core.errors import NotFoundError, UsageError
from shoal.platform.knative import apply, components, front, leases, logs, objects, read, render, split, waiting
from shoal.platform.knative.client import Cluster, KubernetesCluster
from shoal.platform.knative.deploying import Deploying
from shoal.platform.knative.front import Gateway
from shoal.platform.knative.objects import Object, name_of
from shoal.platform.knative.settings import Settings, load
from shoal.platform.knative.supply import Registries, Supply
from shoal.platform.port import Deployment, FunctionStatus, PlatformStatus, Reply, Stage, Target

_NAMES_SHOWN_MAX = limits.GATEWAY_NAMES_SHOWN_MAX


class KnativePlatform:
    """One namespace of one cluster; nothing is asked of it before the first call."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        cluster: Cluster | None = None,
        supply: Supply | None = None,
        clock: Clock | None = None,
        **_: Any,
    ) -> None:
        self.settings = settings or load(target="cluster")
        self.cluster = cluster or KubernetesCluster(self.settings.context, self.settings.namespace)
        self._supply = supply or Registries(self.settings)
        self._clock = clock or SystemClock()
        self._gateway = Gateway(self.cluster, self.settings)

    # The port.

    def deploy(self, source: Path, *, traffic: bool = True) -> Iterator[Stage | Deployment]:
        """Make (or find) the revision for a folder; yields stages, then one Deployment."""
        folder = source.expanduser().resolve()
        if not folder.is_dir():
            raise UsageError(f"{source} is not a folder", hint="shoal deploy functions/NAME")
        yield from Deploying(self.cluster, self._supply, self._clock, folder, traffic).run()

    def status(self) -> PlatformStatus:
        """Describe the cluster's parts that functions need, and the models the pool holds."""
        return PlatformStatus(components.of(self.cluster, self._gateway), leases.states(self.cluster))

    def functions(self) -> list[FunctionStatus]:
        """Describe all functions, by name: three lists, however many there are."""
        services = self.cluster.list(objects.SERVICE, labels=f"{objects.MANAGED_BY}=shoal")
        revisions = self.cluster.list(objects.REVISION, labels=f"{objects.MANAGED_BY}=shoal")
        pods = self.cluster.list(objects.POD, labels=f"{objects.MANAGED_BY}=shoal")
        return read.functions(services, revisions, pods)

    def function(self, name: str) -> FunctionStatus:
        """Describe one function; NotFoundError names those that exist."""
        return self._describe(self._service(name))

    def set_traffic(self, name: str, targets: Sequence[Target]) -> FunctionStatus:
        """Replace the split; in effect on return."""
        service = self._service(name)
        split.check(name, [name_of(item) for item in apply.revisions(self.cluster, name)], targets)
        return self._switch(service, split.read(service).then(targets))

    def rollback(self, name: str) -> FunctionStatus:
        """Bring back the percents before the newest change, and again those before these."""
        service = self._service(name)
        known = [name_of(item) for item in apply.revisions(self.cluster, name)]
        return self._switch(service, split.read(service).back(name, known))

    def invoke(
        self,
        name: str,
        *,
        tag: str = "",
        method: str = "POST",
        path: str = "/",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float = 60.0,
    ) -> Reply:
        """Call a function through the gateway; an error answer is a Reply too, no exception."""
        return self._gateway.call(self._gateway.host(name, tag), method, path, headers or {}, body, timeout_s)

    def publish(self, headers: Mapping[str, str], body: bytes, *, broker: str = "default") -> None:
        """Hand one CloudEvent to a broker; raises the broker's reason when it does not take it."""
        front.publish(self.cluster, headers, body, broker)

    def logs(self, name: str, *, revision: str = "", follow: bool = False, lines: int = 100) -> Iterator[str]:
        """Yield the log lines of a function's pods, as far back as Kubernetes keeps them."""
        self._service(name)
        known = [name_of(item) for item in apply.revisions(self.cluster, name)]
        if revision and revision not in known:
            raise NotFoundError(f"{name!r} has no revision {revision!r}; it has {', '.join(known)}")
        begun = datetime.fromtimestamp(self._clock.now(), UTC)
        selector = f"{objects.REVISION_LABEL}={revision}" if revision else f"{objects.SERVICE_LABEL}={name}"

        def pods() -> list[Object]:
            return self.cluster.list(objects.POD, labels=selector)

        yield from logs.read(self.cluster, pods, lines)
        if follow:
            yield from logs.follow(self.cluster, pods, begun.isoformat().replace("+00:00", "Z"))

    def delete(self, name: str) -> None:
        """Remove a function with its revisions, triggers and lease; back when its names are free again.

        Requests in flight are finished by pods that may still drain for the function's timeout.
        """
        self._service(name)
        apply.triggers(self.cluster, name, (), self._clock)
        self.cluster.delete(objects.SERVICE, name)
        waiting.gone(self.cluster, name, self._clock)
        leases.end(self.cluster, name)

    # What the command line asks of the local platform only.

    def running(self) -> bool:
        """Say that it is up: a cluster is never started from here."""
        return True

    def up(self) -> PlatformStatus:
        """Refuse: a cluster is not started by this command line."""
        raise UsageError("a cluster is not started by 'shoal up'", hint="shoal status --target cluster")

    def down(self) -> bool:
        """Refuse: a cluster is not ended by this command line."""
        raise UsageError("a cluster is not ended by 'shoal down'", hint="shoal status --target cluster")

    # Inside.

    def _service(self, name: str) -> Object:
        found = apply.find(self.cluster, name)
        if found is None or objects.deleted(found):
            raise self._unknown(name)
        return found

    def _unknown(self, name: str) -> NotFoundError:
        services = self.cluster.list(objects.SERVICE, labels=f"{objects.MANAGED_BY}=shoal")
        known = sorted(name_of(item) for item in services)
        more = f" and {len(known) - _NAMES_SHOWN_MAX} more" if len(known) > _NAMES_SHOWN_MAX else ""
        shown = ", ".join(known[:_NAMES_SHOWN_MAX]) + more if known else "none"
        return NotFoundError(f"there is no function {name!r} in {self.cluster.where}; there is {shown}")

    def _describe(self, service: Object) -> FunctionStatus:
        name = name_of(service)
        pods = self.cluster.list(objects.POD, labels=f"{objects.SERVICE_LABEL}={name}")
        return read.function(service, apply.revisions(self.cluster, name), read.instance_counts(pods))

    def _switch(self, service: Object, wanted: split.Split) -> FunctionStatus:
        """Write a split, wait until it is in effect, and let the triggers follow the revision that leads now."""
        name = name_of(service)
        known = {name_of(item): item for item in apply.revisions(self.cluster, name)}
        apply.traffic(self.cluster, name, wanted)
        if leader := known.get(split.leading(wanted.targets)):
            apply.triggers(self.cluster, name, render.rules_of(leader), self._clock)
        found = waiting.split_in_effect(self.cluster, name, wanted.targets, self._clock)
        return self._describe(found)
