"""Bases: an image in a registry, an OCI layout on disk, a folder of Debian packages, or this machine's packages."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from shoal.core import limits
from shoal.core.errors import ImageError, UsageError
from shoal.image import debian
from shoal.image.blobs import MANIFEST_TYPE, Blob, BlobStore, digest_of
from shoal.image.compose import Base
from shoal.image.layer import Layer
from shoal.image.layout import IMAGE_TYPES, LIST_TYPES, choose, descriptor, index, is_layout, parse
from shoal.image.reference import Reference
from shoal.image.registry import Registry
from shoal.image.scan import scan

DEBIAN: Final = "debian"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}

Connect = Callable[[str], Registry]  # from a host


def architecture() -> str:
    """Give this machine's architecture as images name it: ``amd64``, ``arm64``."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def resolve(text: str, store: BlobStore, connect: Connect, *, mtime: int = 0) -> Base:
    """Find the base that ``text`` names: ``debian``, a folder (layout or packages), or a reference.

    Raises UsageError when it is none of these, ImageError when it cannot be built on.
    """
    folder = Path(text)
    if text == DEBIAN:
        return read(debian.from_debian(store, mtime=mtime), store)
    if folder.is_dir():
        if is_layout(folder):
            return from_layout(folder, store)
        return read(debian.from_packages(folder, store, mtime=mtime), store)
    if text.startswith((".", "/", "~")):
        raise UsageError(f"the base {text!r} is no folder", hint="an OCI layout, or a folder of .deb files")
    reference = Reference.parse(text)
    return from_registry(reference, connect(reference.host), store)


def from_layout(folder: Path, store: BlobStore) -> Base:
    """Read the image of this machine's architecture from an OCI layout, copying its blobs into the store."""
    source = BlobStore(folder)

    def fetch(blob: Blob) -> None:
        if not store.has(blob):
            source.verify(blob)
            target = store.path(blob.digest)
            target.parent.mkdir(parents=True, exist_ok=True)
            with store.adding() as file, source.path(blob.digest).open("rb") as data:
                shutil.copyfileobj(data, file)

    found = choose(index(folder), architecture(), f"the index of {folder}")
    if found.media_type in LIST_TYPES:
        listed = parse(source.read(found.digest, limits.MANIFEST_BYTES_MAX), f"the index in {folder}")
        found = choose(listed, architecture(), f"the index of {folder}")
    fetch(found)
    return read(found, store, fetch=fetch)


def from_registry(reference: Reference, registry: Registry, store: BlobStore) -> Base:
    """Pull the image of this machine's architecture; blobs that are in the store are not pulled again."""
    kind, data = registry.manifest(reference, IMAGE_TYPES | LIST_TYPES)
    document = parse(data, f"the manifest of {reference}")
    kind = str(document.get("mediaType") or kind)
    if kind in LIST_TYPES:
        found = choose(document, architecture(), str(reference))
        kind, data = registry.manifest(reference.at(found.digest), IMAGE_TYPES)
    if kind not in IMAGE_TYPES:
        raise ImageError(f"{reference} is {kind[:80]!r}, not an image")
    with store.adding() as file:
        file.write(data)

    def fetch(blob: Blob) -> None:
        registry.download(reference.repository, blob, store)

    return read(Blob(MANIFEST_TYPE, digest_of(data), len(data)), store, name=str(reference), fetch=fetch)


def read(
    manifest: Blob, store: BlobStore, *, name: str = "", fetch: Callable[[Blob], None] = lambda blob: None
) -> Base:
    """Read an image whose manifest is in the store, getting its blobs with ``fetch``; each layer is looked through.

    Raises ImageError when it is damaged or unsafe, or its C library is musl (no wheel of the lock file fits it).
    """
    what = f"the base image {name or manifest.digest}"
    document = parse(store.read(manifest.digest, limits.MANIFEST_BYTES_MAX), what)
    config_blob = descriptor(document.get("config"), what)
    fetch(config_blob)
    config = parse(store.read(config_blob.digest, limits.MANIFEST_BYTES_MAX), f"the configuration of {what}")
    layers, pythons, musl = _layers(document, config, store, fetch, what)
    if musl:
        raise ImageError(
            f"{what} has musl as its C library; wheels are for glibc", hint="choose a Debian-based one"
        )
    found = str(config.get("architecture") or architecture())
    return Base(manifest.digest, name, layers, config, _python(pythons, config), found)


def _layers(
    document: Mapping[str, Any],
    config: Mapping[str, Any],
    store: BlobStore,
    fetch: Callable[[Blob], None],
    what: str,
) -> tuple[tuple[Layer, ...], set[tuple[int, int]], bool]:
    blobs = [descriptor(entry, what) for entry in document.get("layers") or []]
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != len(blobs) or len(blobs) > limits.IMAGE_LAYERS_MAX:
        raise ImageError(f"{what} has {len(blobs)} layers, and its configuration does not name as many")
    layers: list[Layer] = []
    pythons: set[tuple[int, int]] = set()
    musl = False
    for blob, diff_id in zip(blobs, diff_ids, strict=True):
        fetch(blob)
        layer, contents = scan(blob, str(diff_id), store)
        layers.append(layer)
        pythons.update(contents.pythons)
        musl = musl or contents.musl
    return tuple(layers), pythons, musl


def _python(pythons: set[tuple[int, int]], config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Choose the Python of the image: the one its PYTHON_VERSION names, else the newest there is."""
    for item in (config.get("config") or {}).get("Env") or []:
        if str(item).startswith("PYTHON_VERSION="):
            major, minor, *_ = [*str(item).partition("=")[2].split("."), "0", "0"]
            if major.isdigit() and minor.isdigit():
                return int(major), int(minor)
    return max(pythons, default=None)


def connect(plain: frozenset[str]) -> Connect:
    """Give what opens a registry by its host; those in ``plain`` are spoken to without TLS."""
    return lambda host: Registry(host, plain_http=host in plain)
