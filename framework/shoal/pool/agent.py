"""The agent beside one Triton: it makes what the server holds equal to what is wanted, and keeps it so.

What is wanted is a whole set, newest wins. ``plan`` says what to do, the agent does it. Afterwards it watches: a
server that died is started again and loads everything again, and a model whose Python stub died is loaded afresh,
because the server itself goes on calling such a model ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar

from shoal.core import limits
from shoal.core.clock import Clock, SystemClock
from shoal.core.errors import ContractError, PoolUnreachableError, ShoalError, UsageError
from shoal.models import config, contract
from shoal.triton.control import READY, Control

_GONE: Final = frozenset({"", "UNAVAILABLE", "UNLOADING"})

State = Literal["READY", "LOADING", "FAILED"]
_Answer = TypeVar("_Answer")


class Server(Protocol):
    """A Triton that can be brought up and down."""

    @property
    def http(self) -> str:
        """``host:port`` for inference."""
        ...

    @property
    def grpc(self) -> str:
        """``host:port`` for control."""
        ...

    @property
    def pid(self) -> int:
        """Its process; 0 when it is not running."""
        ...

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        ...

    async def up(self) -> None:
        """Start it, dead or alive before, and return once it takes calls."""
        ...

    async def down(self) -> None:
        """End it for good."""
        ...

    async def answers(self) -> bool:
        """Ask it once for its health."""
        ...

    def kill(self) -> None:
        """End its process at once."""
        ...

    def stubs(self) -> Mapping[str, int]:
        """Count the live stub processes of each model; a server without any counts none."""
        ...


@dataclass(frozen=True, slots=True)
class ModelState:
    """How one wanted model is, and why it is not READY."""

    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """One step towards what is wanted."""

    verb: Literal["unload", "load"]
    model: str


def plan(wanted: Collection[str], held: Mapping[str, tuple[str, str]], checked: Collection[str]) -> list[Action]:
    """Say what to do: unloads first, they free memory; then loads of what is not there or was never checked.

    ``held`` is the server's index (model -> state and reason), ``checked`` the models whose interface was compared.
    """
    unloads = [name for name, (state, _) in held.items() if name not in wanted and state not in _GONE]
    loads = [name for name in wanted if held.get(name, ("", ""))[0] != READY or name not in checked]
    return [Action("unload", name) for name in sorted(unloads)] + [Action("load", name) for name in sorted(loads)]


class Agent:
    """Keeps one server up and its models as wanted; ``run`` is its life, ``want`` and ``status`` its interface."""

    def __init__(
        self,
        server: Server,
        control: Callable[[str], Control],
        repository: Path,
        *,
        clock: Clock | None = None,
        note: Callable[[str, str], None] = lambda level, message: None,
    ) -> None:
        self._server = server
        self._make_control = control
        self._control: Control | None = None
        self._repository = repository
        self._clock = clock or SystemClock()
        self._note = note  # what an operator should read: level, message
        self._wanted: frozenset[str] = frozenset()
        self._models: dict[str, ModelState] = {}
        self._stubs: dict[str, int] = {}
        self._asked = self._tried = 0  # number of the newest wanted set, and of the newest one tried
        self._lock = asyncio.Lock()  # held by the one who changes what the server holds
        self._up = asyncio.Condition()
        self._ready = self._settled = False
        self._error: ShoalError | None = None
        self._starts = 0

    def status(self) -> dict[str, Any]:
        """Describe the server and every wanted model, as JSON."""
        return {
            "http": self._server.http,
            "grpc": self._server.grpc,
            "ready": self._ready,
            "pid": self._server.pid,
            "restarts": max(0, self._starts - 1),
            "reason": self._error.message if self._error else "",
            "models": self.models(),
        }

    @property
    def settled(self) -> bool:
        """Whether every wanted model has been tried since the server came up."""
        return self._settled

    def models(self) -> dict[str, dict[str, str]]:
        """Describe every wanted model, as JSON."""
        found = {name: self._models.get(name, ModelState("LOADING")) for name in sorted(self._wanted)}
        return {name: {"state": one.state, "reason": one.reason} for name, one in found.items()}

    async def want(self, models: Iterable[str]) -> dict[str, dict[str, str]]:
        """Take a new whole set, try each of its models once, and give how they are.

        A model that FAILED before is tried again. Raises UsageError for a set that is too large or when this
        machine cannot run the server at all; waits while it is not up.
        """
        wanted = frozenset(models)
        if len(wanted) > limits.POOL_MODELS_MAX:
            raise UsageError(f"{len(wanted)} models are wanted: one pool holds {limits.POOL_MODELS_MAX} at most")
        for name in wanted:
            if not name or "/" in name or name.startswith("."):
                raise UsageError(f"model version {name!r} is no name of a folder in the repository")
        self._wanted = wanted
        self._asked += 1
        ticket = self._asked
        await self._until_up()
        async with self._lock:
            if self._tried < ticket:  # else somebody else's turn has tried this set, or a newer one, already
                await self._reconcile()
        return self.models()

    async def run(self) -> None:
        """Keep the server up until cancelled; UsageError when this machine cannot run it."""
        delay = limits.POOL_RESTART_SECONDS_MIN
        while True:
            started = self._clock.monotonic()
            try:
                await self._bring_up()
                await self._watch()
            except UsageError as error:
                await self._tell(error)
                raise
            except ShoalError as error:
                self._note("error", error.message)
                await self._tell(error)
            if self._clock.monotonic() - started > limits.POOL_STEADY_SECONDS:
                delay = limits.POOL_RESTART_SECONDS_MIN
            await asyncio.sleep(delay)
            delay = min(2 * delay, limits.POOL_RESTART_SECONDS_MAX)

    async def close(self) -> None:
        """End the server."""
        if self._control is not None:
            self._control.close()
        await self._server.down()

    async def _until_up(self) -> None:
        async with self._up:
            await self._up.wait_for(lambda: self._ready or isinstance(self._error, UsageError))
        if isinstance(self._error, UsageError):
            raise self._error

    async def _tell(self, error: ShoalError | None) -> None:
        async with self._up:
            self._ready, self._error = error is None, error
            if error is not None:
                self._models, self._stubs = {}, {}  # what a server held went with it
                self._settled = False
            self._up.notify_all()

    async def _bring_up(self) -> None:
        self._starts += 1
        await self._server.up()
        if self._control is None:
            self._control = self._make_control(self._server.grpc)
        await self._tell(None)
        self._note("info", f"Triton is up, process {self._server.pid}, at {self._server.http}")
        async with self._lock:
            await self._reconcile()
        self._settled = True

    async def _reconcile(self) -> None:
        """Try once to make the server hold the newest wanted set; the caller has the lock."""
        wanted, turn = self._wanted, self._asked
        checked = [name for name, one in self._models.items() if one.state == READY]
        steps = plan(wanted, await self._ask(self._index), checked)
        for step in steps:
            if step.verb == "unload":
                await self._unload(step.model)
        slots = asyncio.Semaphore(limits.POOL_LOADS_MAX)
        await asyncio.gather(*(self._load(step.model, slots) for step in steps if step.verb == "load"))
        self._models = {name: one for name, one in self._models.items() if name in wanted}
        self._tried = turn

    async def _unload(self, name: str) -> None:
        self._stubs.pop(name, None)
        self._note("info", f"unloading {name}")
        await self._ask(lambda control: control.unload(name))

    async def _load(self, name: str, slots: asyncio.Semaphore) -> None:
        async with slots:
            self._models[name] = ModelState("LOADING")
            try:
                await self._ask(lambda control: _load_checked(control, self._repository, name))
                self._models[name] = ModelState("READY")
                self._stubs[name] = self._server.stubs().get(name, 0)
                self._note("info", f"{name} is READY")
            except ShoalError as error:
                self._models[name] = ModelState("FAILED", error.message)
                self._note("error", f"{name} FAILED: {error.message}")

    async def _watch(self) -> None:
        """Look at the server until it is gone; heal models whose stub died on the way."""
        silences, looks = 0, 0
        each = max(1, round(limits.TRITON_ANSWER_SECONDS_MAX / limits.POOL_WATCH_SECONDS))
        while self._server.running:
            await asyncio.sleep(limits.POOL_WATCH_SECONDS)
            await self._heal()
            looks += 1
            if looks % each == 0:
                silences = 0 if await self._server.answers() else silences + 1
            if silences >= limits.TRITON_SILENCES_MAX:
                self._server.kill()
        raise PoolUnreachableError("the Triton server ended; it is started again")

    async def _heal(self) -> None:
        alive = self._server.stubs()
        dead = [name for name, count in self._stubs.items() if alive.get(name, 0) < count]
        if not dead or not self._server.running:
            return
        async with self._lock:
            for name in dead:
                self._note("error", f"the stub process of {name} died: loading it afresh")
                self._models[name] = ModelState("LOADING", "its stub process died")
                await self._unload(name)
                await self._gone(name)
            await self._reconcile()

    async def _gone(self, name: str) -> None:
        """Wait until a model that is unloaded no longer counts as ready: a load before that does nothing."""
        deadline = self._clock.monotonic() + limits.TRITON_UNLOAD_SECONDS_MAX
        while (await self._ask(self._index)).get(name, ("", ""))[0] == READY:
            if self._clock.monotonic() > deadline:
                raise PoolUnreachableError(f"the Triton server does not unload {name}")
            await asyncio.sleep(limits.POOL_WATCH_SECONDS)

    @staticmethod
    def _index(control: Control) -> Mapping[str, tuple[str, str]]:
        return control.index()

    async def _ask(self, call: Callable[[Control], _Answer]) -> _Answer:
        if self._control is None:
            raise PoolUnreachableError("the Triton server is not up yet")
        return await asyncio.to_thread(call, self._control)


def _load_checked(control: Control, repository: Path, name: str) -> None:
    """Load a model and hold what is served to what its configuration states; one that differs is unloaded again."""
    stated = config.signature(config.load(repository / name / config.FILE_NAME))
    control.load(name)
    try:
        contract.check_served(name, stated, control.metadata(name))
    except ContractError:
        control.unload(name)
        raise
