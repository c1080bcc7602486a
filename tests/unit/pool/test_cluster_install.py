"""Installing on a cluster that is a dictionary: what is checked first, what is kept, what is told when it fails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from shoal.core.clock import FakeClock
from shoal.core.errors import DeployError, ForbiddenError, NotFoundError, ShoalError, UsageError
from shoal.platform.knative import install_checks
from shoal.platform.knative.client import Cluster
from shoal.platform.knative.install import InstallSettings, install, uninstall, with_images
from shoal.platform.knative.objects import Kind, Object

DIGEST = f"sha256:{'1' * 64}"
SETTINGS = InstallSettings(
    registry="registry.example.com",
    triton_image=f"registry.example.com/t@{DIGEST}",
    agent_image=f"registry.example.com/a@{DIGEST}",
)
SERVING, EVENTING = "services.serving.knative.dev", "brokers.eventing.knative.dev"


@dataclass
class Shelf:
    """A cluster of objects by (kind, namespace, name); what is applied is ready at once, unless ``stuck``."""

    versions: dict[str, str] = field(default_factory=lambda: {SERVING: "1.23.0", EVENTING: "devel"})
    kubernetes: str = "v1.35.4"
    stuck: bool = False
    things: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    pods: list[Object] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)
    refuse: ShoalError | None = None

    namespace = "functions"
    context = "test"
    where = "namespace 'functions' of context 'test'"

    def __post_init__(self) -> None:
        self.things["Namespace", "*", "functions"] = {"metadata": {"name": "functions"}}

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        if kind.plural == "customresourcedefinitions":
            if self.refuse:
                raise self.refuse
            if name not in self.versions:
                raise NotFoundError(name)
            return {"metadata": {"labels": {"app.kubernetes.io/version": self.versions[name]}}}
        try:
            return self.things[kind.name, namespace or self.namespace, name]
        except KeyError:
            raise NotFoundError(name) from None

    def list(self, kind: Kind, namespace: str = "", *, labels: str = "", fields: str = "") -> list[Object]:
        return self.pods

    def apply(
        self, kind: Kind, item: Object, manager: str, namespace: str = "", *, force: bool = False, dry: bool = False
    ) -> Object:
        name = item["metadata"]["name"]
        self.applied.append(f"{kind.name}/{name}")
        stored = {**json.loads(json.dumps(item)), "status": {"observedGeneration": None}}
        if kind.name == "Deployment" and not self.stuck:
            count = item["spec"]["replicas"]
            stored["status"] |= {"updatedReplicas": count, "readyReplicas": count, "replicas": count}
        if kind.name == "Broker":
            stored["status"] |= {"conditions": [{"type": "Ready", "status": "True"}]}
        self.things[kind.name, namespace, name] = stored
        return stored

    def delete(self, kind: Kind, name: str, namespace: str = "") -> bool:
        return self.things.pop((kind.name, namespace, name), None) is not None

    def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> tuple[int, bytes]:
        return 200, json.dumps({"gitVersion": self.kubernetes}).encode()

    @property
    def cluster(self) -> Cluster:
        return cast("Cluster", self)


def run(shelf: Shelf, settings: InstallSettings = SETTINGS) -> list[str]:
    clock = FakeClock()
    return [f"{one.name} {one.state}" for one in install(shelf.cluster, settings, clock=clock, sleep=clock.advance)]


def test_everything_is_applied_in_an_order_that_works_and_told_step_by_step() -> None:
    shelf = Shelf()
    names = ("versions", "images", "objects", "broker", "pool")
    assert run(shelf) == [f"{name} {state}" for name in names for state in ("started", "done")]
    order = shelf.applied
    assert order[0] == "Namespace/shoal-system"
    for earlier in ("PriorityClass/shoal-system-pool", "ServiceAccount/shoal-pool", "ConfigMap/shoal-leases"):
        assert order.index(earlier) < order.index("Deployment/shoal-pool")


def test_what_is_removed_is_all_that_was_made() -> None:
    shelf = Shelf()
    before = set(shelf.things)
    run(shelf)
    clock = FakeClock()
    assert [one.name for one in uninstall(shelf.cluster, SETTINGS, clock=clock, sleep=clock.advance)]
    assert set(shelf.things) == before


def test_a_second_run_keeps_the_replicas_the_autoscaler_chose() -> None:
    shelf = Shelf()
    run(shelf)
    shelf.things["Deployment", "shoal-system", "shoal-pool"]["spec"]["replicas"] = 7
    run(shelf)
    assert shelf.things["Deployment", "shoal-system", "shoal-pool"]["spec"]["replicas"] == 7


def test_a_broker_of_somebody_else_is_kept_through_both() -> None:
    shelf = Shelf()
    theirs: Object = {
        "metadata": {"name": "default"},
        "spec": {"config": {"name": "theirs"}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    shelf.things["Broker", "functions", "default"] = theirs
    run(shelf)
    clock = FakeClock()
    list(uninstall(shelf.cluster, SETTINGS, clock=clock, sleep=clock.advance))
    assert shelf.things["Broker", "functions", "default"] is theirs


@pytest.mark.parametrize(
    ("shelf", "told", "hint"),
    [
        (Shelf(versions={}), "Knative Serving is not installed; Knative Eventing is not installed", "serving-core"),
        (Shelf(versions={SERVING: "1.23.0"}), "Knative Eventing is not installed", "mt-channel-broker"),
        (
            Shelf(versions={SERVING: "v1.9.2", EVENTING: "1.23"}),
            "Knative Serving is v1.9.2, 1.17 is the",
            "serving",
        ),
        (Shelf(kubernetes="v1.29.9+k3s1"), "Kubernetes is v1.29.9+k3s1, 1.30 is the oldest", "upgrade"),
    ],
)
def test_what_a_cluster_lacks_is_told_at_once_and_nothing_is_made(shelf: Shelf, told: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        run(shelf)
    assert told in raised.value.message
    assert hint in raised.value.hint
    assert shelf.applied == []


def test_a_version_this_user_may_not_read_is_unknown_and_any_other_failure_is_told() -> None:
    found = install_checks.check(Shelf(refuse=ForbiddenError("no")).cluster)
    assert found["Knative Serving"] == "unknown"
    with pytest.raises(DeployError):
        install_checks.check(Shelf(refuse=DeployError("boom")).cluster)


def test_a_namespace_that_is_not_there_is_told_before_anything_is_made() -> None:
    shelf = Shelf()
    shelf.things.clear()
    with pytest.raises(UsageError, match="no namespace 'functions'") as raised:
        run(shelf)
    assert raised.value.hint == "kubectl create namespace functions"
    assert shelf.applied == []


def status(**changes: Any) -> Object:
    return {"metadata": {"name": "shoal-pool-1"}, "status": changes}


@pytest.mark.parametrize(
    ("pod", "told"),
    [
        (
            status(containerStatuses=[{"name": "triton", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]),
            "shoal-pool-1: container triton: ImagePullBackOff",
        ),
        (
            status(
                initContainerStatuses=[
                    {
                        "name": "agent",
                        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                        "lastState": {"terminated": {"exitCode": 3}},
                    }
                ]
            ),
            "container agent: CrashLoopBackOff, exit code 3 back-off",
        ),
        (
            status(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]),
            "0/3 nodes are available",
        ),
        (status(containerStatuses=[{"name": "triton", "state": {"running": {}}}]), "0 of 2 replicas are ready"),
    ],
)
def test_a_pool_that_does_not_get_ready_ends_in_its_reason(pod: Object, told: str) -> None:
    with pytest.raises(DeployError) as raised:
        run(Shelf(stuck=True, pods=[pod]))
    assert told in raised.value.message


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (InstallSettings(), "no registry"),
        (InstallSettings(registry="r.example.com", overlay="gpu"), "no Triton image"),
    ],
)
def test_images_that_cannot_be_had_are_asked_for(settings: InstallSettings, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        with_images(settings)


def test_agents_pull_from_the_registry_as_pods_name_it() -> None:
    settings = InstallSettings(registry="127.0.0.1:5000", registry_pull="inside.local:5000/team")
    assert settings.model_registry == "https://inside.local:5000/team"
    plain = InstallSettings(registry="inside.local:5000", plain_http=frozenset({"inside.local:5000"}))
    assert plain.model_registry == "http://inside.local:5000"
