"""Images as a cluster sees them: a real base, a real registry, a real node that pulls and starts them.

SHOAL_REGISTRY is where images are pushed, SHOAL_REGISTRY_PULL how pods name it, SHOAL_GATEWAY the front door.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from helpers_image import layer_contents
from helpers_process import PATIENCE_S
from shoal.core.errors import RegistryError
from shoal.core.packages import cache_folder
from shoal.image.base import connect, resolve
from shoal.image.blobs import BlobStore
from shoal.image.build import build, push
from shoal.image.compose import Base, Image
from shoal.image.reference import Reference
from shoal.spec.function import load

FUNCTIONS = Path(__file__).resolve().parents[2] / "functions"
REGISTRY = os.environ.get("SHOAL_REGISTRY", "")
PULL = os.environ.get("SHOAL_REGISTRY_PULL", "") or REGISTRY
GATEWAY = os.environ.get("SHOAL_GATEWAY", "")
HELLO_BYTES_MAX = 60_000_000  # compressed

pytestmark = pytest.mark.cluster

WITNESS = """
import json, os
from pathlib import Path
from shoal import http

@http
def look() -> dict:
    try:
        Path("/app/written").write_text("x")
        wrote = "yes"
    except OSError as error:
        wrote = error.strerror
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
    return {"uid": os.getuid(), "gid": os.getgid(), "wrote": wrote, "capabilities": status["CapEff"].strip()}
"""


@pytest.fixture(scope="module")
def kubectl() -> Callable[..., str]:
    """Run kubectl; the tests are skipped where there is no cluster to run it against."""
    if not (os.environ.get("KUBECONFIG") and REGISTRY and GATEWAY):
        pytest.skip("KUBECONFIG, SHOAL_REGISTRY and SHOAL_GATEWAY are not all set")

    def run(*arguments: str, given: str | None = None) -> str:
        done = subprocess.run(
            ["kubectl", *arguments], input=given, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        run("version", "--request-timeout=20s")
    except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the cluster does not answer: {error}")
    return run


@pytest.fixture(scope="module")
def open_registry() -> Callable[..., Any]:
    return connect(frozenset({REGISTRY}))


@pytest.fixture(scope="module")
def base(kubectl: Callable[..., str], open_registry: Callable[..., Any]) -> Base:
    return resolve(os.environ.get("SHOAL_BASE") or "debian", BlobStore(cache_folder() / "images"), open_registry)


@pytest.fixture(scope="module")
def namespace(kubectl: Callable[..., str]) -> Iterator[str]:
    """A namespace that lets in only what is restricted."""
    name = f"image-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def made(folder: Path, base: Base, cache: Path | None = None) -> Image:
    return build(folder, load(folder), base=base, cache=cache or cache_folder())


def pushed(image: Image, name: str, open_registry: Callable[..., Any]) -> str:
    """Push an image; give it as a pod names it."""
    reference = push(image, Reference.parse(f"{REGISTRY}/image-tests/{name}:1"), connect=open_registry)
    return str(reference).replace(f"{REGISTRY}/", f"{PULL}/", 1)


def service(name: str, image: str) -> str:
    restricted = {
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "image": image,
        "securityContext": restricted,
        "readinessProbe": {"httpGet": {"path": "/_shoal/ready"}},
    }
    document = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"template": {"spec": {"timeoutSeconds": 60, "containers": [container]}}},
    }
    return json.dumps(document)


def ask(name: str, namespace: str, body: bytes = b"{}") -> tuple[int, Any]:
    """Call a function through the front door until it is routed there."""
    address = urlsplit(GATEWAY).netloc
    domain = os.environ.get("SHOAL_DOMAIN", "shoal.test")
    headers = {"host": f"{name}.{namespace}.{domain}", "content-type": "application/json"}
    end = time.monotonic() + PATIENCE_S
    while True:
        connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
        connection.request("POST", "/", body=body, headers=headers)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        if response.status == 200 or time.monotonic() > end:
            return response.status, json.loads(data) if response.status == 200 else data
        time.sleep(0.2)


def run_service(kubectl: Callable[..., str], namespace: str, name: str, image: str) -> None:
    kubectl("-n", namespace, "apply", "-f", "-", given=service(name, image))
    kubectl("-n", namespace, "wait", "--for=condition=Ready", f"ksvc/{name}", f"--timeout={PATIENCE_S:g}s")


def started_after_s(kubectl: Callable[..., str], namespace: str, name: str) -> float:
    """Seconds from the container's start to the pod being ready, as the node saw them (whole seconds)."""
    selector = f"serving.knative.dev/service={name}"
    (pod, *_) = json.loads(kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json"))["items"]
    statuses = {status["name"]: status for status in pod["status"]["containerStatuses"]}
    start = statuses["user-container"]["state"]["running"]["startedAt"]
    ready = next(item for item in pod["status"]["conditions"] if item["type"] == "Ready")["lastTransitionTime"]
    return (datetime.fromisoformat(ready) - datetime.fromisoformat(start)).total_seconds()


def test_hello_is_small_and_filetype_little_more(
    base: Base, record_property: Callable[[str, object], None]
) -> None:
    hello, filetype = made(FUNCTIONS / "hello", base), made(FUNCTIONS / "filetype", base)
    print(f"\nhello {hello.size / 1e6:.1f} MB, filetype {filetype.size / 1e6:.1f} MB, compressed")
    record_property("hello_bytes", hello.size)
    assert hello.size <= HELLO_BYTES_MAX
    assert filetype.size <= hello.size * 1.1
    shared = {made.layer.blob.digest for made in hello.layers} & {
        made.layer.blob.digest for made in filetype.layers
    }
    assert len(shared) == len(hello.layers) - 1


def test_an_example_function_answers_as_a_knative_service(
    kubectl: Callable[..., str], namespace: str, base: Base, open_registry: Callable[..., Any]
) -> None:
    name = pushed(made(FUNCTIONS / "hello", base), "hello", open_registry)
    run_service(kubectl, namespace, "hello", name)
    assert ask("hello", namespace, b'{"name": "image"}') == (200, {"text": "Hello, image!"})
    seconds = started_after_s(kubectl, namespace, "hello")
    print(f"\nfrom the container's start to ready: {seconds:.0f} s, in whole seconds")


def test_it_runs_as_nobody_without_capabilities_on_a_file_system_it_cannot_write(
    kubectl: Callable[..., str], namespace: str, base: Base, open_registry: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "witness"
    folder.mkdir()
    (folder / "handler.py").write_text(WITNESS)
    run_service(kubectl, namespace, "witness", pushed(made(folder, base), "witness", open_registry))
    expected = {"uid": 65532, "gid": 65532, "wrote": "Read-only file system", "capabilities": "0" * 16}
    assert ask("witness", namespace) == (200, expected)


def test_real_dependencies_give_the_same_image_in_another_process_path_zone_and_cache(
    base: Base, tmp_path: Path
) -> None:
    first = made(FUNCTIONS / "hello", base)
    other = tmp_path / "deep" / "hello"
    other.mkdir(parents=True)
    for file in (FUNCTIONS / "hello").iterdir():
        if file.is_file():
            (other / file.name).write_bytes(file.read_bytes())
    layout = tmp_path / "base"
    _save_base(first, base, layout)
    command = [
        sys.executable,
        "-m",
        "shoal.image",
        str(other),
        "--base",
        str(layout),
        "--cache",
        str(tmp_path / "c"),
    ]
    environment = {**os.environ, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "3", "LC_ALL": "C"}
    done = subprocess.run(
        ["sh", "-c", 'umask 077; exec "$@"', "sh", *command],
        env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == first.digest, done.stderr


def _save_base(image: Image, base: Base, folder: Path) -> None:
    """Write the base that an image was made on as a layout."""
    store = image.store
    blobs = BlobStore(folder)
    manifest = store.read(base.digest, 2**22)
    document = json.loads(manifest)
    for entry in [document["config"], *document["layers"]]:
        with blobs.adding() as file:
            file.write(store.path(entry["digest"]).read_bytes())
    kept = blobs.add_bytes(manifest, document["mediaType"])
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [kept.document()]}))


def test_no_layer_of_a_real_image_names_this_machine(base: Base) -> None:
    image = made(FUNCTIONS / "hello", base)
    wanted = [str(FUNCTIONS.parent), sys.prefix, str(cache_folder()), str(Path.home()) + "/"]
    for item in image.layers:
        for member, data in layer_contents(image.store, item.layer.blob.digest):
            found = [text for text in wanted if text not in ("/", "/root/") and text.encode() in data]
            assert (member.name, found) == (member.name, [])
            assert not member.mode & 0o6000
            assert not member.isdev()


def test_pushing_again_sends_nothing_and_pulling_gives_the_same(
    base: Base, open_registry: Callable[..., Any], tmp_path: Path
) -> None:
    image = made(FUNCTIONS / "hello", base)
    reference = Reference.parse(f"{REGISTRY}/image-tests/hello:1")
    push(image, reference, connect=open_registry)
    steps: list[str] = []
    exact = push(image, reference, connect=open_registry, report=lambda step: steps.append(step.detail))
    assert steps[-1].startswith("0 of 5 blobs sent")
    pulled = resolve(f"oci://{exact}", BlobStore(tmp_path / "there"), open_registry)
    assert (pulled.digest, pulled.python) == (image.digest, base.python)


def test_the_real_registrys_no_is_one_sentence(
    base: Base, open_registry: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(RegistryError, match=r"pulling .*/image-tests/absent:1: 404 (MANIFEST|NAME)_UNKNOWN"):
        resolve(f"{REGISTRY}/image-tests/absent:1", BlobStore(tmp_path), open_registry)
