"""What survives: functions, immutable revisions, traffic and its history, in one SQLite file.

Each change is one function and one transaction, written through to the disk before it returns (WAL with
``synchronous=FULL``): after ``kill -9`` a change is there as a whole or not at all. Only the node opens the file.
What the database itself refuses (a full disk, a lock) is a StoreError in every method.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from shoal.core import limits, names
from shoal.core.errors import ConflictError, NotFoundError, PlatformError, StoreError, UsageError
from shoal.platform.local import databases
from shoal.platform.local.records import Revision, RunSpec, percents, tags, with_percents
from shoal.platform.port import Target

SCHEMA_VERSION: Final = 1
_BUSY_SECONDS: Final = 10.0
_LOST: Final = "functions, revisions and traffic, so deploy again"

_SCHEMA: Final = """
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE functions (name TEXT PRIMARY KEY, revisions_made INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE revisions (
  name TEXT PRIMARY KEY,
  function TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE,
  number INTEGER NOT NULL, digest TEXT NOT NULL, spec TEXT NOT NULL, models TEXT NOT NULL,
  created REAL NOT NULL, ready INTEGER NOT NULL, UNIQUE (function, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE traffic (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  function TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE,
  changed REAL NOT NULL, targets TEXT NOT NULL,
  origin INTEGER  -- the entry a rollback went back to; NULL when it is an entry of its own
) STRICT;
CREATE INDEX traffic_by_function ON traffic (function, id);
"""


class State:
    """The platform's memory; not for use from several threads."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; StoreError when that fails, PlatformError when it is broken or newer."""
        self._path = path
        with _as_ours(path):
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._db.execute(f"PRAGMA {pragma}")
            databases.check(self._db)
            self._migrate(path)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # Reading.

    def setting(self, key: str, default: Any = None) -> Any:
        """Give a remembered setting."""
        row = self._one("SELECT value FROM settings WHERE key = ?", key)
        return default if row is None else json.loads(row["value"])

    def function_names(self) -> list[str]:
        """Name the functions that have a revision, sorted."""
        rows = self._all("SELECT DISTINCT function FROM revisions WHERE ready ORDER BY function")
        return [row["function"] for row in rows]

    def revisions(self, function: str) -> list[Revision]:
        """Give a function's ready revisions, newest first."""
        rows = self._all("SELECT * FROM revisions WHERE function = ? AND ready ORDER BY number DESC", function)
        return [_revision(row) for row in rows]

    def unfinished(self) -> list[Revision]:
        """Give the revisions whose deployment has not ended."""
        return [_revision(row) for row in self._all("SELECT * FROM revisions WHERE NOT ready")]

    def revision(self, name: str) -> Revision:
        """Give one revision, ready or not; NotFoundError if there is none."""
        row = self._one("SELECT * FROM revisions WHERE name = ?", name)
        if row is None:
            raise NotFoundError(f"there is no revision {name!r}", hint="shoal status")
        return _revision(row)

    def traffic(self, function: str) -> tuple[Target, ...]:
        """Give the split in effect; empty when no traffic was ever set."""
        row = self._newest(function)
        return () if row is None else _targets(row["targets"])

    def history(self, function: str) -> list[Target]:
        """Give every target of every split remembered for a function."""
        rows = self._all("SELECT targets FROM traffic WHERE function = ?", function)
        return [target for row in rows for target in _targets(row["targets"])]

    def require(self, function: str) -> None:
        """Raise NotFoundError, naming those that exist, unless the function has a revision."""
        known = self.function_names()
        if function not in known:
            listed = ", ".join(known) or "none yet"
            raise NotFoundError(f"there is no function {function!r}; there is {listed}", hint="shoal status")

    # Changing: one transaction each.

    def remember(self, key: str, value: Any) -> None:
        """Keep a setting."""
        with self._change():
            self._db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, json.dumps(value)))

    def add_revision(
        self, function: str, *, digest: str, spec: RunSpec, models: Mapping[str, str], now: float
    ) -> Revision:
        """Make the next revision of a function, not ready yet; numbers of failed ones are not used again."""
        with self._change():
            self._check_room(function)
            self._db.execute("INSERT OR IGNORE INTO functions VALUES (?, 0)", (function,))
            self._db.execute("UPDATE functions SET revisions_made = revisions_made + 1 WHERE name = ?", (function,))
            row = self._one("SELECT revisions_made AS made FROM functions WHERE name = ?", function)
            number = int(row["made"]) if row else 1
            name = names.revision(function, number)
            values = (name, function, number, digest, json.dumps(spec.to_json()), json.dumps(dict(models)), now)
            self._db.execute("INSERT INTO revisions VALUES (?, ?, ?, ?, ?, ?, ?, 0)", values)
        return self.revision(name)

    def publish_revision(self, name: str, targets: Sequence[Target] | None, now: float) -> None:
        """Mark a revision ready and, in the same step, put a new split in effect (None: leave the split)."""
        function = self.revision(name).function
        with self._change():
            self._db.execute("UPDATE revisions SET ready = 1 WHERE name = ?", (name,))
            if targets is not None:
                self._append(function, targets, now)

    def set_traffic(self, function: str, targets: Sequence[Target], now: float) -> None:
        """Put a split in effect and into the history; UsageError when it breaks a rule of splits."""
        self.require(function)
        self.check_split(function, targets)
        with self._change():
            if percents(self.traffic(function)) != percents(targets) or tags(self.traffic(function)) != tags(
                targets
            ):
                self._append(function, targets, now)

    def rollback(self, function: str, now: float) -> tuple[Target, ...]:
        """Go back to the percents before the newest change of percents, tags as they are; returns the split.

        Going back again goes further back, never forward to what was left. ConflictError at the beginning.
        """
        self.require(function)
        with self._change():
            before, targets = self._before(function)
            self._append(function, targets, now, origin=before["origin"] or before["id"])
        return targets

    def rollback_split(self, function: str) -> tuple[Target, ...]:
        """Give the split ``rollback`` would put in effect; ConflictError as there."""
        self.require(function)
        return self._before(function)[1]

    def remove_revision(self, name: str) -> None:
        """Forget a revision, and its function if that was all it had; ConflictError if it is in the split."""
        function = self.revision(name).function
        with self._change():
            if any(target.revision == name for target in self.traffic(function)):
                raise ConflictError(f"revision {name!r} is in the traffic of {function!r}")
            self._db.execute("DELETE FROM revisions WHERE name = ?", (name,))
            self._db.execute(
                "DELETE FROM functions WHERE name = ? AND NOT EXISTS"
                " (SELECT 1 FROM revisions WHERE function = functions.name)",
                (function,),
            )

    def remove_function(self, function: str) -> None:
        """Forget a function, its revisions and its traffic."""
        self.require(function)
        with self._change():
            self._db.execute("DELETE FROM functions WHERE name = ?", (function,))

    def check_split(self, function: str, targets: Sequence[Target]) -> None:
        """Raise UsageError unless percents sum to 100, tags are unique and usable, and the revisions exist."""
        known = [revision.name for revision in self.revisions(function)]
        for target in targets:
            if target.revision not in known:
                raise NotFoundError(f"{function!r} has no revision {target.revision!r}; it has {', '.join(known)}")
            if not 0 <= target.percent <= 100:
                raise UsageError(f"{target.percent} % for {target.revision} is not between 0 and 100")
            if target.tag:
                names.check_tag(target.tag)
        used = [target.tag for target in targets if target.tag]
        if len(used) != len(set(used)):
            raise UsageError(f"each tag names one revision: {', '.join(sorted(used))}")
        total = sum(target.percent for target in targets)
        if total != 100:
            raise UsageError(
                f"the percents sum to {total}, not 100", hint=f"shoal traffic {function} {known[0]}=100"
            )

    # Inside.

    def _migrate(self, path: Path) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise PlatformError(
                f"{path} was written by a newer shoal (schema {version}; this one knows {SCHEMA_VERSION})",
                hint="install that shoal again, or choose another SHOAL_HOME",
            )
        if version == 0:
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Make one transaction of what happens inside: kept as a whole, or StoreError and not at all."""
        with _as_ours(self._path), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def _check_room(self, function: str) -> None:
        row = self._one("SELECT count(*) AS n FROM functions WHERE name <> ?", function)
        if row is not None and row["n"] >= limits.FUNCTIONS_MAX:
            raise UsageError(
                f"{limits.FUNCTIONS_MAX} functions are the most one machine takes", hint="shoal delete NAME"
            )

    def _append(self, function: str, targets: Sequence[Target], now: float, origin: int | None = None) -> None:
        text = json.dumps([asdict(target) for target in targets])
        values = (function, now, text, origin)
        self._db.execute("INSERT INTO traffic (function, changed, targets, origin) VALUES (?, ?, ?, ?)", values)
        self._db.execute(
            "DELETE FROM traffic WHERE function = ? AND id NOT IN"
            " (SELECT id FROM traffic WHERE function = ? ORDER BY id DESC LIMIT ?)",
            (function, function, limits.TRAFFIC_HISTORY_MAX),
        )

    def _before(self, function: str) -> tuple[sqlite3.Row, tuple[Target, ...]]:
        newest = self._newest(function)
        if newest is None:
            raise ConflictError(
                f"{function!r} has no traffic to bring back", hint=f"shoal traffic {function} --help"
            )
        now = _targets(newest["targets"])
        known = {revision.name for revision in self.revisions(function)}
        earlier = "SELECT * FROM traffic WHERE function = ? AND id < ? ORDER BY id DESC"
        for row in self._all(earlier, function, newest["origin"] or newest["id"]):
            shares = percents(_targets(row["targets"]))
            if shares != percents(now) and known.issuperset(shares):
                return row, with_percents(shares, tags(now))
        raise ConflictError(f"the traffic of {function!r} has nothing before it to go back to", hint="shoal status")

    def _newest(self, function: str) -> sqlite3.Row | None:
        return self._one("SELECT * FROM traffic WHERE function = ? ORDER BY id DESC LIMIT 1", function)

    def _one(self, query: str, *values: Any) -> sqlite3.Row | None:
        with _as_ours(self._path), closing(self._db.execute(query, values)) as cursor:
            row: sqlite3.Row | None = cursor.fetchone()
        return row

    def _all(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with _as_ours(self._path):
            return self._db.execute(query, values).fetchall()


@contextmanager
def _as_ours(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if told := databases.broken(path, error, _LOST):
            raise told from error
        raise StoreError(f"{path} cannot be read or written: {error}", hint="df -h") from error


def _revision(row: sqlite3.Row) -> Revision:
    return Revision(
        name=row["name"],
        function=row["function"],
        number=row["number"],
        digest=row["digest"],
        spec=RunSpec.from_json(json.loads(row["spec"])),
        models=json.loads(row["models"]),
        created=row["created"],
        ready=bool(row["ready"]),
    )


def _targets(text: str) -> tuple[Target, ...]:
    return tuple(Target(**target) for target in json.loads(text))
