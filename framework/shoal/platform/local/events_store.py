"""Events and their deliveries in SQLite: what the broker has promised, and how far it is with each promise.

Every function runs on the writer's thread inside its transaction, and raises ShoalError only where what it has
changed by then may stay, so that its neighbours in the same commit are not touched. Times are seconds since the
epoch.

An event with ``fanned = 0`` came while no triggers were known; it is matched when they are. ``left`` counts the
event's deliveries that are pending, retrying or dead; at zero the event is finished and ages out.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shoal.core import limits
from shoal.core.errors import ConflictError, NotFoundError, StoreError
from shoal.platform.local import databases
from shoal.platform.local.delivery import OPEN_STATES, TRANSITIONS, State, Trigger, Verb

_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, broker TEXT NOT NULL, id TEXT NOT NULL, source TEXT NOT NULL,
  type TEXT NOT NULL, attributes TEXT NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL, hops INTEGER NOT NULL,
  accepted REAL NOT NULL, fanned INTEGER NOT NULL, left INTEGER NOT NULL, finished REAL
) STRICT;
CREATE TABLE deliveries (
  id INTEGER PRIMARY KEY AUTOINCREMENT, event INTEGER NOT NULL REFERENCES events(seq) ON DELETE CASCADE,
  trigger TEXT NOT NULL, function TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL, due REAL NOT NULL,
  code INTEGER, reason TEXT NOT NULL, changed REAL NOT NULL
) STRICT;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE INDEX unfanned ON events(seq) WHERE fanned = 0;
CREATE INDEX finished ON events(finished) WHERE finished IS NOT NULL;
CREATE INDEX of_event ON deliveries(event);
CREATE INDEX open ON deliveries(trigger, due, id) WHERE state IN ('pending', 'retrying');
CREATE INDEX dead ON deliveries(id) WHERE state = 'dead';
"""
_LOST: Final = "events not delivered yet, and dead letters"
_PAGE_BYTES: Final = 4096
_PAGES_PER_EVENT: Final = 2  # attributes, headers and index entries, rounded up
_RESERVE: Final = 0.1  # of the database, kept from newcomers
_MADE_ROOM_ROWS: Final = 100  # finished events removed at a time
_OPEN: Final = "state IN ('pending', 'retrying')"  # as the index has it, or it is not used
_JOURNAL_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A checked event as it is kept: its attributes as text, and its binary-mode headers and body."""

    broker: str
    attributes: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    hops: int = 0


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery to be tried now, with what is sent."""

    id: int
    event: int
    broker: str
    attempts: int  # so far
    headers: Mapping[str, str]
    body: bytes
    hops: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """How an attempt ended: ``due`` is when the next one is, if there is one; ``reply`` is published with it."""

    verb: Verb
    code: int | None = None
    reason: str = ""
    due: float = 0.0
    reply: NewEvent | None = None


class EventStore:
    """One connection, used by one thread."""

    def __init__(self, path: Path, *, bytes_max: int = limits.BROKER_BYTES_MAX) -> None:
        """Open or create the database; StoreError when that fails, PlatformError when it is broken."""
        self._pages_max = bytes_max // _PAGE_BYTES
        try:
            self.connection = _connect(path, self._pages_max)
        except sqlite3.Error as error:
            if told := databases.broken(path, error, _LOST):
                raise told from error
            raise StoreError(f"{path} cannot be opened as the broker's database: {error}") from error

    def close(self) -> None:
        """Close the database."""
        self.connection.close()

    def admit(self, events: Sequence[NewEvent], triggers: Collection[Trigger] | None, now: float) -> set[str]:
        """Accept events from outside if they leave the reserve alone; StoreError when the database is full.

        Finished events give way first, oldest first. The reserve is for what was promised before: deliveries,
        their outcomes and replies must not need room that newcomers have taken.
        """
        pages = sum(len(event.body) // _PAGE_BYTES + _PAGES_PER_EVENT for event in events)
        while self._room() < pages:
            oldest = self._all(
                "SELECT seq FROM events WHERE finished IS NOT NULL ORDER BY finished, seq LIMIT ?", _MADE_ROOM_ROWS
            )
            if not oldest:
                size = self._pages_max * _PAGE_BYTES
                raise StoreError(f"the event store is full ({size} bytes, all waiting)", retry_after_s=5.0)
            for (seq,) in oldest:
                self._run("DELETE FROM events WHERE seq = ?", seq)
        return self.accept(events, triggers, now)

    def accept(self, events: Sequence[NewEvent], triggers: Collection[Trigger] | None, now: float) -> set[str]:
        """Keep events and their deliveries; give the triggers concerned. ``triggers`` None: not known yet."""
        self._count("accepted", len(events))
        concerned: set[str] = set()
        for event in events:
            seq = self._insert(event, now, fanned=triggers is not None)
            if triggers is not None:
                concerned |= self._fan_out(seq, event.broker, event.attributes, triggers, now)
        return concerned

    def fan_out_held(self, triggers: Collection[Trigger], now: float, count_max: int) -> int:
        """Match up to ``count_max`` events that came before triggers were known; give how many there were."""
        rows = self._all(
            "SELECT seq, broker, attributes FROM events WHERE fanned = 0 ORDER BY seq LIMIT ?", count_max
        )
        for seq, broker, attributes in rows:
            self._run("UPDATE events SET fanned = 1 WHERE seq = ?", seq)
            self._fan_out(seq, broker, json.loads(attributes), triggers, now)
        return len(rows)

    def due(
        self, trigger: str, now: float, skip: Collection[int], count_max: int
    ) -> tuple[list[int], float | None]:
        """Give deliveries whose time has come, oldest first, and when the next one's will (None: there is none)."""
        rows = self._all(
            f"SELECT id, due FROM deliveries WHERE {_OPEN} AND trigger = ? ORDER BY due, id LIMIT ?",  # noqa: S608
            trigger,
            len(skip) + count_max + 1,
        )
        waiting = [(identity, due) for identity, due in rows if identity not in skip]
        ready = [identity for identity, due in waiting if due <= now][:count_max]
        later = [due for identity, due in waiting if identity not in ready]
        return ready, min(later, default=None)

    def load(self, delivery: int) -> Due | None:
        """Give what a delivery sends; None when it is no longer to be delivered."""
        row = self._one(
            "SELECT d.id, d.event, e.broker, d.attempts, e.headers, e.body, e.hops"
            " FROM deliveries d JOIN events e ON e.seq = d.event"
            " WHERE d.id = ? AND d.state IN ('pending', 'retrying')",
            delivery,
        )
        if row is None:
            return None
        identity, event, broker, attempts, headers, body, hops = row
        return Due(identity, event, broker, attempts, json.loads(headers), body, hops)

    def settle(
        self, delivery: int, outcome: Settlement, triggers: Collection[Trigger] | None, now: float
    ) -> set[str]:
        """Record how an attempt ended, and publish its reply in the same commit; give the triggers concerned.

        A delivery that was dropped meanwhile stays dropped, and its reply is not published.
        """
        state, event = self._state(delivery)
        after = TRANSITIONS.get((state, outcome.verb)) if state in OPEN_STATES else None
        if after is None:
            return set()
        self._run(
            "UPDATE deliveries SET state = ?, attempts = attempts + 1, due = ?, code = ?, reason = ?, changed = ?"
            " WHERE id = ?",
            after, outcome.due, outcome.code, outcome.reason, now, delivery,
        )  # fmt: skip
        if after == "done":
            self._count("delivered", 1)
            self._leave(event, now)
        return self.accept([outcome.reply], triggers, now) if outcome.reply else set()

    def drop_orphans(self, triggers: Collection[str], now: float) -> dict[str, int]:
        """Drop what is to be delivered for triggers that are gone; give how many per trigger."""
        rows = self._all(
            f"SELECT id, event, trigger FROM deliveries WHERE {_OPEN}"  # noqa: S608
            " AND trigger NOT IN (SELECT value FROM json_each(?))",
            json.dumps(sorted(triggers)),
        )
        for delivery, event, _ in rows:
            self._drop(delivery, event, now)
        return dict(Counter(trigger for *_, trigger in rows))

    def redrive(self, delivery: int, triggers: Collection[str], now: float) -> str:
        """Bring a dead letter back with all its retries; give its trigger.

        NotFoundError when there is none of that number, ConflictError when its trigger is gone.
        """
        found = self._one("SELECT trigger FROM deliveries WHERE id = ? AND state = 'dead'", delivery)
        if found is None:
            raise NotFoundError(f"there is no dead letter {delivery}")
        if found[0] not in triggers:
            raise ConflictError(f"dead letter {delivery} is for trigger {found[0]!r}, which is gone")
        self._run(
            "UPDATE deliveries SET state = ?, attempts = 0, due = ?, changed = ? WHERE id = ?",
            TRANSITIONS["dead", "redrive"], now, now, delivery,
        )  # fmt: skip
        return str(found[0])

    def dead(self, count_max: int) -> list[dict[str, Any]]:
        """List dead letters, newest first."""
        rows = self._all(
            "SELECT d.id, d.trigger, d.function, d.attempts, d.code, d.reason, d.changed,"
            " e.broker, e.id, e.source, e.type, length(e.body)"
            " FROM deliveries d JOIN events e ON e.seq = d.event"
            " WHERE d.state = 'dead' ORDER BY d.id DESC LIMIT ?",
            count_max,
        )
        names = ("id", "trigger", "function", "attempts", "code", "reason", "time", "broker")
        return [
            dict(zip(names, row[:8], strict=True))
            | {"event": {"id": row[8], "source": row[9], "type": row[10], "data_bytes": row[11]}}
            for row in rows
        ]

    def stats(self) -> dict[str, int]:
        """Count: accepted, delivered, dropped since the database was made; pending, retrying, dead and held now."""
        counted = {"accepted": 0, "delivered": 0, "dropped": 0}
        counted |= dict(self._all("SELECT name, value FROM counters"))
        for state in OPEN_STATES:
            counted[state] = self._number(f"SELECT count(*) FROM deliveries WHERE {_OPEN} AND state = ?", state)  # noqa: S608
        counted["dead"] = self._number("SELECT count(*) FROM deliveries WHERE state = 'dead'")
        counted["held"] = self._number("SELECT count(*) FROM events WHERE fanned = 0")
        return counted

    def prune(self, now: float) -> int:
        """Remove what the retention rules no longer keep, a bounded number of rows; give how many."""
        removed = 0
        for delivery, event in self._old_dead(now):
            self._drop(delivery, event, now)
            removed += 1
        for (seq,) in self._old_finished(now):
            self._run("DELETE FROM events WHERE seq = ?", seq)
            removed += 1
        return removed

    def _room(self) -> int:
        """Pages free for newcomers."""
        used = self._number("PRAGMA page_count") - self._number("PRAGMA freelist_count")
        return int(self._pages_max * (1 - _RESERVE)) - used

    def _old_dead(self, now: float) -> list[Any]:
        return self._all(
            "SELECT id, event FROM deliveries WHERE state = 'dead' AND (changed < ? OR id <= coalesce("
            "(SELECT id FROM deliveries WHERE state = 'dead' ORDER BY id DESC LIMIT 1 OFFSET ?), -1)) LIMIT ?",
            now - limits.BROKER_DEAD_KEPT_SECONDS_MAX,
            limits.BROKER_DEAD_KEPT_MAX,
            limits.BROKER_PRUNE_ROWS_MAX,
        )

    def _old_finished(self, now: float) -> list[Any]:
        return self._all(
            "SELECT seq FROM events WHERE finished IS NOT NULL AND (finished < ? OR (finished, seq) <= ("
            "SELECT finished, seq FROM events WHERE finished IS NOT NULL"
            " ORDER BY finished DESC, seq DESC LIMIT 1 OFFSET ?)) ORDER BY finished, seq LIMIT ?",
            now - limits.BROKER_KEPT_SECONDS_MAX,
            limits.BROKER_EVENTS_KEPT_MAX,
            limits.BROKER_PRUNE_ROWS_MAX,
        )

    def _insert(self, event: NewEvent, now: float, *, fanned: bool) -> int:
        named = event.attributes
        cursor = self._run(
            "INSERT INTO events (broker, id, source, type, attributes, headers, body, hops, accepted, fanned, left,"
            " finished) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, NULL)",
            event.broker, named["id"], named["source"], named["type"], json.dumps(dict(named)),
            json.dumps(dict(event.headers)), event.body, event.hops, now, int(fanned),
        )  # fmt: skip
        return int(cursor.lastrowid or 0)

    def _fan_out(
        self, seq: int, broker: str, attributes: Mapping[str, str], triggers: Iterable[Trigger], now: float
    ) -> set[str]:
        matching = [trigger for trigger in triggers if trigger.matches(broker, attributes)]
        for trigger in matching:
            self._run(
                "INSERT INTO deliveries (event, trigger, function, state, attempts, due, reason, changed)"
                " VALUES (?, ?, ?, 'pending', 0, ?, '', ?)",
                seq, trigger.name, trigger.function, now, now,
            )  # fmt: skip
        self._run(
            "UPDATE events SET left = ?, finished = ? WHERE seq = ?", len(matching), None if matching else now, seq
        )
        return {trigger.name for trigger in matching}

    def _drop(self, delivery: int, event: int, now: float) -> None:
        state, _ = self._state(delivery)
        self._run(
            "UPDATE deliveries SET state = ?, changed = ? WHERE id = ?", TRANSITIONS[state, "drop"], now, delivery
        )
        self._count("dropped", 1)
        self._leave(event, now)

    def _leave(self, event: int, now: float) -> None:
        """One delivery fewer stands between the event and its end."""
        self._run(
            "UPDATE events SET left = left - 1, finished = CASE WHEN left = 1 THEN ? END WHERE seq = ?", now, event
        )

    def _state(self, delivery: int) -> tuple[State, int]:
        found = self._one("SELECT state, event FROM deliveries WHERE id = ?", delivery)
        return found if found is not None else ("dropped", 0)

    def _count(self, name: str, by: int) -> None:
        self._run(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET value = value + excluded.value",
            name,
            by,
        )

    def _run(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self.connection.execute(sql, values)

    def _all(self, sql: str, *values: Any) -> list[Any]:
        return self._run(sql, *values).fetchall()

    def _one(self, sql: str, *values: Any) -> Any:
        return self._run(sql, *values).fetchone()

    def _number(self, sql: str, *values: Any) -> int:
        return int(self._one(sql, *values)[0])


def _connect(path: Path, pages_max: int) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=limits.BROKER_BUSY_SECONDS_MAX, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk, not on its way
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES}")
    connection.execute(f"PRAGMA max_page_count = {pages_max}")
    databases.check(connection)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, _VERSION):
        connection.close()
        raise StoreError(f"{path} has format {version}; this version of shoal reads format {_VERSION}")
    if version == 0:
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
    return connection
