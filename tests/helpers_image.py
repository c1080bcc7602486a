"""For tests of images: a base made of one file, wheels made here, a registry in this process."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import sys
import tarfile
import threading
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from shoal.image.base import read
from shoal.image.blobs import Blob, BlobStore
from shoal.image.compose import Base, Image, Made, Run, compose
from shoal.image.layer import Entry, write_layer

PYTHON = sys.version_info[:2]
PYTHON_FILE = f"usr/bin/python{PYTHON[0]}.{PYTHON[1]}"
RUN = Run(entrypoint=["python3"], folder="/", variables={}, labels={})


def tiny_image(store: BlobStore, entries: Sequence[Entry] = (Entry(PYTHON_FILE, mode=0o755, data=b"#!"),)) -> Image:
    """An image of one layer."""
    layer = write_layer(entries, store)
    return compose(Base(digest=""), [Made("tiny", layer, False)], RUN, store)


def tiny_base(store: BlobStore) -> Base:
    """A base that has a Python, as far as its file names tell."""
    return read(tiny_image(store).manifest, store)


def layer_names(store: BlobStore, digest: str) -> dict[str, tarfile.TarInfo]:
    """The members of a layer by name."""
    with tarfile.open(store.path(digest)) as tar:
        return {member.name: member for member in tar}


def layer_contents(store: BlobStore, digest: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Each member of a layer with its bytes, in one pass."""
    with tarfile.open(store.path(digest), mode="r|gz") as tar:
        for member in tar:
            found = tar.extractfile(member) if member.isreg() else None
            yield member, found.read() if found is not None else b""


def layer_file(store: BlobStore, digest: str, name: str) -> bytes:
    """The bytes of one file of a layer."""
    with tarfile.open(store.path(digest)) as tar:
        found = tar.extractfile(name)
        assert found is not None
        return found.read()


def raw_layer(members: Sequence[tarfile.TarInfo], data: bytes = b"") -> bytes:
    """A layer as a stranger may write it: any member at all; regular files get ``data``."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return gzip.compress(raw.getvalue(), mtime=0)


def strange_image(store: BlobStore, layer: bytes, *, kind: str = "", diff_id: str = "") -> Blob:
    """The manifest of an image with this one layer, as a stranger may have made it."""
    media_type = kind or "application/vnd.oci.image.layer.v1.tar+gzip"
    blob = store.add_bytes(layer, media_type)
    try:
        tar = gzip.decompress(layer)
    except (OSError, EOFError):
        tar = layer
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [diff_id or f"sha256:{hashlib.sha256(tar).hexdigest()}"]},
    }
    config_blob = store.add_bytes(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json")
    manifest = {"schemaVersion": 2, "config": config_blob.document(), "layers": [blob.document()]}
    return store.add_bytes(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")


def make_wheel(folder: Path, name: str, files: Mapping[str, str], *, requires: Sequence[str] = ()) -> str:
    """Write a wheel ``name`` 1.0 into ``folder``; give its line of a lock file."""
    info = f"{name}-1.0.dist-info"
    needs = "".join(f"Requires-Dist: {other}\n" for other in requires)
    everything = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-tool = {name}:main\n",
    }
    record = "".join(f"{path},,\n" for path in [*everything, f"{info}/RECORD"])
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in {**everything, f"{info}/RECORD": record}.items():
            archive.writestr(zipfile.ZipInfo(inside, (2020, 1, 1, 0, 0, 0)), text)
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


BACKEND = """
import zipfile
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "{name}-1.0-py3-none-any.whl"
    info = "{name}-1.0.dist-info"
    with zipfile.ZipFile(wheel_directory + "/" + name, "w") as archive:
        for path, text in [("{name}.py", "ORIGIN = 'built here'\\n"),
                           (info + "/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n"),
                           (info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"),
                           (info + "/RECORD", "{name}.py,,\\n" + info + "/METADATA,,\\n" + info + "/RECORD,,\\n")]:
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    return name
"""


def make_sdist(folder: Path, name: str, backend: str = BACKEND) -> str:
    """Write a source distribution that builds itself, without any other package; give its line of a lock file."""
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    files = {"pyproject.toml": project, "backend.py": backend.format(name=name), "PKG-INFO": metadata}
    path = folder / f"{name}-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for inside, text in files.items():
            member = tarfile.TarInfo(f"{name}-1.0/{inside}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@dataclass
class FakeRegistry:
    """What a registry in this process holds, was asked, and is told to do wrong."""

    address: str = ""
    auth: str = ""  # "", "basic", "bearer"
    user: str = "pat"
    password: str = "s3cret-passw0rd"
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    failures: list[tuple[str, int]] = field(default_factory=list)  # (method, status) for the next such request
    breaks: int = 0  # uploads whose connection ends without an answer
    denied: bool = False
    lies: bool = False  # answers with bytes of another digest
    realm: str = ""
    scopes: list[str] = field(default_factory=list)
    redirect_blobs_to: str = ""
    foreign_headers: list[str] = field(default_factory=list)  # Authorization headers seen on redirected requests


@contextmanager
def serving(registry: FakeRegistry) -> Iterator[FakeRegistry]:
    """Serve a registry on a loopback port until the block ends."""

    class Handler(_Handler):
        state = registry

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    registry.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)


class _Handler(BaseHTTPRequestHandler):
    state: FakeRegistry
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str, message: str, **headers: str) -> None:
        self._answer(status, json.dumps({"errors": [{"code": code, "message": message}]}).encode(), **headers)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _allowed(self) -> bool:
        state = self.state
        if not state.auth or urlsplit(self.path).path in ("/token", "/elsewhere"):
            return True
        given = self.headers.get("authorization", "")
        basic = "Basic " + base64.b64encode(f"{state.user}:{state.password}".encode()).decode()
        if given == {"basic": basic, "bearer": "Bearer the-token"}[state.auth]:
            return True
        challenge = 'Basic realm="test"'
        if state.auth == "bearer":
            realm = state.realm or f"http://{state.address}/token"
            challenge = f'Bearer realm="{realm}",service="test",scope="repository:x:pull"'
        self._error(401, "UNAUTHORIZED", "authentication required", www_authenticate=challenge)
        return False

    def _refused(self) -> bool:
        state = self.state
        state.asked.append((self.command, self.path))
        for failure in state.failures:
            if failure[0] == self.command:
                state.failures.remove(failure)
                self._error(failure[1], "UNKNOWN", "told to fail")
                return True
        if not self._allowed():
            return True
        if state.denied and self.command in ("POST", "PUT"):
            self._error(403, "DENIED", "requested access to the resource is denied")
            return True
        return False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self._refused():
            return
        path = urlsplit(self.path).path
        if path == "/token":
            self._token()
        elif path == "/elsewhere":
            self.state.foreign_headers.append(self.headers.get("authorization", ""))
            self._answer(200, self.state.blobs[parse_qs(urlsplit(self.path).query)["digest"][0]])
        elif match := re.fullmatch(r"/v2/(.+)/blobs/(sha256:\w+)", path):
            self._blob(match[2])
        elif match := re.fullmatch(r"/v2/(.+)/manifests/(.+)", path):
            self._manifest(f"{match[1]}/{match[2]}")
        else:
            self._error(404, "NAME_UNKNOWN", "no such path")

    def _token(self) -> None:
        state = self.state
        query = parse_qs(urlsplit(self.path).query)
        state.scopes += query.get("scope", [])
        basic = "Basic " + base64.b64encode(f"{state.user}:{state.password}".encode()).decode()
        if self.headers.get("authorization") != basic:
            self._error(401, "UNAUTHORIZED", "wrong user or password")
        else:
            self._answer(200, b'{"token": "the-token"}')

    def _blob(self, digest: str) -> None:
        data = self.state.blobs.get(digest)
        if data is None:
            self._error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        elif self.state.redirect_blobs_to and self.command == "GET":
            self._answer(307, location=f"{self.state.redirect_blobs_to}?digest={digest}")
        else:
            self._answer(200, b"x" * len(data) if self.state.lies else data)

    def _manifest(self, name: str) -> None:
        found = self.state.manifests.get(name)
        if found is None:
            self._error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        else:
            self._answer(200, b"{}" if self.state.lies else found[1], content_type=found[0])

    def do_POST(self) -> None:
        self._body()
        if not self._refused():
            place = f"{urlsplit(self.path).path}{uuid.uuid4().hex}?state=1"
            self._answer(202, location=place)

    def do_PUT(self) -> None:
        data = self._body()
        if self.state.breaks:
            self.state.breaks -= 1
            self.state.asked.append((self.command, self.path))
            self.close_connection = True
            return
        if self._refused():
            return
        parts = urlsplit(self.path)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if match := re.fullmatch(r"/v2/(.+)/manifests/(.+)", parts.path):
            kind = self.headers.get("content-type", "")
            self.state.manifests[f"{match[1]}/{match[2]}"] = (kind, data)
            self.state.manifests[f"{match[1]}/{digest}"] = (kind, data)
            shown = f"sha256:{'0' * 64}" if self.state.lies else digest
            self._answer(201, docker_content_digest=shown)
        elif parse_qs(parts.query)["digest"][0] != digest:
            self._error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        else:
            self.state.blobs[digest] = data
            self._answer(201)
