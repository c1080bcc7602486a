"""Model versions in a registry: what goes in comes out, and nothing else does."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from shoal.core.errors import ModelFaultError
from shoal.models.repository import ModelRepository
from shoal.pool.cluster_models import EMPTY, Artifact, Puller, artifact, pull_all, read_manifest, reference
from shoal.pool.cluster_registry import Login

CONFIG = """\
backend: "onnxruntime"
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
dynamic_batching { default_queue_policy {
  default_timeout_microseconds: 1000000 allow_timeout_override: true max_queue_size: 8 } }
"""


@dataclass
class FakeRegistry:
    """The two calls a puller makes, over real HTTP; ``spoil`` may change any answer's bytes."""

    artifacts: dict[str, Artifact] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    spoil: Callable[[str, bytes], bytes] = lambda path, body: body
    asked: list[str] = field(default_factory=list)
    guard: str = ""  # "basic" or "bearer": it asks who is there
    url: str = ""

    def push(self, one: Artifact) -> None:
        self.artifacts[f"/v2/{one.repository}/manifests/{one.tag}"] = one
        self.blobs |= {digest: path.read_bytes() for digest, path in one.files.items()}

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        given = request.headers.get("Authorization", "")
        if request.path == "/token":
            allowed = given == f"Basic {BASIC}" and request.query["scope"] == "repository:models/small:pull"
            return web.json_response({"token": "t0"}) if allowed else web.Response(status=401)
        bearer = f'Bearer realm="{self.url}/token",service="r",scope="repository:models/small:pull"'
        wanted = {"basic": f"Basic {BASIC}", "bearer": "Bearer t0"}
        if self.guard and given != wanted[self.guard]:
            challenge = {"basic": 'Basic realm="r"', "bearer": bearer}[self.guard]
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        if request.path in self.artifacts:
            return web.Response(body=self.spoil(request.path, self.artifacts[request.path].manifest))
        digest = request.path.rpartition("/")[2]
        if digest in self.blobs:
            return web.Response(body=self.spoil(request.path, self.blobs[digest]))
        return web.Response(status=404)


@asynccontextmanager
async def serving(registry: FakeRegistry) -> AsyncIterator[FakeRegistry]:
    app = web.Application()
    app.router.add_get("/{path:.*}", registry.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server
    registry.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    try:
        yield registry
    finally:
        await runner.cleanup()


def a_version(root: Path, weights: bytes = b"weights") -> Path:
    model = root / "repo" / "small"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG)
    (model / "1" / "model.onnx").write_bytes(weights)
    version = ModelRepository(root / "repo", root / "cache").materialise("small", root / "versions")
    return root / "versions" / version.name


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_what_is_pushed_is_pulled_byte_for_byte_and_once(tmp_path: Path) -> None:
    folder = a_version(tmp_path)
    async with serving(FakeRegistry()) as registry:
        registry.push(artifact(folder))
        puller = Puller(registry.url, tmp_path / "models")
        await puller.pull(folder.name)
        asked = len(registry.asked)
        await puller.pull(folder.name)
    assert files_of(tmp_path / "models" / folder.name) == files_of(folder)
    assert len(registry.asked) == asked
    assert puller.held() == [folder.name]


def test_the_same_version_is_the_same_artifact(tmp_path: Path) -> None:
    one, two = artifact(a_version(tmp_path / "a")), artifact(a_version(tmp_path / "b"))
    assert one.manifest == two.manifest
    assert json.loads(one.manifest)["config"]["digest"] == f"sha256:{hashlib.sha256(EMPTY).hexdigest()}"


@pytest.mark.parametrize(
    ("version", "place"),
    [
        ("magika--0123456789ab", ("models/magika", "0123456789ab")),
        ("Magika_v3.3--0123456789ab", ("models/magika-v3-3", "0123456789ab")),
    ],
)
def test_a_repository_is_named_as_registries_allow(version: str, place: tuple[str, str]) -> None:
    assert reference(version) == place


def cut(path: str, body: bytes) -> bytes:
    return body if "manifests" in path else body[:-1]


def more(path: str, body: bytes) -> bytes:
    return body if "manifests" in path else body + b"!"


def other(path: str, body: bytes) -> bytes:
    return body if "manifests" in path else body[:-1] + b"!"


def no_json(path: str, body: bytes) -> bytes:
    return b"<html>" if "manifests" in path else body


async def test_a_registry_may_have_a_path(tmp_path: Path) -> None:
    folder = a_version(tmp_path)
    described = artifact(folder)
    async with serving(FakeRegistry()) as registry:
        registry.push(replace(described, repository=f"team/shoal/{described.repository}"))
        await Puller(f"{registry.url}/team/shoal/", tmp_path / "models").pull(folder.name)
    assert files_of(tmp_path / "models" / folder.name) == files_of(folder)


@pytest.mark.parametrize("spoil", [cut, more, other, no_json])
async def test_bytes_that_are_not_the_version_leave_nothing_behind(
    tmp_path: Path, spoil: Callable[[str, bytes], bytes]
) -> None:
    folder = a_version(tmp_path)
    async with serving(FakeRegistry(spoil=spoil)) as registry:
        registry.push(artifact(folder))
        with pytest.raises(ModelFaultError, match=folder.name):
            await Puller(registry.url, tmp_path / "models").pull(folder.name)
    assert list((tmp_path / "models").iterdir()) == []


async def test_another_model_under_a_leased_name_is_refused(tmp_path: Path) -> None:
    """A registry whose every digest is right, and whose tag is a lie."""
    folder, evil = a_version(tmp_path / "a"), a_version(tmp_path / "b", b"other weights")
    lie = artifact(evil)
    async with serving(FakeRegistry()) as registry:
        registry.push(lie)
        registry.artifacts[f"/v2/models/small/manifests/{folder.name.partition('--')[2]}"] = lie
        with pytest.raises(ModelFaultError, match=f"under this name is {evil.name}"):
            await Puller(registry.url, tmp_path / "models").pull(folder.name)
    assert list((tmp_path / "models").iterdir()) == []


async def test_a_version_nobody_pushed_and_a_registry_that_is_not_there(tmp_path: Path) -> None:
    async with serving(FakeRegistry()) as registry:
        puller = Puller(registry.url, tmp_path / "models")
        with pytest.raises(ModelFaultError, match="is not in the registry"):
            await puller.pull("small--0123456789ab")
    with pytest.raises(ModelFaultError, match="does not give it"):
        await puller.pull("small--0123456789ab")


async def test_one_that_fails_does_not_keep_others_away(tmp_path: Path) -> None:
    folder = a_version(tmp_path)
    async with serving(FakeRegistry()) as registry:
        registry.push(artifact(folder))
        puller = Puller(registry.url, tmp_path / "models")
        failed = await pull_all(frozenset({"absent--0123456789ab", folder.name}), puller.pull)
    assert list(failed) == ["absent--0123456789ab"]
    assert puller.held() == [folder.name]


def config_file(folder: Path, url: str, **entry: str) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({"auths": {url.partition("//")[2]: entry}}))
    return path


BASIC = base64.b64encode(b"me:secret").decode()


@pytest.mark.parametrize("entry", [{"auth": BASIC}, {"username": "me", "password": "secret"}])
@pytest.mark.parametrize("scheme", ["basic", "bearer"])
async def test_it_signs_in_as_the_registry_asks(tmp_path: Path, scheme: str, entry: dict[str, str]) -> None:
    folder = a_version(tmp_path)
    async with serving(FakeRegistry(guard=scheme)) as registry:
        registry.push(artifact(folder))
        file = config_file(tmp_path, registry.url, **entry)
        await Puller(registry.url, tmp_path / "models", credentials=file).pull(folder.name)
    assert files_of(tmp_path / "models" / folder.name) == files_of(folder)


@pytest.mark.parametrize(("scheme", "told"), [("basic", "asks for credentials"), ("bearer", "gives no token: 401")])
async def test_without_credentials_it_says_what_is_missing(tmp_path: Path, scheme: str, told: str) -> None:
    folder = a_version(tmp_path)
    async with serving(FakeRegistry(guard=scheme)) as registry:
        registry.push(artifact(folder))
        with pytest.raises(ModelFaultError, match=told):
            await Puller(registry.url, tmp_path / "models", credentials=tmp_path / "absent").pull(folder.name)


async def test_credentials_are_not_sent_to_a_plain_address_a_tls_registry_names(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ModelFaultError, match="no TLS address"):
            await Login(BASIC).answer(session, "https://r.example.com", 'Bearer realm="http://evil.example.com/t"')


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"auths": {"r.example.com": {"auth": "%%%"}}}', '{"auths": 1}'])
def test_credentials_that_cannot_be_read_are_told_without_their_text(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ModelFaultError, match="no docker configuration") as raised:
        Login.of("https://r.example.com", file)
    assert "%%%" not in raised.value.message


def manifest(**changes: Any) -> bytes:
    layer = {"digest": f"sha256:{'0' * 64}", "size": 1, "annotations": {"org.opencontainers.image.title": "1/a"}}
    return json.dumps({"layers": [layer | changes]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"layers": []}',
        b'{"layers": [1]}',
        manifest(digest="sha256:../../x"),
        manifest(digest=f"sha512:{'0' * 64}"),
        manifest(size=-1),
        manifest(size="1"),
        manifest(size=2**60),
        manifest(annotations={}),
        *(
            manifest(annotations={"org.opencontainers.image.title": place})
            for place in ("/etc/passwd", "../x", "1/../../x", "", ".", "1//a")
        ),
    ],
)
def test_a_manifest_that_is_none_or_leads_outside_is_refused(body: bytes) -> None:
    with pytest.raises(ModelFaultError):
        read_manifest("small--0123456789ab", body)


def test_files_of_old_versions_go_the_oldest_first(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"m--00000000000{number}").mkdir()
    puller = Puller("http://127.0.0.1:1", tmp_path)
    held = puller.held()
    gone = puller.forget(frozenset({held[0]}), keep=2)
    assert gone == held[1:4]
    assert puller.held() == [held[0], *held[4:]]
