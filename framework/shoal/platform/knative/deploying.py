"""A deployment on a cluster: from a function folder to a ready revision with traffic, one stage after the other.

Until the last stage nothing that serves is touched. A failure takes back what it made; an interruption leaves what
the next run of the same deployment continues from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shoal.core.clock import Clock
from shoal.core.errors import ShoalError
from shoal.platform.knative import apply, components, leases, objects, render, split, waiting
from shoal.platform.knative.apply import Made
from shoal.platform.knative.client import Cluster
from shoal.platform.knative.describe import Described, describe
from shoal.platform.knative.render import Plan
from shoal.platform.knative.supply import Supply
from shoal.platform.port import Deployment, Stage
from shoal.spec.function import FunctionSpec, load


@dataclass(slots=True)
class Deploying:
    """One deployment under way; ``traffic`` False leaves the split as it is."""

    cluster: Cluster
    supply: Supply
    clock: Clock
    folder: Path
    traffic: bool = True
    spec: FunctionSpec = field(init=False)
    described: Described = field(init=False)
    versions: dict[str, str] = field(default_factory=dict)  # alias -> exact model version

    def run(self) -> Iterator[Stage | Deployment]:
        """Go through the stages; raises SpecError, ContractError or DeployError with the one reason."""
        yield from self._stage("check", self._check)
        if self.described.wanted(self.spec):
            yield from self._stage("models", self._models)
            yield from self._stage("pool", self._pool)
        made: list[tuple[Plan, Made]] = []
        yield from self._stage("revision", lambda told: made.append(self._revision(told)))
        ((plan, revision),) = made
        try:
            yield from self._stage("ready", lambda told: self._ready(revision))
            if self.traffic or revision.before is None:
                yield from self._stage("traffic", lambda told: self._move(plan, revision, told))
        except ShoalError:
            if revision.created:
                self._withdraw(plan, revision)
            raise
        url = self._finish(plan)
        yield Deployment(self.spec.name, revision.revision, revision.created, url, self.versions)

    # Stages.

    def _check(self, told: list[str]) -> None:
        self.spec = load(self.folder)
        self.described = describe(self.folder, self.spec)
        components.require_version(self.cluster)
        apply.brokers(self.cluster, self._plan(f"@sha256:{'0' * 64}").triggers)
        told.append(self.described.summary)

    def _models(self, told: list[str]) -> None:
        wanted = self.described.wanted(self.spec)
        self.versions = self.supply.versions(self.folder, wanted, self.described.models)
        self.supply.send_models(self.folder, {model: self.versions[alias] for alias, model in wanted.items()})
        told.append(", ".join(sorted(set(self.versions.values()))))

    def _pool(self, told: list[str]) -> None:
        name = self.spec.name
        service = apply.find(self.cluster, name)
        held = leases.needed(service, apply.revisions(self.cluster, name)) if service else set()
        leases.write(self.cluster, name, held | set(self.versions.values()))
        leases.wait_loaded(self.cluster, set(self.versions.values()), self.clock)

    def _revision(self, told: list[str]) -> tuple[Plan, Made]:
        built: list[str] = []
        plan = self._plan(self.supply.image(self.folder, self.spec, built.append))
        made = apply.template(self.cluster, plan, self.clock)
        told.append(", ".join([made.revision if made.created else f"{made.revision}, unchanged", *built[-2:]]))
        return plan, made

    def _ready(self, made: Made) -> None:
        waiting.revision_ready(self.cluster, self.spec.name, made.revision, self.clock, lambda text: None)

    def _move(self, plan: Plan, made: Made, told: list[str]) -> None:
        service = self.cluster.get(objects.SERVICE, plan.name)
        now = split.read(service)
        targets = split.joined({made.revision: 100}, split.tags(now.targets))
        if targets != now.targets or split.follows_latest(service):
            apply.traffic(self.cluster, plan.name, now.then(targets))
        apply.triggers(self.cluster, plan.name, plan.triggers, self.clock)
        waiting.split_in_effect(self.cluster, plan.name, targets, self.clock)
        told.append(f"100 % to {made.revision}")

    def _finish(self, plan: Plan) -> str:
        """Tidy up after a success; gives the function's URL."""
        service = self.cluster.get(objects.SERVICE, plan.name)
        apply.prune(self.cluster, service)
        if self.versions:
            held = leases.needed(service, apply.revisions(self.cluster, plan.name))
            leases.write(self.cluster, plan.name, held)
        return str((service.get("status") or {}).get("url") or "")

    def _withdraw(self, plan: Plan, made: Made) -> None:
        apply.withdraw(self.cluster, plan, made, self.clock)
        if made.before is None:
            leases.end(self.cluster, plan.name)

    # Parts of stages.

    def _plan(self, image: str) -> Plan:
        return render.plan(self.spec, image, self.versions, self.described.event_types)

    def _stage(self, name: str, work: Callable[[list[str]], object]) -> Iterator[Stage]:
        """Run one stage between its two reports; what it puts into the list is its detail."""
        begun, told = self.clock.monotonic(), list[str]()
        yield Stage(name, "started")
        try:
            work(told)
        except ShoalError:
            yield Stage(name, "failed", self.clock.monotonic() - begun)
            raise
        yield Stage(name, "done", self.clock.monotonic() - begun, "".join(told))
