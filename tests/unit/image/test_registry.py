"""The client against a registry in this process: signing in, sending once, trying again, saying why not."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers_image import FakeRegistry, serving, tiny_image
from shoal.core import limits
from shoal.core.errors import ImageError, RegistryError
from shoal.image.base import from_registry
from shoal.image.blobs import INDEX_TYPE, BlobStore, to_json
from shoal.image.build import push
from shoal.image.compose import Image
from shoal.image.credentials import Credentials
from shoal.image.reference import Reference
from shoal.image.registry import Registry, plain_hosts

Client = Callable[[str], Registry]


@pytest.fixture
def naps() -> list[float]:
    return []


@pytest.fixture
def connect(fake_registry: FakeRegistry, naps: list[float]) -> Client:
    def credentials(host: str) -> Credentials:
        return Credentials(fake_registry.user, "s3cret-passw0rd")

    return lambda host: Registry(host, plain_http=True, credentials=credentials, sleep=naps.append)


@pytest.fixture
def image(store: BlobStore) -> Image:
    return tiny_image(store)


@pytest.fixture
def reference(fake_registry: FakeRegistry) -> Reference:
    return Reference.parse(f"{fake_registry.address}/team/app:1")


def asked(registry: FakeRegistry, method: str) -> int:
    return sum(1 for found, _ in registry.asked if found == method)


@pytest.mark.parametrize("auth", ["", "basic", "bearer"])
def test_an_image_is_pushed_and_is_a_base_elsewhere(
    fake_registry: FakeRegistry, connect: Client, image: Image, reference: Reference, tmp_path: Path, auth: str
) -> None:
    fake_registry.auth = auth
    pushed = push(image, reference, connect=connect)
    assert str(pushed) == f"{fake_registry.address}/team/app@{image.digest}"
    there = BlobStore(tmp_path / "there")
    base = from_registry(pushed, connect(pushed.host), there)
    assert (base.digest, base.name) == (image.digest, str(pushed))
    assert [layer.blob for layer in base.layers] == [made.layer.blob for made in image.layers]
    if auth == "bearer":
        assert set(fake_registry.scopes) == {"repository:team/app:pull,push", "repository:team/app:pull"}


def test_what_is_there_is_not_sent_again(
    fake_registry: FakeRegistry, connect: Client, image: Image, reference: Reference
) -> None:
    push(image, reference, connect=connect)
    sent = asked(fake_registry, "PUT")
    push(image, reference, connect=connect)
    assert asked(fake_registry, "PUT") == sent + 1  # the manifest


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT"])
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_passing_failure_is_tried_again_ever_later(
    fake_registry: FakeRegistry,
    connect: Client,
    image: Image,
    reference: Reference,
    naps: list[float],
    method: str,
    status: int,
) -> None:
    fake_registry.failures = [(method, status)] * 2
    push(image, reference, connect=connect)
    assert naps == [limits.REGISTRY_BACKOFF_SECONDS_MIN, 2 * limits.REGISTRY_BACKOFF_SECONDS_MIN]


def test_an_upload_that_broke_off_starts_anew(
    fake_registry: FakeRegistry, connect: Client, image: Image, reference: Reference
) -> None:
    fake_registry.breaks = 2
    push(image, reference, connect=connect)
    places = [path for method, path in fake_registry.asked if method == "PUT" and "uploads" in path]
    assert len(places) == len(set(places)) == 4


def test_a_failure_that_lasts_ends_the_push(
    fake_registry: FakeRegistry, connect: Client, image: Image, reference: Reference, naps: list[float]
) -> None:
    fake_registry.failures = [("POST", 500)] * 50
    with pytest.raises(RegistryError, match="pushing to team/app: 500 UNKNOWN: told to fail"):
        push(image, reference, connect=connect)
    assert len(naps) == limits.REGISTRY_ATTEMPTS_MAX - 1


def test_a_refusal_is_not_tried_again(
    fake_registry: FakeRegistry, connect: Client, image: Image, reference: Reference, naps: list[float]
) -> None:
    fake_registry.denied = True
    with pytest.raises(RegistryError, match="403 DENIED: requested access to the resource is denied") as caught:
        push(image, reference, connect=connect)
    assert naps == []
    assert caught.value.hint.startswith("ask for the right")


@pytest.mark.parametrize("auth", ["basic", "bearer"])
@pytest.mark.parametrize("known", [None, Credentials("pat", "wrong-passw0rd")])
def test_who_may_not_is_told_how_to_sign_in_and_no_secret_is_shown(
    fake_registry: FakeRegistry, image: Image, reference: Reference, auth: str, known: Credentials | None
) -> None:
    fake_registry.auth = auth
    with pytest.raises(RegistryError, match=r"401 (UNAUTHORIZED|Unauthorized)") as caught:
        push(image, reference, connect=lambda host: Registry(host, plain_http=True, credentials=lambda _: known))
    assert caught.value.hint == f"docker login {fake_registry.address}"
    assert "passw0rd" not in f"{caught.value.message} {caught.value!r} {caught.value.__cause__!r}"


def test_an_unknown_name_is_said(connect: Client, fake_registry: FakeRegistry, store: BlobStore) -> None:
    reference = Reference.parse(f"{fake_registry.address}/no/such:1")
    with pytest.raises(RegistryError, match=r"pulling .*/no/such:1: 404 MANIFEST_UNKNOWN: manifest unknown"):
        from_registry(reference, connect(reference.host), store)


def test_a_registry_that_answers_other_bytes_is_caught(
    fake_registry: FakeRegistry, connect: Client, image: Image, reference: Reference, tmp_path: Path
) -> None:
    pushed = push(image, reference, connect=connect)
    fake_registry.lies = True
    client = connect(pushed.host)
    with pytest.raises(RegistryError, match="with bytes of another digest"):
        from_registry(pushed, client, BlobStore(tmp_path / "there"))
    with pytest.raises(RegistryError, match=r"the blob has the digest sha256:\w+, not"):
        client.download("team/app", image.config, BlobStore(tmp_path / "there"))
    assert list((tmp_path / "there" / "blobs" / "sha256").iterdir()) == []
    with pytest.raises(RegistryError, match=r"stored .* as 'sha256:000"):
        push(image, reference, connect=connect)


def test_a_redirect_to_another_place_does_not_take_the_credentials_along(
    fake_registry: FakeRegistry, connect: Client, image: Image, reference: Reference, tmp_path: Path
) -> None:
    fake_registry.auth = "basic"
    push(image, reference, connect=connect)
    with serving(FakeRegistry(blobs=fake_registry.blobs)) as elsewhere:
        fake_registry.redirect_blobs_to = f"http://{elsewhere.address}/elsewhere"
        there = BlobStore(tmp_path / "there")
        connect(reference.host).download("team/app", image.config, there)
        assert there.has(image.config)
        assert elsewhere.foreign_headers == [""]


def test_redirects_end(
    fake_registry: FakeRegistry, connect: Client, image: Image, reference: Reference, tmp_path: Path
) -> None:
    push(image, reference, connect=connect)
    fake_registry.redirect_blobs_to = f"http://{fake_registry.address}/v2/team/app/blobs/{image.config.digest}"
    with pytest.raises(RegistryError, match="more than 3 redirects"):
        connect(reference.host).download("team/app", image.config, BlobStore(tmp_path / "there"))


def test_the_image_of_this_architecture_is_chosen_from_a_list(
    fake_registry: FakeRegistry, connect: Client, image: Image, reference: Reference, tmp_path: Path
) -> None:
    push(image, reference, connect=connect)
    platforms = [{"os": "linux", "architecture": "s390x"}, {"os": "linux", "architecture": "amd64"}]
    entries = [{**image.manifest.document(), "platform": platform} for platform in platforms]
    fake_registry.manifests["team/app/many"] = (INDEX_TYPE, to_json({"manifests": entries}))
    fake_registry.manifests["team/app/none"] = (INDEX_TYPE, to_json({"manifests": entries[:1]}))
    client, there = connect(reference.host), BlobStore(tmp_path / "there")
    many, none = (Reference(reference.host, "team/app", tag) for tag in ("many", "none"))
    assert from_registry(many, client, there).digest == image.digest
    with pytest.raises(ImageError, match="has no image for linux/amd64; it has linux/s390x"):
        from_registry(none, client, there)


def test_a_registry_that_is_not_there_is_said(image: Image, naps: list[float]) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{bound.getsockname()[1]}"
        client = Registry(host, plain_http=True, credentials=lambda _: None, sleep=naps.append)
        with pytest.raises(RegistryError, match=f"registry {host}: the connection was refused"):
            client.has_blob("a", image.config)
    assert len(naps) == limits.REGISTRY_ATTEMPTS_MAX - 1


def test_plain_http_where_tls_was_meant_is_said_at_once(fake_registry: FakeRegistry, image: Image) -> None:
    client = Registry(fake_registry.address, credentials=lambda _: None)
    with pytest.raises(RegistryError, match="does not speak TLS") as caught:
        client.has_blob("a", image.config)
    assert caught.value.hint.endswith(f"--plain-http {fake_registry.address}")


def test_hosts_without_tls_are_named(fake_registry: FakeRegistry) -> None:
    assert plain_hosts({"SHOAL_PLAIN_HTTP": " a:5000, b ,,"}) == {"a:5000", "b"}
    assert plain_hosts({}) == frozenset()


def test_a_manifest_type_that_is_no_image_is_refused(
    fake_registry: FakeRegistry, connect: Client, store: BlobStore
) -> None:
    fake_registry.manifests["team/app/1"] = ("application/json", to_json({"schemaVersion": 1}))
    reference = Reference.parse(f"{fake_registry.address}/team/app:1")
    with pytest.raises(ImageError, match="is 'application/json', not an image"):
        from_registry(reference, connect(reference.host), store)
