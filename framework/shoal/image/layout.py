"""OCI layouts on disk: an image as a folder that every tool for images reads, and back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from shoal.core import limits
from shoal.core.errors import ImageError
from shoal.image.blobs import INDEX_TYPE, MANIFEST_TYPE, Blob, BlobStore, check_digest, to_json
from shoal.image.compose import Image

LIST_TYPES: Final = frozenset({INDEX_TYPE, "application/vnd.docker.distribution.manifest.list.v2+json"})
IMAGE_TYPES: Final = frozenset({MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json"})
_VERSION: Final = b'{"imageLayoutVersion":"1.0.0"}'
_REF_NAME: Final = "org.opencontainers.image.ref.name"


def save(image: Image, folder: Path, *, name: str = "") -> None:
    """Write the image as a layout into ``folder``; blobs that are there stay, the index names this image alone."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for blob in (image.manifest, image.config, *(made.layer.blob for made in image.layers)):
        target = BlobStore(folder).path(blob.digest)
        if not target.exists():
            shutil.copyfile(image.store.path(blob.digest), target)
    entry = {
        **image.manifest.document(),
        **({"annotations": {_REF_NAME: name}} if name else {}),
    }
    (folder / "oci-layout").write_bytes(_VERSION)
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}
    (folder / "index.json").write_bytes(to_json(index))


def is_layout(folder: Path) -> bool:
    """Say whether a folder is an OCI layout."""
    return (folder / "oci-layout").is_file()


def index(folder: Path) -> dict[str, Any]:
    """Read a layout's index; ImageError when it is none."""
    try:
        with (folder / "index.json").open("rb") as file:
            data = file.read(limits.MANIFEST_BYTES_MAX + 1)
    except OSError as error:
        raise ImageError(f"{folder} is no OCI layout: index.json: {error.strerror}") from None
    return parse(data, f"{folder}/index.json")


def parse(data: bytes, what: str) -> dict[str, Any]:
    """Read a manifest, an index or a configuration: a JSON object of bounded size; ImageError names ``what``."""
    if len(data) > limits.MANIFEST_BYTES_MAX:
        raise ImageError(f"{what} has more than {limits.MANIFEST_BYTES_MAX} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ImageError(f"{what} is not a JSON object")
    return document


def descriptor(document: Any, what: str) -> Blob:
    """Read a descriptor; ImageError names ``what`` has it."""
    if isinstance(document, Mapping):
        kind, digest, size = document.get("mediaType"), document.get("digest"), document.get("size")
        if isinstance(kind, str) and isinstance(digest, str) and type(size) is int and size >= 0:
            return Blob(kind, check_digest(digest), size)
    raise ImageError(f"{what} has no valid descriptor with mediaType, digest and size")


def choose(document: Mapping[str, Any], architecture: str, what: str) -> Blob:
    """Choose the Linux image of an architecture from an index; one without a platform is taken as it."""
    listed = document.get("manifests")
    seen = []
    for entry in listed if isinstance(listed, list) else []:
        found = descriptor(entry, what)
        platform = entry.get("platform")
        if not isinstance(platform, Mapping) or (
            (platform.get("os"), platform.get("architecture")) == ("linux", architecture)
        ):
            return found
        seen.append(f"{platform.get('os')}/{platform.get('architecture')}")
    raise ImageError(f"{what} has no image for linux/{architecture}; it has {', '.join(seen[:20]) or 'none'}")
