"""What a cluster alone can show: manifests its API takes, other tools beside shoal, one reason for each failure."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import helpers_cluster
from helpers_cluster import MANAGER
from helpers_functions import deploy, until, write_function
from shoal.core.errors import ConflictError, DeployError, ForbiddenError, NotRunningError, ShoalError, UsageError
from shoal.platform.knative import objects, split, waiting
from shoal.platform.knative.adapter import KnativePlatform
from shoal.platform.knative.client import KubernetesCluster
from shoal.platform.knative.objects import Kind, Object, name_of
from shoal.platform.knative.supply import Registries
from shoal.platform.port import Target
from shoal.spec.function import FunctionSpec

pytestmark = pytest.mark.cluster

GOLDEN = Path(__file__).parents[1] / "golden" / "knative"
REASON_SECONDS_MAX = 60.0  # from a failing deployment's ready stage to its reason
QUOTA = Kind("v1", "resourcequotas", "ResourceQuota")
ACCOUNT = Kind("v1", "serviceaccounts", "ServiceAccount")
ROLE = Kind("rbac.authorization.k8s.io/v1", "roles", "Role")
BINDING = Kind("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding")
CODE = "from shoal import http\n\nVERSION = {version}\n\n@http\ndef f():\n    return {{'version': VERSION}}\n"
IN_CLUSTER = "import os\nfrom shoal import http\nif os.environ.get('KUBERNETES_SERVICE_HOST'):\n    {line}\n"
HANDLER = "@http\ndef f():\n    return {}\n"

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def platform() -> Iterator[KnativePlatform]:
    with helpers_cluster.platform("knative") as found:
        yield found


@pytest.fixture
def write(platform: KnativePlatform, tmp_path: Path) -> Iterator[Write]:
    """Write a function of a name nobody uses; it is gone when the test is over."""
    made: set[str] = set()

    def folder(code: str = CODE.format(version=1), *, config: str = "", name: str = "") -> Path:
        name = name or f"k-{uuid.uuid4().hex[:10]}"
        made.add(name)
        return write_function(tmp_path / name, code, config=config)

    yield folder
    for name in made:
        platform.cluster.delete(objects.SERVICE, name)


class OneImage(Registries):
    """Deploys an image that is there already, or is not."""

    def __init__(self, platform: KnativePlatform, image: str) -> None:
        super().__init__(platform.settings)
        self._image = image

    def image(self, folder: Path, spec: FunctionSpec, note: Callable[[str], None]) -> str:
        return self._image


def service_of(platform: KnativePlatform, name: str) -> Object:
    return platform.cluster.get(objects.SERVICE, name)


def fails(platform: KnativePlatform, folder: Path) -> ShoalError:
    """Deploy, which must fail within a minute of real time with one sentence and leave nothing; give the error."""
    begun = time.monotonic()
    with pytest.raises(ShoalError) as raised:
        deploy(platform, folder)
    assert time.monotonic() - begun < REASON_SECONDS_MAX
    assert "\n" not in raised.value.message
    assert platform.cluster.where in raised.value.message
    return raised.value


# Manifests.


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_api_takes_the_reviewed_manifests(platform: KnativePlatform, path: Path) -> None:
    kinds = {kind.name: kind for kind in (objects.SERVICE, objects.TRIGGER)}
    for document in yaml.safe_load_all(path.read_text()):
        taken = platform.cluster.apply(kinds[document["kind"]], document, MANAGER, dry=True)
        assert name_of(taken) == name_of(document)


def test_what_is_applied_again_changes_nothing(platform: KnativePlatform, write: Write) -> None:
    deploy(platform, folder := write(config="triggers: [{filter: {type: com.example.none}}]\n"))
    before = service_of(platform, folder.name)
    deploy(platform, folder)
    after = service_of(platform, folder.name)
    assert before["metadata"]["generation"] == after["metadata"]["generation"]
    assert before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]


def test_each_manager_owns_its_part(platform: KnativePlatform, write: Write) -> None:
    deploy(platform, folder := write())
    fields = {
        entry["manager"]: entry["fieldsV1"].get("f:spec", {})
        for entry in service_of(platform, folder.name)["metadata"]["managedFields"]
        if entry["operation"] == "Apply"
    }
    assert set(fields[objects.TEMPLATE_MANAGER]) == {"f:template"}
    assert set(fields[objects.TRAFFIC_MANAGER]) == {"f:traffic"}


def test_settings_come_from_config_maps_and_secrets_by_name(platform: KnativePlatform, write: Write) -> None:
    name = f"s-{uuid.uuid4().hex[:8]}"
    secret = Kind("v1", "secrets", "Secret")
    platform.cluster.apply(objects.CONFIG_MAP, {"metadata": {"name": name}, "data": {"COLOUR": "green"}}, MANAGER)
    platform.cluster.apply(secret, {"metadata": {"name": name}, "stringData": {"TOKEN": "hidden-word"}}, MANAGER)
    code = (
        "import os\nfrom shoal import http\n@http\ndef f():\n    return os.getenv('COLOUR') + os.getenv('TOKEN')\n"
    )
    deploy(platform, folder := write(code, config=f"envFrom: [{{configMap: {name}}}, {{secret: {name}}}]\n"))
    assert platform.invoke(folder.name).body == b"greenhidden-word"
    assert "hidden-word" not in json.dumps(service_of(platform, folder.name))


def test_triggers_follow_the_function(platform: KnativePlatform, write: Write) -> None:
    def types(name: str) -> list[str]:
        found = platform.cluster.list(objects.TRIGGER, labels=f"{objects.FUNCTION}={name}")
        return sorted(one["spec"]["filter"]["attributes"]["type"] for one in found)

    config = "triggers: [{{filter: {{type: {one}}}}}, {{filter: {{type: {other}}}}}]\n"
    deploy(platform, folder := write(config=config.format(one="a", other="b")))
    assert types(folder.name) == ["a", "b"]
    write(config=config.format(one="b", other="c"), name=folder.name)
    deploy(platform, folder)
    assert types(folder.name) == ["b", "c"]
    platform.rollback(folder.name)
    assert types(folder.name) == ["a", "b"]
    platform.delete(folder.name)
    assert types(folder.name) == []


def test_an_event_nobody_takes_goes_to_the_brokers_dead_letter_sink(
    platform: KnativePlatform, write: Write
) -> None:
    kind = f"com.example.{uuid.uuid4().hex}"
    recorder = """
        from shoal import CloudEvent, event, http

        seen = []

        @event
        async def take(incoming: CloudEvent) -> None:
            seen.append([incoming.id, str(incoming.attributes.get("knativeerrorcode"))])

        @http
        def dead():
            return seen
    """
    failing = f"""
        from shoal import event

        @event(type="{kind}")
        async def take(data: bytes) -> None:
            raise ValueError("never")
    """
    deploy(platform, letters := write(recorder, config="scale: {min: 1, max: 1}\ntriggers: []\n"))
    broker = f"b-{uuid.uuid4().hex[:8]}"
    sink = {"ref": {"apiVersion": objects.SERVICE.api, "kind": "Service", "name": letters.name}}
    item = {"metadata": {"name": broker}, "spec": {"delivery": {"deadLetterSink": sink}}}
    platform.cluster.apply(objects.BROKER, item, MANAGER)
    until(lambda: objects.condition(platform.cluster.get(objects.BROKER, broker)).true, "the broker")
    delivery = "delivery: {retry: 1, backoffDelay: 50ms}"
    deploy(
        platform, write(failing, config=f"triggers: [{{broker: {broker}, filter: {{type: {kind}}}, {delivery}}}]\n")
    )
    headers = {"ce-specversion": "1.0", "ce-type": kind, "ce-source": "/test", "ce-id": "1"}
    platform.publish({**headers, "content-type": "text/plain"}, b"x", broker=broker)
    dead = until(lambda: json.loads(platform.invoke(letters.name, method="GET").body), "the dead letter")
    assert dead == [["1", "500"]]


# Interrupted, and beside other tools.


@pytest.mark.parametrize("stages", range(1, 8))
def test_an_interrupted_second_deployment_takes_no_traffic_and_is_finished_by_the_next(
    platform: KnativePlatform, write: Write, stages: int
) -> None:
    first = deploy(platform, folder := write())
    write(CODE.format(version=2), name=folder.name)
    progress = platform.deploy(folder)
    for _ in range(stages):
        next(progress)
    progress.close()  # type: ignore[attr-defined]
    assert platform.function(folder.name).traffic == (Target(first.revision, 100),)
    second = deploy(platform, folder)
    assert [one.name for one in platform.function(folder.name).revisions] == [second.revision, first.revision]
    assert json.loads(platform.invoke(folder.name).body) == {"version": 2}


def test_a_first_deployment_left_before_its_split_is_pinned_by_the_next(
    platform: KnativePlatform, write: Write
) -> None:
    progress = platform.deploy(folder := write())
    while (stage := next(progress)) and getattr(stage, "name", "") != "traffic":
        pass
    progress.close()  # type: ignore[attr-defined]
    assert split.follows_latest(service_of(platform, folder.name))
    write(CODE.format(version=2), name=folder.name)
    until(lambda: platform.function(folder.name).ready, "the first revision")
    deploy(platform, folder, traffic=False)
    assert platform.function(folder.name).traffic == (Target(f"{folder.name}-00001", 100),)


def test_another_tools_hold_on_the_traffic_is_told_by_its_name(platform: KnativePlatform, write: Write) -> None:
    first = deploy(platform, folder := write())
    write(CODE.format(version=2), name=folder.name)
    second = deploy(platform, folder, traffic=False)
    foreign = {"metadata": {"name": folder.name}, "spec": {"traffic": [split.entry(Target(first.revision, 100))]}}
    foreign["spec"]["traffic"][0]["tag"] = "theirs"
    platform.cluster.apply(objects.SERVICE, foreign, "other-tool", force=True)
    with pytest.raises(ConflictError, match=r"'other-tool' holds spec\.traffic"):
        platform.set_traffic(folder.name, [Target(second.revision, 100)])


def test_a_service_somebody_else_made_is_left_alone(platform: KnativePlatform, write: Write) -> None:
    folder = write()
    container = {"image": f"registry.example.com/none@sha256:{'0' * 64}"}
    theirs = {"metadata": {"name": folder.name}, "spec": {"template": {"spec": {"containers": [container]}}}}
    platform.cluster.apply(objects.SERVICE, theirs, "other-tool")
    error = fails(platform, folder)
    assert isinstance(error, ConflictError)
    assert "was not made by shoal" in error.message
    assert service_of(platform, folder.name)["spec"]["template"]["spec"]["containers"][0]["image"].startswith(
        "registry"
    )


# One reason.


def test_an_image_that_is_not_there(platform: KnativePlatform, write: Write) -> None:
    image = f"{platform.settings.pull}/nobody/nothing@sha256:{'0' * 64}"
    broken = KnativePlatform(platform.settings, cluster=platform.cluster, supply=OneImage(platform, image))
    assert "the image cannot be pulled: it is not in the registry" in fails(broken, write()).message


STARTS = {
    "crash": ("raise ValueError('no such setting')", "", "ValueError: no such setting"),
    "exit": ("os._exit(7)", "", "code 7"),
    "config map": ("pass", "envFrom: [{configMap: not-there}]\n", "the configmap 'not-there', which is not there"),
    "no node": ("pass", 'resources: {cpu: "900", cpuMax: "900"}\n', "no node takes the pod"),
    "no port": ("import time; time.sleep(3600)", "", "does not get ready on its port"),
}


@pytest.mark.parametrize("kind", STARTS)
def test_what_keeps_a_revision_from_starting(platform: KnativePlatform, write: Write, kind: str) -> None:
    line, config, text = STARTS[kind]
    folder = write(IN_CLUSTER.format(line=line) + HANDLER, config=config)
    assert text in fails(platform, folder).message
    assert folder.name not in [one.name for one in platform.functions()]


def test_a_quota_that_leaves_no_room(write: Write) -> None:
    with helpers_cluster.namespace("knative-quota") as name:
        platform = KnativePlatform(helpers_cluster.settings(name))
        platform.cluster.apply(
            QUOTA, {"metadata": {"name": "small"}, "spec": {"hard": {"limits.cpu": "1"}}}, MANAGER
        )
        error = fails(platform, write())
        assert "quota leaves no room: small" in error.message


def test_a_webhook_that_refuses(platform: KnativePlatform, write: Write) -> None:
    image = f"registry.example.com/Not-A-Name@sha256:{'0' * 64}"
    broken = KnativePlatform(platform.settings, cluster=platform.cluster, supply=OneImage(platform, image))
    message = fails(broken, write()).message
    assert "the cluster refuses services/" in message
    assert "(webhook validation.webhook.serving.knative.dev)" in message


def test_a_broker_that_is_not_there(platform: KnativePlatform, write: Write) -> None:
    error = fails(platform, write(config="triggers: [{broker: nobody}]\n"))
    assert isinstance(error, DeployError)
    assert "there is no broker 'nobody'" in error.message


def test_a_namespace_that_is_not_there(write: Write) -> None:
    platform = KnativePlatform(helpers_cluster.settings(f"knative-none-{uuid.uuid4().hex[:6]}"))
    assert "there is no namespace" in fails(platform, write()).message


def test_a_cluster_that_does_not_answer(platform: KnativePlatform, tmp_path: Path, monkeypatch: Any) -> None:
    nowhere = {"name": "nowhere", "cluster": {"server": "http://127.0.0.1:9"}}
    context = {"name": "nowhere", "context": {"cluster": "nowhere", "user": "me", "namespace": "x"}}
    config = {"clusters": [nowhere], "contexts": [context], "users": [{"name": "me", "user": {}}]}
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "nowhere", **config}))
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(NotRunningError, match=r"does not answer: connection refused .*context 'nowhere'"):
        KnativePlatform(replace(platform.settings, namespace="")).functions()
    with pytest.raises(UsageError, match="no context 'elsewhere'; it has nowhere"):
        KnativePlatform(replace(platform.settings, context="elsewhere")).functions()


def test_a_missing_permission_names_its_verb(platform: KnativePlatform, tmp_path: Path, monkeypatch: Any) -> None:
    reader = account_config(platform.cluster, tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(reader))
    limited = KnativePlatform(replace(platform.settings, context=""))
    folder = write_function(tmp_path / f"k-{uuid.uuid4().hex[:10]}", CODE.format(version=1))
    with pytest.raises(ForbiddenError, match=r"may not patch services\.serving\.knative\.dev") as raised:
        deploy(limited, folder)
    assert raised.value.hint == "kubectl auth can-i patch services.serving.knative.dev"


def account_config(cluster: Any, folder: Path) -> Path:
    """Make an account that may read and not write, and a kubeconfig for it."""
    assert isinstance(cluster, KubernetesCluster)
    name = f"reader-{uuid.uuid4().hex[:8]}"
    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]
    subject = {"kind": "ServiceAccount", "name": name, "namespace": cluster.namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    cluster.apply(ACCOUNT, {"metadata": {"name": name}}, MANAGER)
    cluster.apply(ROLE, {"metadata": {"name": name}, "rules": rules}, MANAGER)
    cluster.apply(BINDING, {"metadata": {"name": name}, "subjects": [subject], "roleRef": role}, MANAGER)
    path = f"{ACCOUNT.path(cluster.namespace, name)}/token"
    asked = json.dumps({"spec": {"expirationSeconds": 600}}).encode()
    status, answer = cluster.send("POST", path, {"Content-Type": "application/json"}, asked, 30.0)
    assert status == 201, answer
    return _with_token(folder / "reader", cluster, json.loads(answer)["status"]["token"])


def _with_token(file: Path, cluster: KubernetesCluster, token: str) -> Path:
    import os

    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    config["users"] = [{"name": "reader", "user": {"token": token}}]
    for context in config["contexts"]:
        context["context"] |= {"user": "reader", "namespace": cluster.namespace}
    file.write_text(yaml.safe_dump(config))
    return file


# Deleting.


def test_delete_leaves_no_object_of_the_function(platform: KnativePlatform, write: Write) -> None:
    deploy(platform, folder := write(config="triggers: [{filter: {type: a}}]\n"))
    platform.delete(folder.name)
    kinds = (
        objects.SERVICE,
        objects.REVISION,
        objects.ROUTE,
        objects.CONFIGURATION,
        objects.DEPLOYMENT,
        objects.TRIGGER,
    )
    left = [
        f"{kind.plural}/{name_of(item)}"
        for kind in kinds
        for item in platform.cluster.list(kind)
        if name_of(item).startswith(folder.name)
    ]
    assert left == []
    waiting.gone(platform.cluster, folder.name, platform._clock)
