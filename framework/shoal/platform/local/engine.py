"""The one place where the state of the platform changes; it starts the other processes and tells them what to do.

It owns the state file, the listening sockets and every child. Killed, it takes all children with it; started again,
it goes on from the state. What happens between is in ``instances``, ``scaling`` and ``deploy``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from shoal.core import limits, proctree
from shoal.core.clock import Clock, SystemClock
from shoal.core.errors import DeployError, NotRunningError, ShoalError
from shoal.platform.local import documents, logfiles, sockets, telling
from shoal.platform.local.control import Follower, call
from shoal.platform.local.instances import Instances
from shoal.platform.local.layout import Home
from shoal.platform.local.processes import Command
from shoal.platform.local.records import Revision
from shoal.platform.local.scaling import Scaled, Scaler
from shoal.platform.local.state import State
from shoal.platform.local.supervisor import Supervised
from shoal.platform.port import Component, FunctionStatus, PlatformStatus, Target

COMPONENTS: Final = ("gateway", "broker", "pool")
_HOUSEKEEPING_SECONDS: Final = 10.0
_END_SECONDS: Final = 10.0  # for instances at the end, after the gateway has drained
_STATUS_SECONDS: Final = 5.0
_AFTER_FAILURE_SECONDS: Final = 1.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Engine:
    """A running platform."""

    home: Home
    state: State
    listeners: Mapping[str, socket.socket]
    fake_pool: bool = False
    clock: Clock = field(default_factory=SystemClock)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    leases: dict[str, set[str]] = field(default_factory=dict)  # of deployments under way, by function
    instances: Instances = field(init=False)
    followers: dict[str, Follower] = field(init=False)
    parts: dict[str, Supervised] = field(init=False)
    _activations: dict[str, asyncio.Task[object]] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)  # by function, for deployments
    _pool: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.instances = Instances(self.home, self.clock, self._instances_changed, self._routes_settled)
        self.followers = {
            "gateway": self._follower("gateway", "/routes", self._routes, limits.CONTROL_SECONDS_MAX),
            "broker": self._follower("broker", "/triggers", self._triggers, limits.CONTROL_SECONDS_MAX),
            "pool": self._follower("pool", "/models", self._models, limits.MODEL_LOAD_SECONDS_MAX),
        }
        self.parts = {name: self._part(name) for name in COMPONENTS}

    # Life.

    async def start(self) -> None:
        """Clear what an earlier node left, start every part, and go back to work."""
        self._clear()
        for part in self.parts.values():
            part.launch()
        scaler = Scaler(self.instances, self.clock, self._scaled, self._load, self.start_instance)
        work = [follower.run for follower in self.followers.values()]
        self._tasks += [asyncio.create_task(_for_ever(task)) for task in (*work, scaler.run, self._keep_house)]

    async def settle(self) -> None:
        """Wait until gateway and broker have taken what they must know; NotRunningError with why not."""
        await asyncio.gather(*(self._told(name) for name in ("gateway", "broker")))

    async def stop(self) -> None:
        """End every child, those that send work first; back when all processes are gone."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.parts["broker"].stop()
        await self.parts["gateway"].stop()
        await self.instances.end(_END_SECONDS)
        await self.parts["pool"].stop()
        self._end_orphans()
        self.state.close()

    # What the control API offers.

    async def activate(self, name: str) -> list[dict[str, Any]]:
        """Give the endpoints of a revision once it has one; callers at the same time share one start."""
        if not self.instances.ready(name):
            revision = self.state.revision(name)
            task = self._activations.get(name)
            if task is None:
                task = self._activations[name] = asyncio.create_task(self._first(revision))
                task.add_done_callback(lambda done: self._activated(name, done))
            await asyncio.shield(task)
        return documents.endpoint_list(self._endpoints(name))

    async def set_traffic(self, function: str, targets: Sequence[Target]) -> FunctionStatus:
        """Put a split in effect, once the pool holds the models of every revision in it."""
        self.state.require(function)
        self.state.check_split(function, targets)
        await self._hold_models(function, targets)
        self.state.set_traffic(function, targets, self.clock.now())
        return await self._in_effect(function)

    async def rollback(self, function: str) -> FunctionStatus:
        """Put the percents before the newest change in effect."""
        await self._hold_models(function, self.state.rollback_split(function))
        self.state.rollback(function, self.clock.now())
        return await self._in_effect(function)

    async def delete(self, function: str) -> None:
        """Remove a function: first no request reaches it, then its processes end, then its files go."""
        self.state.require(function)
        async with self.deploying(function):
            revisions = self.state.revisions(function)
            self.state.remove_function(function)
            with suppress(NotRunningError):  # a part that does not answer now is told when it is back
                await self.settle()
            await asyncio.gather(*(self.instances.drain_revision(revision.name) for revision in revisions))
            for revision in revisions:
                self.discard(revision.name)
        self.followers["pool"].poke()

    def functions(self) -> list[FunctionStatus]:
        """Describe all functions."""
        return [self.function(name) for name in self.state.function_names()]

    def function(self, name: str) -> FunctionStatus:
        """Describe one function."""
        self.state.require(name)
        revisions = self.state.revisions(name)
        instances = {revision.name: len(self.instances.ready(revision.name)) for revision in revisions}
        reasons = {revision.name: self.instances.reason(revision.name) for revision in revisions}
        return documents.function_status(
            name, self.url(name), self.state.traffic(name), revisions, instances, reasons
        )

    async def status(self) -> PlatformStatus:
        """Describe the platform's own parts."""
        pool = await self._pool_status()
        node = Component("node", True, f"home {self.home.root}", str(self.home.socket("node")), os.getpid())
        models = {name: _model_text(model) for name, model in pool.get("models", {}).items()}
        return PlatformStatus((node, *(self._component(name, pool) for name in COMPONENTS)), models)

    # For deployments.

    def url(self, function: str) -> str:
        """Give a function's public address."""
        return f"http://{function}.localhost:{sockets.port_of(self.listeners['gateway'])}"

    async def start_instance(self, revision: Revision) -> None:
        """Start one more instance of a revision; DeployError with the reason when it does not start."""
        await self.instances.start(revision, await self.pool_addresses() if revision.models else ())

    async def pool_addresses(self) -> tuple[str, ...]:
        """Give the addresses functions call models at; NotRunningError while the pool has none."""
        if not self._pool:
            status = await call(self.home.socket("pool"), "GET", "/status", timeout_s=_STATUS_SECONDS)
            self._pool = (str(status["http"]),)
        return self._pool

    async def load_models(self, versions: set[str]) -> None:
        """Wait until the pool holds these versions; DeployError with the reason when one cannot be loaded."""
        if not versions:
            return
        answer = await self.followers["pool"].settled(limits.MODEL_LOAD_SECONDS_MAX)
        states = answer.get("models", {})
        failed = [name for name in sorted(versions) if states.get(name, {}).get("state") != "READY"]
        if failed:
            reasons = (f"{name}: {states.get(name, {}).get('reason') or 'not loaded'}" for name in failed)
            raise DeployError("the pool cannot serve " + "; ".join(reasons), hint="shoal logs pool")

    async def publish(self, revision: Revision, targets: Sequence[Target] | None) -> None:
        """Make a revision known, with a new split or without, and put it in effect."""
        self.state.publish_revision(revision.name, targets, self.clock.now())
        await self.settle()

    def release(self, lease: str) -> None:
        """Give up the hold a deployment had on its models; those nothing else holds are unloaded."""
        if self.leases.pop(lease, None) is not None:
            self.followers["pool"].poke()

    @asynccontextmanager
    async def deploying(self, function: str) -> AsyncIterator[None]:
        """Let one deployment of a function through at a time; the next waits."""
        async with self._locks.setdefault(function, asyncio.Lock()):
            yield

    def prune(self, function: str) -> None:
        """Remove the oldest revisions beyond those kept."""
        history = self.state.history(function)
        for revision in documents.disposable(self.state.revisions(function), history):
            if not self.instances.active(revision.name):
                self.state.remove_revision(revision.name)
                self.discard(revision.name)

    def discard(self, revision: str) -> None:
        """Remove the files of a revision that is no more."""
        shutil.rmtree(self.home.revisions / revision, ignore_errors=True)
        logfiles.remove(self.home.log(revision))

    # What the other processes are told.

    def _routes(self) -> dict[str, Any]:
        return telling.routes(self.state, self._endpoints)

    def _triggers(self) -> dict[str, Any]:
        return telling.triggers(self.state, self._address("gateway"))

    def _models(self) -> dict[str, Any]:
        return {"models": telling.models(self.state, self.leases.values())}

    def _endpoints(self, revision: str) -> list[tuple[str, int]]:
        return [(instance.id, instance.port) for instance in self.instances.ready(revision)]

    def _instances_changed(self) -> None:
        self.followers["gateway"].poke()

    async def _routes_settled(self) -> None:
        await self._told("gateway")

    async def _told(self, name: str) -> None:
        try:
            await self.followers[name].settled(limits.CONTROL_SECONDS_MAX)
        except NotRunningError as error:
            if self.parts[name].pid or not self.parts[name].reason:
                raise
            reason = f"the {name} does not run: {self.parts[name].reason}"
            raise NotRunningError(reason, hint=f"shoal logs {name}") from error

    async def _in_effect(self, function: str) -> FunctionStatus:
        await self.settle()
        self.followers["pool"].poke()
        return self.function(function)

    async def _hold_models(self, function: str, targets: Sequence[Target]) -> None:
        """Load the models a coming split needs that the function does not hold already."""
        reachable = {target.revision for target in targets}
        revisions = self.state.revisions(function)
        needed = {version for item in revisions if item.name in reachable for version in item.models.values()}
        if needed <= documents.leased(revisions, self.state.traffic(function)):
            return
        key = f"traffic of {function}"
        self.leases[key] = needed
        try:
            await self.load_models(needed)
        except BaseException:
            self.release(key)
            raise
        self.leases.pop(key)  # the split, in effect next, holds them

    # Instances.

    async def _first(self, revision: Revision) -> None:
        await self.start_instance(revision)
        with suppress(NotRunningError):
            await self._routes_settled()

    def _activated(self, name: str, task: asyncio.Task[object]) -> None:
        self._activations.pop(name, None)
        if not task.cancelled():
            task.exception()  # seen: it reaches those who wait, if any still do

    def _scaled(self) -> list[Scaled]:
        found = []
        for name in self.state.function_names():
            reachable = {target.revision for target in self.state.traffic(name)}
            found += [Scaled(revision, revision.name in reachable) for revision in self.state.revisions(name)]
        return found

    async def _load(self) -> Mapping[str, Any]:
        answer = await call(self.home.socket("gateway"), "GET", "/load", timeout_s=_STATUS_SECONDS)
        revisions: Mapping[str, Any] = answer["revisions"]
        return revisions

    # Parts.

    def _follower(self, name: str, path: str, body: Callable[[], Any], timeout_s: float) -> Follower:
        return Follower(self.home.socket(name), path, body, timeout_s=timeout_s)

    def _part(self, name: str) -> Supervised:
        module = "shoal.pool" if name == "pool" else f"shoal.platform.local.{name}"
        argv = [sys.executable, "-P", "-m", module, "--home", str(self.home.root)]
        fds: tuple[int, ...] = ()
        if name in self.listeners:
            fds = (self.listeners[name].fileno(),)
            argv += ["--fd", str(fds[0])]
        elif self.fake_pool:
            argv.append("--fake")
        command = Command(argv, {**os.environ, "PYTHONUNBUFFERED": "1"}, self.home.log(name), self.home.root, fds)
        return Supervised(
            name,
            command,
            self.clock,
            prepare=lambda: self._prepare(name),
            started=self.followers[name].poke,
        )

    def _prepare(self, name: str) -> None:
        """Clear what the last process of a part left behind, before the next starts."""
        self.home.socket(name).unlink(missing_ok=True)
        if name == "pool":
            self._end_orphans()

    def _end_orphans(self) -> None:
        for pid in proctree.end_orphans(self.home.run, os.getpid()):
            log.warning("ended process %d, which a dead inference server left", pid)

    def _address(self, name: str) -> str:
        return f"http://{sockets.LOOPBACK}:{sockets.port_of(self.listeners[name])}"

    def _component(self, name: str, pool: Mapping[str, Any]) -> Component:
        part, follower = self.parts[name], self.followers[name]
        ready = bool(part.pid) and (bool(pool.get("ready")) if name == "pool" else follower.up_to_date)
        address = str(pool.get("http", "")) if name == "pool" else self._address(name)
        detail = "" if ready else self._why_not(name, pool)
        return Component(name, ready, detail, address, part.pid, part.restarts)

    def _why_not(self, name: str, pool: Mapping[str, Any]) -> str:
        """Say why a part is not ready; before its socket is there it starts, and what a call met is no news."""
        told = str(pool.get("reason", "")) if name == "pool" else self.followers[name].reason
        starting = "starting (a deployment that needs a model waits for it)" if name == "pool" else "starting"
        return self.parts[name].reason or (told if self.home.socket(name).exists() else "") or starting

    async def _pool_status(self) -> Mapping[str, Any]:
        try:
            status: Mapping[str, Any] = await call(
                self.home.socket("pool"), "GET", "/status", timeout_s=_STATUS_SECONDS
            )
        except ShoalError as error:
            return {"reason": error.message}
        return status

    # House-keeping.

    def _clear(self) -> None:
        """Remove what interrupted deployments and ended processes left."""
        for revision in self.state.unfinished():
            self.state.remove_revision(revision.name)
        known = {item.name for name in self.state.function_names() for item in self.state.revisions(name)}
        for folder in self.home.revisions.iterdir():
            if folder.name not in known:
                self.discard(folder.name)
        for part in self.home.models.glob(".*--*"):
            shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(self.home.scratch, ignore_errors=True)
        self.home.scratch.mkdir(mode=0o700)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            self._end_orphans()
            for path in self.home.logs.glob("*.log"):
                await asyncio.to_thread(logfiles.rotate, path)
            if self.followers["pool"].up_to_date:
                self._remove_models()

    def _remove_models(self) -> None:
        """Remove the files of versions that nothing holds and the pool has been told to unload."""
        held = self._models()["models"]
        for folder in self.home.models.glob("*--*"):
            if folder.name not in held and not folder.name.startswith("."):
                shutil.rmtree(folder, ignore_errors=True)


async def _for_ever(work: Callable[[], Awaitable[None]]) -> None:
    """Run work that never ends by itself; a mistake in it is logged, and it begins again."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("a task of the node failed")
        await asyncio.sleep(_AFTER_FAILURE_SECONDS)


def _model_text(model: Mapping[str, Any]) -> str:
    return str(model.get("reason") or model.get("state") or "unknown")
