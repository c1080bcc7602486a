"""One replica of the pool: its connections, who waits for one, and whether it is worth asking now."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from shoal.core.errors import ModelDeadlineError, ModelOverloadError, PoolUnreachableError, UsageError
from shoal.core.limits import POOL_CONNECTIONS_MAX, POOL_COOLDOWN_SECONDS, POOL_WAITERS_MAX, RETRY_AFTER_SECONDS
from shoal.triton.connection import Connection, connect

ANY_MODEL: Final = ""


class Replica:
    """Connections to one address: reused newest first, at most ``connections_max``, further calls wait in line."""

    def __init__(self, address: str, connections_max: int = POOL_CONNECTIONS_MAX) -> None:
        self.address = address
        self.host, self.port = _split(address)
        self.in_flight = 0  # calls given to this replica and not ended, waiting ones included
        self._connections_max = connections_max
        self._open: set[Connection] = set()
        self._opening = 0
        self._idle: list[Connection] = []
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()  # None: the right to open one
        self._cooling: dict[str, float] = {}
        self._closed = False

    async def acquire(self, deadline: float) -> Connection:
        """Give a connection on which nothing is in flight, before ``deadline`` (loop time).

        Raises PoolUnreachableError when none can be opened, ModelOverloadError when too many calls wait already,
        ModelDeadlineError when the turn did not come. Nothing has been sent when this raises.
        """
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                return connection
            self._drop(connection)
        if len(self._open) + self._opening < self._connections_max:
            return await self._connect(deadline)
        return await self._wait(deadline) or await self._connect(deadline, reserved=True)

    def release(self, connection: Connection) -> None:
        """Take a connection back: to the next in line, to the idle ones, or away if it cannot be reused."""
        if not connection.reusable or self._closed:
            self._drop(connection)
            self._grant()
        elif (waiter := self._next()) is not None:
            waiter.set_result(connection)
        else:
            self._idle.append(connection)

    def pass_over(self, now: float, model: str = ANY_MODEL) -> None:
        """Have other replicas asked first for a while: for one model it does not hold, or for all."""
        self._cooling[model] = now + POOL_COOLDOWN_SECONDS

    def is_passed_over(self, now: float, model: str) -> bool:
        """Whether another replica should be asked first."""
        if not self._cooling:
            return False
        self._cooling = {key: until for key, until in self._cooling.items() if until > now}
        return ANY_MODEL in self._cooling or model in self._cooling

    def close(self) -> None:
        """End every connection and turn away who waits."""
        self._closed = True
        self._idle.clear()
        for connection in tuple(self._open):
            connection.close()
        while (waiter := self._next()) is not None:
            waiter.set_exception(PoolUnreachableError("the pool client is closed"))

    async def _connect(self, deadline: float, *, reserved: bool = False) -> Connection:
        self._opening += 0 if reserved else 1
        try:
            connection = await connect(self.host, self.port, deadline, self._lost)
        except BaseException:
            self._opening -= 1
            self._grant()
            raise
        self._opening -= 1
        self._open.add(connection)
        return connection

    async def _wait(self, deadline: float) -> Connection | None:
        if len(self._waiters) >= POOL_WAITERS_MAX:
            text = f"{POOL_WAITERS_MAX} calls already wait for a connection to {self.address}"
            raise ModelOverloadError(text, retry_after_s=RETRY_AFTER_SECONDS)
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Connection | None] = loop.create_future()
        timer = loop.call_at(deadline, self._expire, waiter)
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._hand_back(waiter)
            raise
        finally:
            timer.cancel()

    def _expire(self, waiter: asyncio.Future[Connection | None]) -> None:
        if not waiter.done():
            self._waiters.remove(waiter)
            text = f"the deadline passed in the line for a connection to the pool at {self.address}"
            waiter.set_exception(ModelDeadlineError(text))

    def _hand_back(self, waiter: asyncio.Future[Connection | None]) -> None:
        """Pass on what a cancelled waiter may have been given already."""
        if waiter.cancelled() or waiter.exception() is not None:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        elif (connection := waiter.result()) is not None:
            self.release(connection)
        else:
            self._opening -= 1
            self._grant()

    def _grant(self) -> None:
        """Let the next in line open a connection, if the limit leaves room."""
        room = len(self._open) + self._opening < self._connections_max
        if room and (waiter := self._next()) is not None:
            self._opening += 1
            waiter.set_result(None)

    def _next(self) -> asyncio.Future[Connection | None] | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                return waiter
        return None

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.close()

    def _lost(self, connection: Connection) -> None:
        """Forget a connection the server ended; one in use is released by its user."""
        if connection in self._idle:
            self._idle.remove(connection)
            self._open.discard(connection)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.strip().rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"pool address {address!r} is not usable: host:port, as in 127.0.0.1:8000")
    return host.strip("[]"), int(port)
