"""Telling a database that is broken for good from one that only cannot be used now."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from shoal.core.errors import PlatformError

_BROKEN: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_PRIMARY: Final = 0xFF  # the part of SQLite's result code that names the kind


def check(connection: sqlite3.Connection) -> None:
    """Read the whole database; raises sqlite3.Error at the first page that contradicts another."""
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        error = sqlite3.DatabaseError(" ".join(found.split()))
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def broken(path: Path, error: sqlite3.Error, lost: str) -> PlatformError | None:
    """Give what to tell of a file that no later attempt will open, with the way on and what it costs; else None."""
    if path.is_dir():
        reason = "it is a folder"
    elif getattr(error, "sqlite_errorcode", 0) & _PRIMARY in _BROKEN:
        reason = str(error)
    else:
        return None
    journals = [str(left) for left in (Path(f"{path}-wal"), Path(f"{path}-shm")) if left.exists()]
    also = f" && rm {' '.join(journals)}" if journals else ""
    return PlatformError(
        f"{path} is not a usable database: {reason}",
        hint=f"mv {path} {path}.broken{also}   (then start again; lost with it: {lost})",
    )
