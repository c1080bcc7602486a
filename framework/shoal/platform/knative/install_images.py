"""What the pool is made of, made here and pushed: two images, and model versions as artifacts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from shoal.core import limits
from shoal.core.errors import ImageError
from shoal.core.hashing import parts_digest
from shoal.image import base as bases
from shoal.image.blobs import MANIFEST_TYPE, Blob, BlobStore
from shoal.image.bytecode import with_bytecode
from shoal.image.compose import Base, Image, Made, Run, compose
from shoal.image.layer import FORMAT, Entry, cached_layer
from shoal.image.reference import Reference
from shoal.image.tree import folder_entries
from shoal.pool import cluster_image as pool
from shoal.pool.cluster_models import EMPTY, EMPTY_TYPE, FILE_TYPE, Artifact, artifact

_MERGED: Final = ("bin/", "sbin/", "lib/", "lib64/")  # links into /usr in a Debian 12 base: a layer keeps them
_LEFT_OUT: Final = ("usr/share/", "etc/", "var/")  # documentation and settings; copyright stays
_COPYRIGHT: Final = "/copyright"
_RULES: Final = "1"  # of what is written here: part of the cache keys


def build(image: pool.Image, base: Base, store: BlobStore) -> Image:
    """Make one of the pool's images on a Debian base; layers that are in the store are not made again.

    Raises ImageError, PlatformError or UsageError with the step that failed.
    """
    layers = [_packages(image.debian_packages, store)] if image.debian_packages else []
    layers.append(_tree(image, store))
    run = Run(image.entrypoint, "/", image.environment, {"org.opencontainers.image.title": image.name})
    return compose(base, layers, run, store)


def push(image: Image, name: str, registry: str, connect: bases.Connect) -> str:
    """Send an image to ``registry`` (host[:port][/path]) as ``name``; give ``name@digest``."""
    tag = image.digest.removeprefix("sha256:")[:12]
    reference = Reference.parse(f"{registry}/{name}:{tag}")
    opened = connect(reference.host)
    for blob in (*(made.layer.blob for made in image.layers), image.config):
        opened.upload(reference.repository, blob, image.store)
    opened.put_manifest(reference, image.manifest, image.store)
    return f"{name}@{image.digest}"


def push_model(folder: Path, store: BlobStore, registry: str, connect: bases.Connect) -> str:
    """Send a model version, as ``ModelRepository.materialise`` wrote it, to where the pool's agents pull it from.

    Gives its reference. What the registry has already is not sent again. Raises RegistryError.
    """
    described = artifact(folder)
    reference = Reference.parse(f"{registry}/{described.repository}:{described.tag}")
    opened = connect(reference.host)
    for blob in _blobs(described, store):
        opened.upload(reference.repository, blob, store)
    opened.put_manifest(reference, store.add_bytes(described.manifest, MANIFEST_TYPE), store)
    return str(reference)


def _blobs(described: Artifact, store: BlobStore) -> Iterator[Blob]:
    yield store.add_bytes(EMPTY, EMPTY_TYPE)
    for digest, path in described.files.items():
        blob = Blob(FILE_TYPE, digest, path.stat().st_size)
        if not store.has(blob):
            with store.adding() as file, path.open("rb") as data:
                while chunk := data.read(1 << 20):
                    file.write(chunk)
        yield blob


def _tree(image: pool.Image, store: BlobStore) -> Made:
    def make(scratch: Path) -> Iterator[Entry]:
        tree = scratch / "tree"
        tree.mkdir()
        image.lay_out(tree)
        entries = folder_entries(tree, "", links_inside=False)  # a link in it is absolute, inside the image
        return with_bytecode(entries, pool.PYTHON, scratch)

    layer, reused = cached_layer(store, _key(image.name, list(image.inputs().items())), make)
    return Made(image.name, layer, reused)


def _packages(names: Sequence[str], store: BlobStore) -> Made:
    """Make a layer of Debian packages, in the versions apt has now, without what they depend on."""
    listed = sorted(
        line.split()[1] for line in _run(["apt-get", "download", "--print-uris", "-qq", *names], Path("/"))
    )

    def make(scratch: Path) -> Iterator[Entry]:
        root = scratch / "root"
        root.mkdir()
        _run(["apt-get", "download", "-qq", *names], scratch)
        for file in sorted(scratch.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(file), str(root)], scratch)
            record = "".join(f"{line}\n" for line in _run(["dpkg-deb", "-f", str(file)], scratch))
            # Where scanners for known weaknesses look in an image without dpkg.
            yield Entry(f"var/lib/dpkg/status.d/{file.name.partition('_')[0]}", data=record.encode())
        yield from filter(None, map(_placed, folder_entries(root, "", links_inside=False)))

    layer, reused = cached_layer(store, _key("debian", [(name, "") for name in listed]), make)
    return Made("debian packages", layer, reused)


def _placed(entry: Entry) -> Entry | None:
    """Put an entry where a base with a merged /usr has it; None for what an image does not need."""
    path = f"usr/{entry.path}" if f"{entry.path}/".startswith(_MERGED) else entry.path
    if f"{path}/".startswith(_LEFT_OUT) and not path.endswith(_COPYRIGHT):
        return None
    return replace(entry, path=path)


def _key(name: str, parts: Sequence[tuple[str, str]]) -> str:
    return f"{name}-{parts_digest([*parts, ('format', FORMAT), ('rules', _RULES)])[:32]}"


def _run(command: Sequence[str], folder: Path) -> list[str]:
    options = ["-o", "APT::Sandbox::User=root"] if command[0] == "apt-get" and os.geteuid() == 0 else []
    environment = {"LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", os.defpath)}
    try:
        done = subprocess.run(
            [command[0], *options, *command[1:]], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=limits.APT_SECONDS_MAX, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"the pool's image cannot be made: {error}", hint="a Debian 12 machine makes it") from None
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip())[-400:]
        raise ImageError(f"the pool's image cannot be made: {command[0]}: {reason}", hint="apt-get update")
    return done.stdout.splitlines()
