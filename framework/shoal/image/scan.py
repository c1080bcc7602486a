"""One look through a base's layers before anything is built on them: is it safe to unpack, and what is in it?

A node's container runtime unpacks layers as root. Ours never unpacks one; it reads names and kinds only.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, Final, cast

from shoal.core import limits
from shoal.core.errors import ImageError
from shoal.image.blobs import Blob, BlobStore, HashingFile
from shoal.image.layer import Layer

_PLAIN_TYPES: Final = frozenset({"application/vnd.oci.image.layer.v1.tar"})
_GZIP_TYPES: Final = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    }
)
_PYTHON: Final = re.compile(r"usr/(?:local/)?bin/python(\d+)\.(\d+)")
_MUSL: Final = re.compile(r"(?:usr/)?lib/ld-musl-[a-z0-9_]+\.so\.1")
_KEY: Final = "scan-1"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a layer holds: its Pythons, whether its C library is musl, and how many files."""

    pythons: tuple[tuple[int, int], ...]
    musl: bool
    files: int


@dataclass(slots=True)
class _Found:
    pythons: set[tuple[int, int]]
    musl: bool = False
    files: int = 0


def scan(blob: Blob, diff_id: str, store: BlobStore) -> tuple[Layer, Contents]:
    """Read a layer once (and never again): its digest, its names, its kinds.

    Raises ImageError for a compression we cannot read, damaged bytes, a path that leads out of the image, a device,
    or more than an image may hold.
    """
    if blob.media_type not in _PLAIN_TYPES | _GZIP_TYPES:
        raise ImageError(
            f"the layer {blob.digest} of the base image is {blob.media_type[:80]!r}; readable are tar and gzip",
            hint="skopeo copy --dest-compress-format gzip … makes such a copy of the image",
        )
    key = f"{_KEY}-{blob.digest.removeprefix('sha256:')}"
    known = store.record(key)
    if known is None:
        store.verify(blob)
        known = _read(blob, store)
        store.note(key, known)
    if known["diff_id"] != diff_id:
        raise ImageError(f"the layer {blob.digest} of the base image is not the one its configuration names")
    layer = Layer(Blob(_oci_type(blob), blob.digest, blob.size), diff_id, known["unpacked"])
    pythons = tuple((major, minor) for major, minor in known["pythons"])
    return layer, Contents(pythons, known["musl"], known["files"])


def _oci_type(blob: Blob) -> str:
    kind = "application/vnd.oci.image.layer.v1.tar"
    return f"{kind}+gzip" if blob.media_type in _GZIP_TYPES else kind


def _read(blob: Blob, store: BlobStore) -> dict[str, Any]:
    found = _Found(set())
    with store.path(blob.digest).open("rb") as raw, closing(_opened(blob, raw)) as data:
        tee = _Tee(data)
        try:
            with tarfile.open(
                fileobj=cast("Any", tee), mode="r|", encoding="utf-8", errors="surrogateescape"
            ) as tar:
                for member in _members(tar, blob, tee):
                    _look(member, blob, found)
            tee.drain()
        except (tarfile.TarError, zlib.error, OSError, EOFError, ValueError) as error:
            raise ImageError(f"the layer {blob.digest} of the base image is damaged: {error}") from None
    return {
        "diff_id": tee.hash.digest,
        "unpacked": tee.hash.size,
        "pythons": sorted(found.pythons),
        "musl": found.musl,
        "files": found.files,
    }


def _opened(blob: Blob, raw: IO[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if blob.media_type in _GZIP_TYPES else raw


class _Tee:
    """Read through, hashing what was read, up to what an image may unpack to."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hash = HashingFile(None)

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.hash.write(data)
        if self.hash.size > limits.IMAGE_UNPACKED_BYTES_MAX:
            raise ImageError(
                f"a layer of the base image unpacks to more than {limits.IMAGE_UNPACKED_BYTES_MAX} bytes; "
                "an image may not"
            )
        return data

    def drain(self) -> None:
        while self.read(1 << 20):
            pass


def _members(tar: tarfile.TarFile, blob: Blob, tee: _Tee) -> Iterator[tarfile.TarInfo]:
    for number, member in enumerate(tar):
        if number >= limits.IMAGE_FILES_MAX:
            raise ImageError(f"the layer {blob.digest} of the base image has over {limits.IMAGE_FILES_MAX} files")
        yield member
        tar.members.clear()  # type: ignore[attr-defined]  # a stream's members are of no further use


def _look(member: tarfile.TarInfo, blob: Blob, found: _Found) -> None:
    name = _inside(member.name, member.name, blob)
    if member.isdev():
        raise ImageError(f"the layer {blob.digest} of the base image has a device or pipe, {member.name!r}")
    if member.islnk():
        _inside(member.linkname, member.name, blob)
    found.files += 1
    if match := _PYTHON.fullmatch(name):
        found.pythons.add((int(match[1]), int(match[2])))
    found.musl = found.musl or bool(_MUSL.fullmatch(name))


def _inside(path: str, name: str, blob: Blob) -> str:
    """Give a path as relative to the image's root; ImageError when it leads out of it."""
    pure = PurePosixPath(path)
    if ".." in pure.parts or "\0" in path:
        raise ImageError(f"the layer {blob.digest} of the base image has a path out of the image, {name!r}")
    return str(pure.relative_to("/") if pure.is_absolute() else pure)
