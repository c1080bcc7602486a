"""The pool on a real cluster: two replicas of a real Triton, leased models, lost replicas, and what is left behind.

Needs KUBECONFIG and a registry: SHOAL_REGISTRY to push to, SHOAL_REGISTRY_PULL as pods name it, and those of the
two that speak no TLS in SHOAL_PLAIN_HTTP.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml

from shoal.core.errors import ConflictError, NotFoundError, ShoalError
from shoal.image import base as bases
from shoal.image.blobs import BlobStore
from shoal.image.registry import plain_hosts
from shoal.models.repository import ModelRepository
from shoal.platform.knative import install_images, install_manifests
from shoal.platform.knative.client import KubernetesCluster
from shoal.platform.knative.install import KINDS, NAMESPACE, InstallSettings, install, objects, pods, uninstall
from shoal.platform.knative.install_budget import check_budget
from shoal.platform.knative.objects import CONFIG_MAP, POD, Kind, Object, condition, name_of
from shoal.pool.cluster_leases import LEASES, STATUS, field_manager, lease, model_states, read_reports
from shoal.pool.cluster_models import artifact

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).parents[2] / "triton-repo"
PATIENCE_S = 300.0
# Runs in the cluster: finds every replica by name and asks each of them.
ASK = """
import json, socket, sys, urllib.request
host, model, body = sys.argv[1], sys.argv[2], sys.argv[3].encode()
found = {}
for address in sorted({one[4][0] for one in socket.getaddrinfo(host, 8000)}):
    try:
        with urllib.request.urlopen(f"http://{address}:8000/v2/models/{model}/infer", body, timeout=30) as answer:
            found[address] = json.load(answer)["outputs"][0]["data"]
    except urllib.error.HTTPError as error:
        found[address] = error.code
print(json.dumps(found))
"""


def reachable() -> KubernetesCluster:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG is not set")
    cluster = KubernetesCluster()
    try:
        cluster.get(NAMESPACE, "default", "*")
    except ShoalError as error:
        pytest.skip(error.message)
    return cluster


def install_settings(namespace: str) -> InstallSettings:
    registry = os.environ.get("SHOAL_REGISTRY", "")
    if not registry:
        pytest.skip("SHOAL_REGISTRY is not set")
    pull = os.environ.get("SHOAL_REGISTRY_PULL", registry)
    return InstallSettings(
        registry=registry, registry_pull=pull, plain_http=plain_hosts(os.environ), namespace=namespace
    )


@dataclass
class Pool:
    """An installed pool of its own, and the namespace of its functions."""

    cluster: KubernetesCluster
    settings: InstallSettings
    tmp: Path

    def lease(self, function: str, *versions: str) -> None:
        item = lease(function, versions, self.settings.namespace)
        self.cluster.apply(CONFIG_MAP, item, field_manager(function), self.settings.namespace)

    def states(self) -> dict[str, str]:
        data = self.cluster.get(CONFIG_MAP, STATUS, self.settings.namespace).get("data") or {}
        return model_states(read_reports(data, pods(self.cluster, self.settings.namespace)))

    def push(self, model: str) -> str:
        version = ModelRepository(REPOSITORY).materialise(model, self.tmp / "versions")
        self.push_folder(self.tmp / "versions" / version.name)
        return version.name

    def push_folder(self, folder: Path) -> None:
        store, connect = BlobStore(self.tmp / "store"), bases.connect(self.settings.plain_http)
        install_images.push_model(folder, store, self.settings.registry, connect)

    def ready(self) -> list[str]:
        """The replicas that are ready, whatever is on its way out."""
        found = self.cluster.list(POD, self.settings.namespace, labels="app.kubernetes.io/name=shoal-pool")
        return [name_of(pod) for pod in found if condition(pod).true and "deletionTimestamp" not in pod["metadata"]]

    def all_answer(self, version: str, rows: Any, expected: Any) -> bool:
        """Whether the Service names the replicas there are, none that is ending, and each answers right."""
        answers = self.ask(version, rows)
        found = self.cluster.list(POD, self.settings.namespace, labels="app.kubernetes.io/name=shoal-pool")
        if answers.keys() != {pod["status"].get("podIP") for pod in found if name_of(pod) in self.ready()}:
            return False
        for answer in answers.values():
            np.testing.assert_allclose(np.reshape(answer, expected.shape), expected, rtol=1e-5, atol=1e-7)
        return True

    def ask(self, version: str, rows: Any) -> dict[str, Any]:
        """Infer on every replica that the headless Service names, from a pod as a function's is labelled."""
        name = f"ask-{uuid.uuid4().hex[:8]}"
        body = {
            "inputs": [
                {"name": "bytes", "datatype": "INT32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
            ]
        }
        host = f"shoal-pool.{self.settings.namespace}.svc.cluster.local"
        restricted = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        container = {
            "name": "ask",
            "image": self.settings.agent_image,
            "command": ["python3", "-c", ASK, host, version, json.dumps(body)],
            "securityContext": restricted,
        }
        pod = {
            "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "shoal"}},
            "spec": {
                "restartPolicy": "Never",
                "containers": [container],
                "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            },
        }
        self.cluster.apply(POD, pod, "test")
        until(lambda: self.cluster.get(POD, name)["status"].get("phase") in ("Succeeded", "Failed"))
        log = b"\n".join(self.cluster.lines(f"{POD.path(self.cluster.namespace, name)}/log", {}, 30.0))
        assert self.cluster.get(POD, name)["status"]["phase"] == "Succeeded", log.decode()
        found: dict[str, Any] = json.loads(log)
        return found


def until(met: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < deadline, met
        time.sleep(0.25)


@pytest.fixture(scope="module")
def namespaces() -> Iterator[tuple[KubernetesCluster, str]]:
    """A namespace for functions that is gone afterwards, and a name for the pool's."""
    reachable()
    name = f"pool-{uuid.uuid4().hex[:8]}"
    cluster = KubernetesCluster(namespace=name)
    cluster.apply(NAMESPACE, {"metadata": {"name": name}}, "test", "*")
    try:
        yield cluster, f"{name}-system"
    finally:
        cluster.delete(NAMESPACE, name, "*")


@pytest.fixture
def empty(namespaces: tuple[KubernetesCluster, str]) -> Iterator[KubernetesCluster]:
    """A namespace with nothing in it that is gone afterwards."""
    name = f"{namespaces[0].namespace}-{uuid.uuid4().hex[:4]}"
    cluster = KubernetesCluster(namespace=name)
    cluster.apply(NAMESPACE, {"metadata": {"name": name}}, "test", "*")
    try:
        yield cluster
    finally:
        cluster.delete(NAMESPACE, name, "*")


@pytest.fixture(scope="module")
def pool(namespaces: tuple[KubernetesCluster, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    cluster, system = namespaces
    settings = install_settings(system)
    try:
        done = [stage.detail for stage in install(cluster, settings) if stage.state == "done"]
        triton, agent = done[1].split(", ")
        yield Pool(
            cluster, replace(settings, triton_image=triton, agent_image=agent), tmp_path_factory.mktemp("pool")
        )
    finally:
        for _ in uninstall(cluster, settings):
            pass


def test_leased_models_answer_on_every_replica_and_come_back_with_a_lost_one(pool: Pool) -> None:
    version = pool.push("magika")
    rows = np.random.default_rng(7).integers(0, 257, (3, 2048), dtype=np.int32)
    direct = onnxruntime.InferenceSession(pool.tmp / "versions" / version / "1/model.onnx")
    expected = direct.run(["target_label"], {"bytes": rows})[0]

    pool.lease("one", version)
    pool.lease("two", version)
    until(lambda: pool.states() == {version: "READY"})
    connect = bases.connect(pool.settings.plain_http)
    one = check_budget(pool.cluster, [version], pool.settings.registry, connect, namespace=pool.settings.namespace)
    assert one > (pool.tmp / "versions" / version / "1/model.onnx").stat().st_size
    change = {"data": {"memory-bytes": str(one - 1)}}
    pool.cluster.patch(CONFIG_MAP, "shoal-pool", change, pool.settings.namespace)
    with pytest.raises(ConflictError, match=r"would take .* MiB on each replica, its budget is"):
        check_budget(pool.cluster, [version], pool.settings.registry, connect, namespace=pool.settings.namespace)
    before = pool.ready()
    assert len(before) == 2
    until(lambda: pool.all_answer(version, rows, expected))

    pool.cluster.send("DELETE", POD.path(pool.settings.namespace, before[0]), {}, b'{"gracePeriodSeconds":0}', 30.0)
    until(lambda: len(pool.ready()) == 2 and before[0] not in pool.ready() and pool.states() == {version: "READY"})
    until(lambda: pool.all_answer(version, rows, expected))

    pool.lease("one")
    assert version in json.dumps(pool.cluster.get(CONFIG_MAP, LEASES, pool.settings.namespace)["data"])
    assert pool.states() == {version: "READY"}  # the other function still leases it
    pool.lease("two")
    until(lambda: pool.states() == {})
    until(lambda: all(answer in (400, 404, 503) for answer in pool.ask(version, rows).values()))


def test_what_cannot_be_served_is_told_and_what_can_be_is_served(pool: Pool) -> None:
    version = pool.push("magika")
    lie = pool.tmp / "lie" / "magika--0123456789ab"
    shutil.copytree(pool.tmp / "versions" / version, lie)
    described = artifact(lie)
    assert described.tag == "0123456789ab"
    pool.push_folder(lie)
    pool.lease("good", version)
    pool.lease("bad", lie.name, "absent--0123456789ab")
    try:
        until(lambda: pool.states().get(version) == "READY")
        until(lambda: "under this name is" in pool.states()[lie.name])
        until(lambda: "is not in the registry" in pool.states()["absent--0123456789ab"])
        assert len(pool.ready()) == 2
    finally:
        pool.lease("good")
        pool.lease("bad")
    until(lambda: pool.states() == {})


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_the_api_server_accepts_every_object(empty: KubernetesCluster, overlay: str) -> None:
    cluster = empty
    digest = f"sha256:{'1' * 64}"
    settings = InstallSettings(
        registry="registry.example.com",
        overlay=overlay,
        broker="kafka" if overlay == "gpu" else "base",
        namespace=cluster.namespace,  # it is there: a dry run makes none for what comes after it
        triton_image=f"registry.example.com/t@{digest}",
        agent_image=f"registry.example.com/a@{digest}",
    )
    for item in objects(settings, cluster.namespace):
        namespace = item["metadata"].get("namespace", "*")
        cluster.apply(KINDS[item["kind"]], item, "test-dry", namespace, force=True, dry=True)


@pytest.mark.parametrize(
    "folder", ["pool/overlays/cpu", "pool/overlays/gpu", "broker/base", "broker/overlays/kafka"]
)
def test_kubectl_renders_the_same(folder: str) -> None:
    kubectl = shutil.which("kubectl")
    if not kubectl:
        pytest.skip("kubectl is not on PATH")
    path = install_manifests.root() / folder
    text = subprocess.run([kubectl, "kustomize", path], capture_output=True, text=True, check=True).stdout
    assert by_name(list(yaml.safe_load_all(text))) == by_name(install_manifests.render(path))


def by_name(items: list[Object]) -> dict[tuple[str, str], Object]:
    return {(item["kind"], name_of(item)): item for item in items}


def test_uninstalled_nothing_is_left(empty: KubernetesCluster) -> None:
    name = empty.namespace
    settings = install_settings(f"{name}-system")
    try:
        before = until_settled(empty, name)
        for _ in install(empty, settings):
            pass
        assert everything(empty, name) > before
        for _ in uninstall(empty, settings):
            pass
        until(lambda: everything(empty, name) == before)
    finally:
        for _ in uninstall(empty, settings):
            pass


def until_settled(cluster: KubernetesCluster, name: str) -> set[str]:
    """Everything there is, once the cluster has put what it puts into every new namespace."""
    until(lambda: any("serviceaccounts/default" in one for one in everything(cluster, name)))
    until(lambda: any("configmaps/kube-root-ca.crt" in one for one in everything(cluster, name)))
    return everything(cluster, name)


def everything(cluster: KubernetesCluster, name: str) -> set[str]:
    """Every object of every kind in namespaces of this name, and every cluster-wide one that has it in its own."""
    found: set[str] = set()
    for kind, namespaced in listable(cluster):
        try:
            items = cluster.list(kind, "*")
        except NotFoundError:
            continue
        for item in items:
            where = item["metadata"].get("namespace", "") if namespaced else name_of(item)
            if name in where:
                found.add(f"{where}: {kind.api} {kind.plural}/{name_of(item)}")
    return found


def listable(cluster: KubernetesCluster) -> Iterator[tuple[Kind, bool]]:
    groups = json.loads(cluster.send("GET", "/apis", {}, b"", 30.0)[1])["groups"]
    for api in ["v1", *(group["preferredVersion"]["groupVersion"] for group in groups)]:
        root = f"/apis/{api}" if "/" in api else f"/api/{api}"
        for one in json.loads(cluster.send("GET", root, {}, b"", 30.0)[1])["resources"]:
            if "list" in one["verbs"] and "/" not in one["name"] and one["name"] != "events":
                yield Kind(api, one["name"], one["kind"]), one["namespaced"]
