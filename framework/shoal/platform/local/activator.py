"""Holding a request until an instance can take it, waking its revision through the node where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from shoal.core import limits
from shoal.core.errors import DeadlineError, NotRunningError, ShoalError
from shoal.platform.local.balancing import Balancer, Instance, Revision
from shoal.platform.local.control import call
from shoal.platform.local.routing import Endpoint, Table, parse_endpoints

# Asks the node for an instance of a revision; raises ShoalError with the reason when there will be none.
Wake = Callable[[str], Awaitable[tuple[Endpoint, ...]]]


class Activator:
    """Gives requests their slots; one call to the node per revision at a time, whoever waits for it."""

    def __init__(
        self, balancer: Balancer, wake: Wake, *, patience_s: float = limits.ACTIVATION_SECONDS_MAX
    ) -> None:
        self._balancer = balancer
        self._wake = wake
        self._patience_s = patience_s
        self._waking: dict[str, asyncio.Task[None]] = {}

    def apply(self, table: Table) -> None:
        """Take over a table; who waits for a revision that lost its last instance gets it woken again."""
        self._balancer.apply(table)
        for revision in self._balancer.starved():
            self._wake_once(revision)

    @asynccontextmanager
    async def slot(self, revision: Revision, budget_s: float | None) -> AsyncIterator[Instance]:
        """Hold a slot of an instance; ``budget_s`` is what the caller has left (None: no stated deadline).

        Raises OverloadError (too many held), NotRunningError (no instance came) or DeadlineError.
        """
        instance = self._balancer.take(revision) or await self._wait(revision, budget_s)
        try:
            yield instance
        finally:
            self._balancer.give_back(revision, instance)
            if revision.waiting:  # who held the slot may have found that its instance takes no connections
                self._wake_once(revision)

    async def stop(self) -> None:
        """End the calls to the node that are under way."""
        for task in self._waking.values():
            task.cancel()
        await asyncio.gather(*self._waking.values(), return_exceptions=True)

    async def _wait(self, revision: Revision, budget_s: float | None) -> Instance:
        future = self._balancer.line_up(revision)
        self._wake_once(revision)
        patience = self._patience_s if budget_s is None else min(self._patience_s, max(0.0, budget_s))
        try:
            async with asyncio.timeout(patience):
                instance = await asyncio.shield(future)
        except BaseException as error:
            self._balancer.leave_line(revision, future)
            if isinstance(error, TimeoutError):
                raise self._too_late(revision, patience, budget_s) from None
            raise
        self._balancer.served()
        return instance

    def _wake_once(self, revision: Revision) -> None:
        """Call the node unless instances exist (all are busy then) or a call is under way."""
        if not revision.usable and revision.name not in self._waking:
            self._waking[revision.name] = asyncio.create_task(self._call(revision))

    async def _call(self, revision: Revision) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                endpoints = await self._wake(revision.name)
            revision.set_endpoints(endpoints)
            failure: ShoalError | None = None if endpoints else NotRunningError(f"{revision.name} has no instance")
        except TimeoutError:
            failure = NotRunningError(f"{revision.name} did not start within {self._patience_s:g} s")
        except ShoalError as error:
            failure = error
        finally:
            del self._waking[revision.name]
        if failure and not revision.usable:
            revision.fail_waiting(failure)

    def _too_late(self, revision: Revision, patience: float, budget_s: float | None) -> ShoalError:
        if budget_s is not None and patience < self._patience_s:
            return DeadlineError(
                f"the caller's {patience:.3f} s passed before an instance of {revision.name} was free"
            )
        return NotRunningError(f"no instance of {revision.name} was free within {patience:g} s", retry_after_s=1.0)


async def wake_through_node(socket: Path, revision: str) -> tuple[Endpoint, ...]:
    """Ask the node for an instance and wait until it is ready; NotRunningError with the reason when none comes.

    Whatever the node's own status, to the caller of a function it is unavailability.
    """
    try:
        answer = await call(socket, "POST", f"/v1/activate/{revision}", timeout_s=limits.ACTIVATION_SECONDS_MAX)
        return parse_endpoints(answer["endpoints"])
    except ShoalError as error:
        wait_s = 1.0 if error.retry_after_s is None else error.retry_after_s
        message = f"{revision} cannot start: {error.message}"
        raise NotRunningError(message, hint=error.hint, retry_after_s=wait_s) from error
    except (KeyError, TypeError, ValueError) as error:
        raise NotRunningError(f"{revision} cannot start: the node's answer is not a list of endpoints") from error
