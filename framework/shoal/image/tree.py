"""What of a folder on this machine goes into a layer, and what is refused.

Modes become two, so that umask, owner and setuid bits of this machine stay here. A link that leads out of the
folder, a device and a private key are refused: the image would be broken, or tell what it must not.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Final

from shoal.core import limits
from shoal.core.errors import UsageError
from shoal.image.layer import FILE_MODE, FOLDER_MODE, PROGRAM_MODE, Entry

# Not part of a function when it runs: its tests, caches, and what starts with a dot (.git, .env, .venv).
_LEFT_OUT: Final = (".*", "__pycache__", "*.pyc", "test_*.py", "*_test.py", "conftest.py")
_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY( BLOCK)?-----")
_KEY_BYTES_MAX: Final = 64 * 2**10  # a private key is smaller

Skip = Callable[[str], bool]


def left_out(name: str) -> bool:
    """Say whether a file or folder of this name stays out of a function's image."""
    return any(fnmatch(name, pattern) for pattern in _LEFT_OUT)


def function_entries(folder: Path, at: str) -> list[Entry]:
    """List a function's files, placed below ``at``; UsageError names the first that may not be in an image."""
    found = list(_bounded(folder, folder_entries(folder, at, skip=left_out)))
    for entry in found:
        if entry.source is not None:
            _check_no_key(entry.source)
    return found


def folder_entries(
    root: Path, at: str, *, skip: Skip = lambda name: False, links_inside: bool = True
) -> Iterator[Entry]:
    """Yield everything below ``root`` that ``skip`` does not name; UsageError for what is no file, folder or link.

    ``links_inside=False`` takes links wherever they lead: ``root`` is a whole file system.
    """
    for path in _walk(root, skip):
        name = _text(path.relative_to(root), root)
        yield _entry(path, f"{at}/{name}" if at else name, root if links_inside else None)


def _walk(root: Path, skip: Skip) -> Iterator[Path]:
    with os.scandir(root) as scan:
        listed = sorted(scan, key=lambda item: os.fsencode(item.name))
    for item in listed:
        if skip(item.name):
            continue
        yield Path(item.path)
        if item.is_dir(follow_symlinks=False):
            yield from _walk(Path(item.path), skip)


def _text(path: Path, root: Path) -> str:
    try:
        return os.fsencode(path.as_posix()).decode("utf-8")
    except UnicodeDecodeError:
        shown = os.fsencode(path.as_posix())
        raise UsageError(f"the file name {shown!r} in {root} is not UTF-8; an image's file names must be") from None


def _entry(path: Path, name: str, root: Path | None) -> Entry:
    found = path.lstat()
    if stat.S_ISDIR(found.st_mode):
        return Entry(name, "folder", FOLDER_MODE)
    if stat.S_ISREG(found.st_mode):
        return Entry(name, "file", PROGRAM_MODE if found.st_mode & stat.S_IXUSR else FILE_MODE, source=path)
    if stat.S_ISLNK(found.st_mode):
        return Entry(name, "link", target=str(path.readlink()) if root is None else _link_target(path, root))
    raise UsageError(f"{path} is no file, folder or link (a device, pipe or socket); an image cannot have it")


def _link_target(path: Path, root: Path) -> str:
    """Give where a link leads, if that is inside the folder: elsewhere is another machine's file in the image."""
    target = path.readlink()
    joined = PurePosixPath(os.path.normpath(path.parent.relative_to(root) / target))
    if target.is_absolute() or ".." in joined.parts:
        raise UsageError(
            f"{path} is a link to {target}, outside of {root}; it would lead nowhere in an image",
            hint=f"copy the file into {path.parent}",
        )
    return _text(target, root)


@dataclass(slots=True)
class _Total:
    files: int = 0
    size: int = 0


def _bounded(folder: Path, entries: Iterator[Entry]) -> Iterator[Entry]:
    """Pass entries on until they are more, or larger, than code is."""
    total = _Total()
    for entry in entries:
        total.files += 1
        total.size += entry.source.stat().st_size if entry.source is not None else 0
        if total.files > limits.SOURCE_FILES_MAX or total.size > limits.SOURCE_BYTES_MAX:
            raise UsageError(
                f"{folder} has more than {limits.SOURCE_FILES_MAX} files or {limits.SOURCE_BYTES_MAX} bytes, "
                f"counted up to {entry.path}; a function's folder is code, not data"
            )
        yield entry


def _check_no_key(path: Path) -> None:
    if path.stat().st_size <= _KEY_BYTES_MAX and _PRIVATE_KEY.search(path.read_bytes()):
        raise UsageError(
            f"{path} holds a private key; everyone who may pull the image could read it",
            hint="keep it in a Kubernetes Secret and read it from the environment or a mounted file",
        )
