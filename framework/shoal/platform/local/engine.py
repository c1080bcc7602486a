"""The one place where the state of the platform changes; it starts the other processes and tells them what to do.

It owns the state file, the listening sockets and every child. Killed, it takes all children with it; started again,
it goes on from the state. What happens between is in ``instances``, ``scaling`` and ``deploy``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from shoal.core import limits
from shoal.core.clock import Clock, SystemClock
from shoal.core.errors import DeployError, NotRunningError, ShoalError
from shoal.platform.local import documents, housekeeping, sockets
from shoal.platform.local.control import Follower, call
from shoal.platform.local.instances import Hooks, Instances
from shoal.platform.local.layout import Home
from shoal.platform.local.processes import Command
from shoal.platform.local.records import Revision
from shoal.platform.local.scaling import Scaled, Scaler
from shoal.platform.local.state import State
from shoal.platform.local.supervisor import Supervised, for_ever
from shoal.platform.port import Component, FunctionStatus, PlatformStatus, Target

COMPONENTS: Final = ("gateway", "broker", "pool")
_FRONT: Final = ("gateway", "broker")  # what has to know a split for it to be in effect
_HOUSEKEEPING_SECONDS: Final = 10.0
_END_SECONDS: Final = 10.0  # for instances at the end, after the gateway has drained
_STATUS_SECONDS: Final = 5.0
_POOL_RETRY_SECONDS: Final = 1.0

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
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _deploying: dict[str, asyncio.Lock] = field(default_factory=dict)  # by function: one deployment at a time
    _changing: dict[str, asyncio.Lock] = field(default_factory=dict)  # by function: one change of its split
    _generations: Iterator[int] = field(default_factory=lambda: itertools.count(1))  # those told die with the node
    _pool_started: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        hooks = Hooks(self._instances_changed, self._routes_settled, self._instance_gone, self.pool_addresses)
        self.instances = Instances(self.home, self.clock, hooks)
        self.followers = {
            "gateway": self._follower("gateway", "/routes", self._routes, limits.CONTROL_SECONDS_MAX),
            "broker": self._follower("broker", "/triggers", self._triggers, limits.CONTROL_SECONDS_MAX),
            "pool": self._follower("pool", "/models", self._models, limits.MODEL_LOAD_SECONDS_MAX),
        }
        self.parts = {name: self._part(name) for name in COMPONENTS}

    # Life.

    async def start(self) -> None:
        """Clear what an earlier node left, start every part, and go back to work."""
        housekeeping.clear(self.home, self.state)
        for part in self.parts.values():
            part.launch()
        scaler = Scaler(self.instances, self.clock, self._scaled, self._load, self.instances.start)
        work = [follower.run for follower in self.followers.values()]
        work += [scaler.run, self._follow_pool, self._keep_house]
        self._tasks += [asyncio.create_task(for_ever(task)) for task in work]

    async def settle(self) -> None:
        """Wait until gateway and broker have taken what they must know; NotRunningError with why not."""
        await asyncio.gather(*(self._told(name) for name in _FRONT))

    async def stop(self) -> None:
        """End every child, those that send work first; back when all processes are gone.

        Nothing is asked of the engine any more: its API has ended.
        """
        await self.instances.refuse()
        for task in self._tasks:
            task.cancel()
        await self.parts["broker"].stop()
        await self.parts["gateway"].stop()
        await self.instances.end(_END_SECONDS)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.parts["pool"].stop()
        housekeeping.end_orphans(self.home)

    # What the control API offers.

    async def activate(self, name: str) -> list[dict[str, Any]]:
        """Give the endpoints of a revision once it has one; callers at the same time share one start."""
        if not self.instances.ready(name):
            await self.instances.ensure(self.state.revision(name))
            with suppress(ShoalError):  # the answer tells the gateway, too
                await self._routes_settled()
        return documents.endpoint_list(self._endpoints(name))

    async def set_traffic(self, function: str, targets: Sequence[Target]) -> FunctionStatus:
        """Put a split in effect, once the pool holds the models of every revision in it."""
        async with self.changing(function):
            self.state.require(function)
            self.state.check_split(function, targets)
            async with self._models_held(function, targets):
                await self.settle()
                self.state.set_traffic(function, targets, self.clock.now())
                return await self._in_effect(function)

    async def rollback(self, function: str) -> FunctionStatus:
        """Put the percents before the newest change in effect."""
        async with self.changing(function):
            coming = self.state.rollback_split(function)
            async with self._models_held(function, coming):
                await self.settle()
                self.state.rollback(function, self.clock.now())
                return await self._in_effect(function)

    async def delete(self, function: str) -> None:
        """Remove a function: first no request reaches it, then its processes end, then its files go."""
        self.state.require(function)
        async with self.deploying(function):
            async with self.changing(function):
                revisions = self.state.revisions(function)
                self.state.remove_function(function)
                await self._settle_late()
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
        models = {name: documents.model_text(model) for name, model in pool.get("models", {}).items()}
        return PlatformStatus((node, *(self._component(name, pool) for name in COMPONENTS)), models)

    # For deployments.

    def url(self, function: str) -> str:
        """Give a function's public address."""
        return f"http://{function}.localhost:{sockets.port_of(self.listeners['gateway'])}"

    async def pool_addresses(self) -> tuple[str, ...]:
        """Give the addresses functions call models at now; NotRunningError while the pool does not answer.

        They last as long as the pool's process: the next finds its predecessor's port, unless somebody took it.
        """
        status = await call(self.home.socket("pool"), "GET", "/status", timeout_s=_STATUS_SECONDS)
        return (str(status["http"]),)

    async def load_models(self, versions: set[str]) -> None:
        """Wait until the pool holds these versions; DeployError with the reason when one cannot be loaded."""
        if not versions or await self._hold_on(versions):
            return
        answer = await self.followers["pool"].settled(limits.MODEL_LOAD_SECONDS_MAX)
        states = answer.get("models", {})
        failed = [name for name in sorted(versions) if states.get(name, {}).get("state") != "READY"]
        if failed:
            reasons = (f"{name}: {states.get(name, {}).get('reason') or 'not loaded'}" for name in failed)
            raise DeployError("the pool cannot serve " + "; ".join(reasons), hint="shoal logs pool")

    async def publish(self, revision: Revision, targets: Sequence[Target] | None) -> str:
        """Make a revision known, with a new split or without; says when it is in effect, if that is not now.

        The caller is the one who is ``changing`` the function. NotRunningError, with nothing kept, when gateway or
        broker does not answer.
        """
        if targets is not None:
            await self.settle()
        self.state.publish_revision(revision.name, targets, self.clock.now())
        return await self._settle_late() if targets is not None else ""

    def release(self, lease: str) -> None:
        """Give up the hold a deployment had on its models; those nothing else holds are unloaded."""
        if self.leases.pop(lease, None) is not None:
            self.followers["pool"].poke()

    @asynccontextmanager
    async def deploying(self, function: str) -> AsyncIterator[None]:
        """Let one deployment of a function through at a time; the next waits."""
        async with self._deploying.setdefault(function, asyncio.Lock()):
            yield

    @asynccontextmanager
    async def changing(self, function: str) -> AsyncIterator[None]:
        """Let one change of a function's split through at a time; a deployment is one only at its end."""
        async with self._changing.setdefault(function, asyncio.Lock()):
            yield

    def prune(self, function: str) -> None:
        """Remove the oldest revisions beyond those kept."""
        history = self.state.history(function)
        for revision in documents.disposable(self.state.revisions(function), history):
            if not self.instances.used(revision.name):
                self.state.remove_revision(revision.name)
                self.discard(revision.name)

    def discard(self, revision: str) -> None:
        """Remove the files of a revision that is no more."""
        housekeeping.discard(self.home, revision)

    # What the other processes are told.

    def _routes(self) -> dict[str, Any]:
        return documents.routes(self.state, self._endpoints, next(self._generations))

    def _triggers(self) -> dict[str, Any]:
        return documents.all_triggers(self.state, self._address("gateway"), next(self._generations))

    def _models(self) -> dict[str, Any]:
        alive = (instance.revision for instance in self.instances.alive())
        return {"models": documents.models(self.state, alive, self.leases.values())}

    def _endpoints(self, revision: str) -> list[tuple[str, int]]:
        return [(instance.id, instance.port) for instance in self.instances.ready(revision)]

    def _instances_changed(self) -> None:
        self.followers["gateway"].poke()

    def _instance_gone(self) -> None:
        self.followers["pool"].poke()

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

    async def _settle_late(self) -> str:
        """Wait until gateway and broker know what is decided already; says what it waits for if they do not."""
        try:
            await self.settle()
        except ShoalError as error:
            if error.status < 500:  # refused for good: a defect, and no matter of time
                raise
            log.warning("a change is not in effect yet: %s", error.message)
            late = [name for name in _FRONT if not self.followers[name].up_to_date] or _FRONT
            return f"in effect when the {' and the '.join(late)} {'is' if len(late) == 1 else 'are'} back"
        return ""

    async def _in_effect(self, function: str) -> FunctionStatus:
        late = await self._settle_late()
        status = self.function(function)
        return replace(status, ready=False, reason=late) if late else status

    @asynccontextmanager
    async def _models_held(self, function: str, targets: Sequence[Target]) -> AsyncIterator[None]:
        """Load the models a coming split needs that the function does not hold, and keep them until then."""
        reachable = {target.revision for target in targets}
        revisions = self.state.revisions(function)
        needed = {version for item in revisions if item.name in reachable for version in item.models.values()}
        key = f"traffic of {function}"  # one at a time: the caller is the one changing it
        try:
            if not needed <= documents.leased(revisions, self.state.traffic(function)):
                self.leases[key] = needed
                await self.load_models(needed)
            yield
        finally:
            self.release(key)

    async def _hold_on(self, versions: set[str]) -> bool:
        """Say whether the pool serves these versions now and has been told to go on: no need to wait for others."""
        sent = self.followers["pool"].sent
        if sent is None or not versions <= set(sent["models"]):
            return False
        states = (await self._pool_status()).get("models", {})
        return all(states.get(version, {}).get("state") == "READY" for version in versions)

    async def _follow_pool(self) -> None:
        """Replace the instances that call models where no pool is, after a start of the pool at another address."""
        while True:
            await self._pool_started.wait()
            try:
                addresses = await self.pool_addresses()
            except ShoalError:
                await asyncio.sleep(_POOL_RETRY_SECONDS)
                continue
            self._pool_started.clear()
            await self.instances.drain_moved(addresses)

    # Instances.

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
            started=lambda: self._started(name),
        )

    def _prepare(self, name: str) -> None:
        """Clear what the last process of a part left behind, before the next starts."""
        self.home.socket(name).unlink(missing_ok=True)
        if name == "pool":
            housekeeping.end_orphans(self.home)

    def _started(self, name: str) -> None:
        self.followers[name].poke()
        if name == "pool":
            self._pool_started.set()

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

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            await housekeeping.tidy(self.home)
            if self.followers["pool"].up_to_date:  # it has been told to unload what goes
                housekeeping.remove_models(self.home, self._models()["models"])
