"""Model versions as OCI artifacts: how a version is laid out in a registry, and pulling one, verified.

``<registry>/models/<model>:<hash12>``: one blob per file, its place in the annotation that the ORAS tools use, so
they can push and pull versions too. A registry is not believed: every file's SHA-256 is checked, and then the
version is named anew from what arrived, by the rule of ``models/repository.py``. The name leased is the proof.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from shoal.core import limits
from shoal.core.errors import ModelFaultError, ShoalError, SpecError
from shoal.core.hashing import file_digest, parts_digest, tree_files
from shoal.core.names import model_of, model_version
from shoal.models import config
from shoal.pool.cluster_registry import FILE, Login

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE: Final = "application/vnd.shoal.model.v1"
FILE_TYPE: Final = "application/vnd.shoal.model.file.v1"
EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"
EMPTY: Final = b"{}"  # an artifact's configuration that says nothing, as the OCI image specification has it
TITLE: Final = "org.opencontainers.image.title"
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class File:
    """One file of a version: its place, and what its bytes must be."""

    place: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """A version as it goes into a registry: repository, tag, the manifest's bytes, and the file of each blob."""

    repository: str
    tag: str
    manifest: bytes
    files: Mapping[str, Path]  # "sha256:…" -> file


def reference(version: str) -> tuple[str, str]:
    """Give a version's repository and tag: ``("models/magika", "3f2a9c1d22e0")``.

    Repositories are lower-case, so two models may share one: the tag tells their versions apart.
    """
    model, _, digest = version.partition("--")
    parts = re.findall(r"[a-z0-9]+", model.lower())
    return f"models/{'-'.join(parts)}", digest


def artifact(folder: Path) -> Artifact:
    """Describe a version's folder (named after it, as ``ModelRepository.materialise`` writes it) for a registry."""
    files = [
        File(one.as_posix(), file_digest(folder / one), (folder / one).stat().st_size) for one in tree_files(folder)
    ]
    repository, tag = reference(folder.name)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": _descriptor(EMPTY_TYPE, hashlib.sha256(EMPTY).hexdigest(), len(EMPTY)),
        "layers": [
            _descriptor(FILE_TYPE, one.sha256, one.size) | {"annotations": {TITLE: one.place}} for one in files
        ],
        "annotations": {TITLE: folder.name},
    }
    blobs = {f"sha256:{one.sha256}": folder / one.place for one in files}
    return Artifact(repository, tag, json.dumps(manifest, sort_keys=True).encode(), blobs)


def read_manifest(version: str, body: bytes) -> tuple[File, ...]:
    """Read an artifact's manifest; ModelFaultError when it is none, or names a place outside the version."""
    try:
        layers = json.loads(body)["layers"]
        files = tuple(_file(layer) for layer in layers)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFaultError(f"{version}: the registry's manifest is none of a model version ({error})") from None
    if not files or len(files) > limits.MODEL_FILES_MAX or len({one.place for one in files}) != len(files):
        raise ModelFaultError(
            f"{version}: its manifest names {len(files)} files: different ones, {limits.MODEL_FILES_MAX} at most"
        )
    if sum(one.size for one in files) > limits.MODEL_BYTES_MAX:
        raise ModelFaultError(f"{version}: its files pass {limits.MODEL_BYTES_MAX} bytes")
    return files


def check_content(version: str, folder: Path, files: tuple[File, ...]) -> None:
    """Name a version anew from what arrived; ModelFaultError when that is another name."""
    try:
        meaning = config.digest(config.load(folder / config.FILE_NAME))
    except SpecError as error:
        raise ModelFaultError(f"{version}: {error.message}") from None
    parts = [("config", meaning)]
    parts += [(f"file:{one.place}", one.sha256) for one in files if one.place != config.FILE_NAME]
    found = model_version(model_of(version), parts_digest(parts))
    if found != version:
        raise ModelFaultError(
            f"{version}: what the registry has under this name is {found}", hint="push the version again"
        )


class Puller:
    """Brings versions from ``registry`` (http[s]://host[:port][/path]) into ``repository``, whole or not at all."""

    def __init__(self, registry: str, repository: Path, *, credentials: Path = FILE) -> None:
        self._registry, self._repository, self._credentials = registry.rstrip("/"), repository, credentials
        parts = urlsplit(self._registry)
        self._root = f"{parts.scheme}://{parts.netloc}/v2{parts.path}"

    def held(self) -> list[str]:
        """List the versions there are, oldest first."""
        folders = [
            path for path in self._repository.glob("*--*") if path.is_dir() and not path.name.startswith(".")
        ]
        return [path.name for path in sorted(folders, key=lambda path: (path.stat().st_mtime, path.name))]

    async def pull(self, version: str) -> None:
        """Make a version be there; one that is there already is left as it is.

        Raises ModelFaultError when the registry has it not, or not these bytes, or does not answer.
        """
        target = self._repository / version
        if target.is_dir():
            return
        self._repository.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self._repository))
        try:
            async with aiohttp.ClientSession() as session:
                await self._pull(session, version, part)
            part.chmod(0o755)
            part.rename(target)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            told = f"{version}: the registry {self._registry} does not give it: {error or type(error).__name__}"
            raise ModelFaultError(told) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    async def _pull(self, session: aiohttp.ClientSession, version: str, part: Path) -> None:
        repository, tag = reference(version)
        base = f"{self._root}/{repository}"
        await self._sign_in(session, f"{base}/manifests/{tag}")
        files = read_manifest(version, await self._manifest(session, version, f"{base}/manifests/{tag}"))
        for one in files:
            await self._blob(session, version, f"{base}/blobs/sha256:{one.sha256}", one, part / one.place)
        check_content(version, part, files)

    async def _sign_in(self, session: aiohttp.ClientSession, url: str) -> None:
        """Give the session what the registry asks for, if it asks; redirects elsewhere do not carry it."""
        timeout = aiohttp.ClientTimeout(total=limits.MODEL_PULL_SILENCE_SECONDS_MAX)
        async with session.head(url, headers={"Accept": MANIFEST_TYPE}, timeout=timeout) as answer:
            if answer.status != 401:
                return
            challenge = answer.headers.get("WWW-Authenticate", "")
        login = Login.of(self._registry, self._credentials)
        session.headers.update(await login.answer(session, self._registry, challenge))

    async def _manifest(self, session: aiohttp.ClientSession, version: str, url: str) -> bytes:
        timeout = aiohttp.ClientTimeout(total=limits.MODEL_PULL_SILENCE_SECONDS_MAX)
        async with session.get(url, headers={"Accept": MANIFEST_TYPE}, timeout=timeout) as answer:
            _check(version, url, answer)
            return await _up_to(answer, limits.MODEL_MANIFEST_BYTES_MAX, version)

    async def _blob(self, session: aiohttp.ClientSession, version: str, url: str, one: File, into: Path) -> None:
        timeout = aiohttp.ClientTimeout(
            total=limits.MODEL_PULL_SECONDS_MAX, sock_read=limits.MODEL_PULL_SILENCE_SECONDS_MAX
        )
        into.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        async with session.get(url, timeout=timeout) as answer:
            _check(version, url, answer)
            with into.open("wb") as file:
                async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                    size += len(chunk)
                    if size > one.size:
                        break
                    digest.update(chunk)
                    file.write(chunk)
        if size != one.size or digest.hexdigest() != one.sha256:
            raise ModelFaultError(
                f"{version}: {one.place} has not the bytes its manifest names ({one.sha256[:12]}…)"
            )

    def forget(self, wanted: frozenset[str], keep: int = limits.MODELS_KEPT_MAX) -> list[str]:
        """Remove the files of versions nobody wants, all but the ``keep`` newest; give the names removed."""
        spare = [name for name in self.held() if name not in wanted]
        gone = spare[: max(0, len(spare) - keep)]
        for name in gone:
            shutil.rmtree(self._repository / name, ignore_errors=True)
        return gone


async def pull_all(versions: frozenset[str], pull: Callable[[str], Awaitable[None]]) -> dict[str, ShoalError]:
    """Pull versions one after the other (a registry's line is one); give what failed, by version."""
    failed: dict[str, ShoalError] = {}
    for version in sorted(versions):
        try:
            await pull(version)
        except ShoalError as error:
            failed[version] = error
    return failed


def _descriptor(media_type: str, sha256: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": size}


def _file(layer: Any) -> File:
    place, digest, size = layer["annotations"][TITLE], layer["digest"], layer["size"]
    path = PurePosixPath(place)
    if path.is_absolute() or ".." in path.parts or path.as_posix() != place or not path.parts:
        raise ValueError(f"{place!r} is no place in a version")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest) or type(size) is not int or size < 0:
        raise ValueError(f"{place} has digest {digest!r:.80} and size {size!r:.20}")
    return File(place, digest.removeprefix("sha256:"), size)


def _check(version: str, url: str, answer: aiohttp.ClientResponse) -> None:
    if answer.status == 404:
        raise ModelFaultError(
            f"{version} is not in the registry ({url})", hint="push it: deploy its function again"
        )
    if answer.status != 200:
        raise ModelFaultError(f"{version}: the registry answers {answer.status} for {url}")


async def _up_to(answer: aiohttp.ClientResponse, size_max: int, version: str) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > size_max:
            raise ModelFaultError(f"{version}: its manifest passes {size_max} bytes")
    return bytes(body)
