"""Content hashes: the same files give the same digest on any machine, path, umask and day."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_CHUNK_BYTES: Final = 1 << 20
_IGNORED_NAMES: Final = frozenset({"__pycache__", ".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache"})


def file_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def bytes_digest(raw: bytes) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(raw).hexdigest()


def parts_digest(parts: Iterable[tuple[str, str]]) -> str:
    """Hexadecimal SHA-256 over (name, hexadecimal digest) pairs; their order does not matter."""
    digest = hashlib.sha256()
    for name, value in sorted(parts):
        digest.update(f"{len(name)}:{name}={value}\n".encode())
    return digest.hexdigest()


def counts(path: Path) -> bool:
    """Say whether a file of this relative name counts: caches and version control do not."""
    return not _IGNORED_NAMES.intersection(path.parts) and path.suffix != ".pyc"


def tree_files(root: Path) -> list[Path]:
    """List the files below ``root`` that count, relative and sorted; caches and version control do not count."""
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(filter(counts, found))


def tree_digest(root: Path) -> str:
    """Hexadecimal SHA-256 over the relative names and bytes of the files below ``root``."""
    return parts_digest((path.as_posix(), file_digest(root / path)) for path in tree_files(root))
