"""Which files of a folder count, held to the rules that make a copy of it mean the same.

A name that is no text cannot be hashed or written down, a pipe or a device has no content to copy, and a link that
leads out of the folder brings what its author may never have meant to deploy.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from shoal.core.errors import SpecError
from shoal.core.hashing import counts, tree_files


def code_files(root: Path) -> list[Path]:
    """List a function's files, relative and sorted; SpecError as ``model_files``, and for a link out of it."""
    inside = root.resolve()
    for path in _entries(root):
        if path.is_symlink() and not _target(path).is_relative_to(inside):
            message = f"the link {_shown(path, root)} leads out of the folder, to {os.readlink(path)!r}"
            raise SpecError(message, where=_text(root), hint="put the file itself into the folder")
    return model_files(root)


def model_files(root: Path) -> list[Path]:
    """List a model's files, relative and sorted; SpecError for a name that is not UTF-8, or no regular file."""
    for path in _entries(root):
        try:
            str(path.relative_to(root)).encode()
        except UnicodeEncodeError:
            message = f"the name {_shown(path, root)} is not UTF-8"
            raise SpecError(message, where=_text(root), hint="rename the file") from None
        check_regular(path, folders=True)
    return tree_files(root)


def check_regular(path: Path, *, folders: bool = False) -> None:
    """Raise SpecError when there is something under this name that is no file (nor, with ``folders``, a folder)."""
    try:
        mode = path.stat().st_mode
    except OSError:  # not there, or a link to what is not there
        return
    if not stat.S_ISREG(mode) and not (folders and stat.S_ISDIR(mode)):
        raise SpecError("is not a regular file", where=_text(path), hint=f"ls -ld {_text(path)}")


def _entries(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if counts(path.relative_to(root)))


def _target(link: Path) -> Path:
    try:
        return link.resolve()
    except (OSError, RuntimeError):  # a loop: it leads nowhere
        return link.parent.resolve() / link.name


def _shown(path: Path, root: Path) -> str:
    return repr(str(path.relative_to(root)))


def _text(path: Path) -> str:
    """Give a path as text that any stream takes: bytes that are no text as question marks."""
    return os.fsencode(path).decode("utf-8", "replace")
