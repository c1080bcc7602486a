"""Blobs by digest in one folder, shared by all builds: what is there is complete and never changes.

The folder is laid out as the ``blobs`` of an OCI layout. A blob is written beside its place and renamed, so that a
killed build leaves nothing that looks complete, and two builds may write the same blob at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from shoal.core.errors import ImageError
from shoal.core.hashing import file_digest

CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Blob:
    """A descriptor: what kind of content, its digest (``sha256:…``) and its size in bytes."""

    media_type: str
    digest: str
    size: int

    def document(self) -> dict[str, Any]:
        """Give the descriptor as OCI writes it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


def digest_of(data: bytes) -> str:
    """Digest some bytes as OCI writes it: ``sha256:`` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def check_digest(text: str) -> str:
    """Return a digest that is a plain SHA-256, else raise ImageError: it becomes a file name."""
    if not _DIGEST.fullmatch(text):
        raise ImageError(f"the digest {text[:80]!r} is not sha256: and 64 hexadecimal digits")
    return text


def to_json(document: Any) -> bytes:
    """Write a document so that the same content is the same bytes."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class HashingFile:
    """A write-only file that knows the digest and the size of what went through it."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        """Pass the bytes on."""
        self._hash.update(data)
        self.size += len(data)
        if self._file is not None:
            self._file.write(data)
        return len(data)

    def flush(self) -> None:
        """Pass the request on."""
        if self._file is not None:
            self._file.flush()

    @property
    def digest(self) -> str:
        """The digest of all bytes so far."""
        return f"sha256:{self._hash.hexdigest()}"


class BlobStore:
    """The folder of blobs below ``root``, and small records that say which inputs became which blob."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, digest: str) -> Path:
        """Where the blob of this digest is, or would be."""
        return self.root / "blobs" / "sha256" / check_digest(digest).removeprefix("sha256:")

    def has(self, blob: Blob) -> bool:
        """Say whether the whole blob is here."""
        try:
            return self.path(blob.digest).stat().st_size == blob.size
        except OSError:
            return False

    def verify(self, blob: Blob) -> None:
        """Raise ImageError unless the blob is here with the size and the bytes its digest names."""
        if not self.has(blob):
            raise ImageError(f"the blob {blob.digest} of {blob.size} bytes is missing or has another size")
        if f"sha256:{file_digest(self.path(blob.digest))}" != blob.digest:
            raise ImageError(f"the blob {blob.digest} has other bytes than its digest names")

    def read(self, digest: str, limit: int) -> bytes:
        """Give a small blob's bytes, checked against the digest; ImageError past ``limit`` bytes."""
        try:
            with self.path(digest).open("rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise ImageError(f"the blob {digest} cannot be read: {error.strerror}") from None
        if len(data) > limit:
            raise ImageError(f"the blob {digest} has more than {limit} bytes")
        if digest_of(data) != digest:
            raise ImageError(f"the blob {digest} has other bytes than its digest names")
        return data

    def add_bytes(self, data: bytes, media_type: str) -> Blob:
        """Keep some bytes."""
        with self.adding() as file:
            file.write(data)
        return Blob(media_type, file.digest, file.size)

    @contextmanager
    def adding(self) -> Iterator[HashingFile]:
        """Give a file to write a blob into; it is kept under its digest when the block ends without an error."""
        folder = self.root / "blobs" / "sha256"
        folder.mkdir(parents=True, exist_ok=True)
        number, part = tempfile.mkstemp(prefix=".part-", dir=folder)
        try:
            with os.fdopen(number, "wb") as raw:
                file = HashingFile(raw)
                yield file
            Path(part).chmod(0o644)
            Path(part).rename(self.path(file.digest))
        finally:
            with suppress(FileNotFoundError):
                Path(part).unlink()

    def record(self, key: str) -> dict[str, Any] | None:
        """Give what was noted under a key; None when nothing was, or it is damaged."""
        try:
            found = json.loads((self.root / "records" / f"{key}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def note(self, key: str, document: dict[str, Any]) -> None:
        """Note something under a key, for later builds."""
        folder = self.root / "records"
        folder.mkdir(parents=True, exist_ok=True)
        number, part = tempfile.mkstemp(prefix=".part-", dir=folder)
        with os.fdopen(number, "wb") as file:
            file.write(to_json(document))
        Path(part).rename(folder / f"{key}.json")
