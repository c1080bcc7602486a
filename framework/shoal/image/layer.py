"""Layers: a list of files becomes one tar, compressed, whose bytes depend on the files and on nothing else.

Names sorted, one time for all, owner 0, two modes for files; no user names and no extended headers. The digest of
the compressed bytes depends on the zlib in use, too (zlib-ng compresses differently); that of the tar does not.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, cast

from shoal.core import limits
from shoal.core.errors import ImageError
from shoal.image.blobs import LAYER_TYPE, Blob, BlobStore, HashingFile

FORMAT: Final = "1"  # of what is written here: part of every cache key
COMPRESSION: Final = 6  # gzip: 9 takes twice as long for one percent
FILE_MODE: Final = 0o644
PROGRAM_MODE: Final = 0o755
FOLDER_MODE: Final = 0o755
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or symbolic link of a layer; ``path`` is inside the image, without a leading slash."""

    path: str
    kind: Literal["file", "folder", "link"] = "file"
    mode: int = FILE_MODE
    source: Path | None = None  # a file's bytes, unless data has them
    data: bytes = b""
    target: str = ""  # of a link


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as it is kept: its blob, the digest of its tar, and that tar's size in bytes."""

    blob: Blob
    diff_id: str
    unpacked: int

    def document(self) -> dict[str, Any]:
        """Give the layer as a record."""
        return {**self.blob.document(), "diff_id": self.diff_id, "unpacked": self.unpacked}

    @classmethod
    def of(cls, document: dict[str, Any]) -> Layer:
        """Read a record."""
        blob = Blob(document["mediaType"], document["digest"], document["size"])
        return cls(blob, document["diff_id"], document["unpacked"])


def write_layer(entries: Iterable[Entry], store: BlobStore, *, mtime: int = 0) -> Layer:
    """Write the layer of these entries, the folders above them included; ImageError when two have one path."""
    # Without a name and a time, gzip's header is the same everywhere.
    with store.adding() as packed, gzip.GzipFile("", "wb", COMPRESSION, cast("Any", packed), mtime=0) as zipped:
        tar = HashingFile(cast("IO[bytes]", zipped))
        _write_tar(_complete(entries), tar, mtime)
    return Layer(Blob(LAYER_TYPE, packed.digest, packed.size), tar.digest, tar.size)


def cached_layer(
    store: BlobStore, key: str, make: Callable[[Path], Iterable[Entry]], *, mtime: int = 0
) -> tuple[Layer, bool]:
    """Give the layer noted under ``key`` and True, or make it and give False.

    ``make`` gets a scratch folder that is there until the layer is written.
    """
    found = store.record(key)
    if found is not None and store.has((layer := Layer.of(found)).blob):
        return layer, True
    with tempfile.TemporaryDirectory(prefix="shoal-layer-") as scratch:
        layer = write_layer(make(Path(scratch)), store, mtime=mtime)
    store.note(key, layer.document())
    return layer, False


def _complete(entries: Iterable[Entry]) -> list[Entry]:
    """Sort the entries and put the folders above them in; a path may come twice only as a folder."""
    found: dict[str, Entry] = {}
    for entry in entries:
        earlier = found.setdefault(entry.path, entry)
        if earlier is not entry and not (earlier.kind == entry.kind == "folder"):
            raise ImageError(f"two files of one layer have the path /{entry.path}")
    for path in list(found):
        for parent in Path(path).parents:
            if parent != Path("."):
                found.setdefault(parent.as_posix(), Entry(parent.as_posix(), "folder", FOLDER_MODE))
    return [found[path] for path in sorted(found)]


def _write_tar(entries: Iterable[Entry], file: HashingFile, mtime: int) -> None:
    with tarfile.open(
        fileobj=cast("Any", file),
        mode="w|",
        format=tarfile.GNU_FORMAT,
        encoding="utf-8",
        errors="strict",
        bufsize=_CHUNK_BYTES,
    ) as tar:
        for entry in entries:
            _write_entry(tar, entry, mtime)


def _write_entry(tar: tarfile.TarFile, entry: Entry, mtime: int) -> None:
    if len(entry.path.encode()) > limits.IMAGE_NAME_BYTES_MAX:
        raise ImageError(f"a path of {len(entry.path)} characters: {entry.path[:60]!r}…; Linux takes 4096 bytes")
    info = tarfile.TarInfo(entry.path)
    info.mode, info.mtime = entry.mode, mtime
    if entry.kind == "folder":
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    elif entry.kind == "link":
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.target, 0o777
        tar.addfile(info)
    elif entry.source is None:
        info.size = len(entry.data)
        tar.addfile(info, io.BytesIO(entry.data))
    else:
        _write_file(tar, info, entry.source)


def _write_file(tar: tarfile.TarFile, info: tarfile.TarInfo, source: Path) -> None:
    try:
        with source.open("rb") as data:
            info.size = source.stat().st_size
            tar.addfile(info, data)
    except OSError as error:
        # tarfile raises a bare OSError when the file shrinks while it is read.
        raise ImageError(f"{source} cannot be read: {error.strerror or error}") from None
