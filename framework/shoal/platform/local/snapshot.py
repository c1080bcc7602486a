"""The copy of a function's folder that is checked, and then deployed: what changes meanwhile changes neither."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from shoal.core import limits
from shoal.core.errors import UsageError
from shoal.core.folders import code_files

ATTEMPTS_MAX: Final = 3
_Seen = dict[Path, tuple[int, int]]  # relative path -> size and time of change


def take(source: Path, into: Path) -> None:
    """Copy the files that count, read-only, as they are together at one moment.

    Raises SpecError for what no function's folder may have, UsageError when there is too much of it for code, when
    it cannot be read, or when it changes during each of a few attempts.
    """
    changed = ""
    for _ in range(ATTEMPTS_MAX):
        shutil.rmtree(into, ignore_errors=True)
        try:
            changed = _copy(source, into)
        except FileNotFoundError as error:
            changed = str(error.filename)
        except OSError as error:
            raise UsageError(f"{error.filename or source} cannot be copied: {error.strerror or error}") from error
        if not changed:
            return
    raise UsageError(
        f"{source} keeps changing while it is copied, the last time {changed!r}",
        hint="deploy it again once nothing writes into it",
    )


def _copy(source: Path, into: Path) -> str:
    """Copy once; gives the name of a file that changed meanwhile, or nothing."""
    before = _look(source)
    _check_size(source, before)
    into.mkdir(parents=True)
    for file in before:
        (into / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, into / file)
        (into / file).chmod(0o444)
    after = _look(source)
    return next((str(file) for file in {**before, **after} if before.get(file) != after.get(file)), "")


def _look(source: Path) -> _Seen:
    stats = {file: (source / file).stat() for file in code_files(source)}
    return {file: (stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}


def _check_size(source: Path, seen: _Seen) -> None:
    total = sum(size for size, _ in seen.values())
    if len(seen) > limits.SOURCE_FILES_MAX or total > limits.SOURCE_BYTES_MAX:
        raise UsageError(
            f"{source} has {len(seen)} files with {total} bytes; "
            f"a function's folder may have {limits.SOURCE_FILES_MAX} with {limits.SOURCE_BYTES_MAX}"
        )
