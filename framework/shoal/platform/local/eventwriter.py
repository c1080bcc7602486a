"""One thread that owns the event store: operations queue up and leave in one commit.

So the pace at which a disk flushes bounds the delay of an event, not the number of events.

An operation's result is given out only after the commit that holds it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from shoal.core import limits
from shoal.core.errors import OverloadError, ShoalError, StoreError
from shoal.platform.local.events_store import EventStore

T = TypeVar("T")


@dataclass(slots=True)
class _Operation:
    run: Callable[[EventStore], Any]
    future: Future[Any]
    writes: bool
    result: Any = None
    failure: Exception | None = None


class EventWriter:
    """Runs operations on the store's thread, in the order they were given."""

    def __init__(self, open_store: Callable[[], EventStore]) -> None:
        self._open = open_store
        self._queue: SimpleQueue[_Operation | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="event-store", daemon=True)
        self._started: Future[None] = Future()

    async def start(self) -> None:
        """Open the store; StoreError when that fails."""
        self._thread.start()
        await asyncio.wrap_future(self._started)

    async def write(self, run: Callable[[EventStore], T]) -> T:
        """Run a change and wait until it is on disk; StoreError when it cannot be, OverloadError in a jam."""
        if self._queue.qsize() >= limits.BROKER_WRITES_QUEUED_MAX:
            raise OverloadError(
                f"{limits.BROKER_WRITES_QUEUED_MAX} operations wait for the event store; it takes no more",
                retry_after_s=1.0,
            )
        return await self._submit(run, writes=True)

    async def read(self, run: Callable[[EventStore], T]) -> T:
        """Run a query; it sees what was committed before, and earlier operations."""
        return await self._submit(run, writes=False)

    async def stop(self) -> None:
        """Finish what is queued, then close the store."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _submit(self, run: Callable[[EventStore], T], *, writes: bool) -> T:
        future: Future[T] = Future()
        self._queue.put(_Operation(run, future, writes))
        return await asyncio.wrap_future(future)

    def _work(self) -> None:
        try:
            store = self._open()
        except ShoalError as error:
            self._started.set_exception(error)
            return
        self._started.set_result(None)
        try:
            while group := self._next_group():
                _commit(store, group)
        finally:
            store.close()

    def _next_group(self) -> list[_Operation]:
        """Wait for an operation and take those that came meanwhile; nothing at the end."""
        first = self._queue.get()
        group: list[_Operation] = []
        while first is not None:
            group.append(first)
            if len(group) >= limits.BROKER_GROUP_MAX:
                break
            try:
                first = self._queue.get_nowait()
            except Empty:
                break
        else:
            if group:
                self._queue.put(None)  # the end comes after this group
        return group


def _commit(store: EventStore, group: list[_Operation]) -> None:
    """Run a group in one transaction; where that fails, each alone, so that none fails for its neighbour's sake."""
    group = [operation for operation in group if operation.future.set_running_or_notify_cancel()]
    try:
        _transact(store, group)
    except Exception:
        for operation in group:
            _alone(store, operation)
    for operation in group:
        if operation.failure is not None:
            operation.future.set_exception(operation.failure)
        else:
            operation.future.set_result(operation.result)


def _alone(store: EventStore, operation: _Operation) -> None:
    try:
        _transact(store, [operation])
    except sqlite3.Error as error:
        operation.failure = StoreError(f"the event store cannot keep it: {error}", hint="df -h", retry_after_s=5.0)
    except Exception as error:
        operation.failure = error  # raised again where the operation was asked for


def _transact(store: EventStore, group: list[_Operation]) -> None:
    connection = store.connection
    connection.execute("BEGIN IMMEDIATE" if any(operation.writes for operation in group) else "BEGIN")
    try:
        for operation in group:
            _run(store, operation)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _run(store: EventStore, operation: _Operation) -> None:
    operation.failure = None
    try:
        operation.result = operation.run(store)
    except ShoalError as error:
        operation.failure = error
