"""The manifests as they are rendered: reviewed goldens, and the rules none of them may break.

After a change that is meant, ``SHOAL_WRITE_GOLDENS=1`` writes the goldens anew; their difference is reviewed.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.core.errors import SpecError, UsageError
from shoal.platform.knative import install_manifests as manifests
from shoal.platform.knative.install import InstallSettings, objects
from shoal.platform.knative.install_restricted import violations

GOLDENS = Path(__file__).with_name("cluster_goldens")
IMAGES = {
    "triton_image": f"registry.example.com/shoal-pool-triton@sha256:{'1' * 64}",
    "agent_image": f"registry.example.com/shoal-pool-agent@sha256:{'2' * 64}",
}
SETTINGS = {
    "cpu": InstallSettings(registry="registry.example.com", **IMAGES),
    "gpu": InstallSettings(registry="registry.example.com", overlay="gpu", broker="kafka", **IMAGES),
}
Object = dict[str, Any]


def rendered(overlay: str) -> list[Object]:
    return objects(SETTINGS[overlay], "functions")


def one(items: list[Object], kind: str, name: str = "shoal-pool") -> Object:
    return next(item for item in items if (item["kind"], item["metadata"]["name"]) == (kind, name))


def pod(overlay: str) -> Object:
    return manifests.pod_spec(one(rendered(overlay), "Deployment"))


@pytest.mark.parametrize("overlay", SETTINGS)
def test_rendered_as_reviewed(overlay: str) -> None:
    text = yaml.safe_dump_all(rendered(overlay), sort_keys=True, width=110)
    golden = GOLDENS / f"{overlay}.yaml"
    if os.environ.get("SHOAL_WRITE_GOLDENS"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("overlay", SETTINGS)
def test_every_pod_passes_the_restricted_profile(overlay: str) -> None:
    found = rendered(overlay)
    assert [violations(spec) for item in found if (spec := manifests.pod_spec(item))] == [[]]
    labels = one(found, "Namespace", "shoal-system")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def root(spec: Object) -> None:
    spec["securityContext"]["runAsUser"] = 0


def may_be_root(spec: Object) -> None:
    spec["securityContext"].pop("runAsNonRoot")


def no_seccomp(spec: Object) -> None:
    spec["securityContext"].pop("seccompProfile")


def host_network(spec: Object) -> None:
    spec["hostNetwork"] = True


def host_path(spec: Object) -> None:
    spec["volumes"].append({"name": "x", "hostPath": {"path": "/"}})


def escalates(spec: Object) -> None:
    spec["containers"][0]["securityContext"].pop("allowPrivilegeEscalation")


def keeps_capabilities(spec: Object) -> None:
    spec["initContainers"][0]["securityContext"]["capabilities"] = {}


def adds_capability(spec: Object) -> None:
    spec["containers"][0]["securityContext"]["capabilities"]["add"] = ["SYS_ADMIN"]


def privileged(spec: Object) -> None:
    spec["containers"][0]["securityContext"]["privileged"] = True


def writes_its_root(spec: Object) -> None:
    spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False


def host_port(spec: Object) -> None:
    spec["containers"][0]["ports"][0]["hostPort"] = 8000


@pytest.mark.parametrize(
    "spoil",
    [root, may_be_root, no_seccomp, host_network, host_path, escalates, keeps_capabilities, adds_capability,
     privileged, writes_its_root, host_port],
)  # fmt: skip
def test_each_rule_of_the_profile_is_noticed(spoil: Callable[[Object], None]) -> None:
    spec = copy.deepcopy(pod("cpu"))
    spoil(spec)
    assert violations(spec)


@pytest.mark.parametrize("overlay", SETTINGS)
def test_every_container_has_requests_a_memory_limit_and_a_digest(overlay: str) -> None:
    for container in [*pod(overlay)["initContainers"], *pod(overlay)["containers"]]:
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        assert "@sha256:" in container["image"]


@pytest.mark.parametrize("overlay", SETTINGS)
def test_triton_is_run_as_a_shared_pool_must_be(overlay: str) -> None:
    spec = pod(overlay)
    triton = spec["containers"][0]
    command = triton["args"][0]
    for flag in (
        "--model-control-mode=explicit", "--strict-readiness=false", "--exit-on-error=false",
        "--allow-sagemaker=false", "--allow-vertex-ai=false",
    ):  # fmt: skip
        assert flag in command
    for flag in ("--http-restricted-api=", "--grpc-restricted-protocol="):
        assert f"{flag}model-repository,shared-memory" in command
    assert "--allow-client-shm" not in command
    assert triton["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    assert triton["lifecycle"]["preStop"]["sleep"]["seconds"] >= 10
    assert spec["terminationGracePeriodSeconds"] > triton["lifecycle"]["preStop"]["sleep"]["seconds"] + 30
    shm = next(volume for volume in spec["volumes"] if volume["name"] == "shm")["emptyDir"]
    assert shm["medium"] == "Memory"
    assert "sizeLimit" in shm


@pytest.mark.parametrize("overlay", SETTINGS)
def test_models_code_has_no_token_and_may_not_write_what_is_loaded(overlay: str) -> None:
    spec = pod(overlay)
    assert spec["automountServiceAccountToken"] is False
    mounts = {mount["name"]: mount for mount in spec["containers"][0]["volumeMounts"]}
    assert "token" not in mounts
    assert mounts["models"]["readOnly"]
    assert mounts["control"]["readOnly"]


def test_the_agent_may_read_one_object_and_write_one() -> None:
    rules = one(rendered("cpu"), "Role")["rules"]
    allowed = {(name, verb) for rule in rules for name in rule["resourceNames"] for verb in rule["verbs"]}
    reading = {("shoal-leases", verb) for verb in ("get", "list", "watch")}
    assert allowed == reading | {("shoal-pool-status", "patch")}


def test_replicas_spread_and_outlive_a_drained_node() -> None:
    found = rendered("cpu")
    spec = pod("cpu")
    assert spec["affinity"]["podAntiAffinity"]
    assert spec["topologySpreadConstraints"]
    assert spec["priorityClassName"] == one(found, "PriorityClass", "shoal-system-pool")["metadata"]["name"]
    assert one(found, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert one(found, "HorizontalPodAutoscaler")["spec"]["minReplicas"] == 2
    assert one(found, "Deployment")["spec"]["replicas"] == 2


def test_gpus_are_asked_for_and_tolerated() -> None:
    spec = pod("gpu")
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert spec["affinity"]["podAntiAffinity"]
    assert [container["name"] for container in spec["initContainers"]] == ["agent"]


def test_only_functions_infer() -> None:
    rules = one(rendered("cpu"), "NetworkPolicy")["spec"]["ingress"]
    ports = {port["port"]: rule["from"][0] for rule in rules for port in rule["ports"]}
    assert ports["http"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/managed-by": "shoal"}
    assert ports["grpc"] == ports["http"]
    assert "podSelector" not in ports["metrics"]


def test_in_another_namespace_nothing_points_at_the_first() -> None:
    settings = InstallSettings(registry="registry.example.com", namespace="elsewhere", **IMAGES)
    assert "shoal-system" not in yaml.safe_dump(objects(settings, "functions"))


@pytest.mark.parametrize("change", [{"overlay": "tpu"}, {"overlay": ".."}, {"overlay": ""}, {"broker": "nats"}])
def test_an_overlay_that_is_not_there_names_those_that_are(change: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"there is (cpu, gpu|kafka)"):
        objects(InstallSettings(registry="registry.example.com", **IMAGES, **change), "functions")


def test_what_kustomize_knows_and_this_does_not_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("generators: [x.yaml]\n")
    with pytest.raises(SpecError, match="generators is not understood"):
        manifests.render(tmp_path)


@pytest.mark.parametrize(
    "text", ["resources: [absent.yaml]\n", "resources: [bad.yaml]\n", "patches: [{path: p.yaml}]\n"]
)
def test_a_broken_kustomization_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "kustomization.yaml").write_text(text)
    (tmp_path / "bad.yaml").write_text("[1, 2]\n")
    (tmp_path / "p.yaml").write_text("kind: Service\nmetadata: {name: x}\n")
    with pytest.raises(SpecError, match=r"\.yaml"):
        manifests.render(tmp_path)


def test_merging_replaces_removes_and_joins_by_key() -> None:
    base = {
        "spec": {"a": 1, "b": 2, "env": [{"name": "x", "value": "1"}, {"name": "y", "value": "2"}], "args": ["1"]}
    }
    patch = {"spec": {"b": None, "env": [{"name": "z", "value": "3"}, {"name": "y", "value": "4"}], "args": ["9"]}}
    merged = {
        "a": 1,
        "args": ["9"],
        "env": [{"name": "z", "value": "3"}, {"name": "y", "value": "4"}, base["spec"]["env"][0]],
    }  # type: ignore[index]
    assert manifests.merge(base, patch) == {"spec": merged}
