"""The platform port: what a place that runs functions can do, the same on a laptop and on a cluster.

``platform/local`` and ``platform/knative`` implement it; both pass the suite ``tests/contract/test_platform.py``.
Calls are synchronous: they come from a command line. Each raises from ``core.errors`` only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

StageState = Literal["started", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One line of progress: the stage's name, its state, how long it took (seconds) and a detail to show."""

    name: str
    state: StageState
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """One entry of a traffic split, as in Knative: a pinned revision, its percent (0..100) and perhaps a tag."""

    revision: str
    percent: int = 0
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """How a deployment ended: the revision that is ready, whether it is new, its URL and its model versions."""

    function: str
    revision: str
    created: bool  # False: same inputs as the latest revision, nothing was made
    url: str
    models: Mapping[str, str]  # alias in the handler -> exact model version
    traffic: tuple[Target, ...] = ()  # the split now in effect
    replaced: tuple[Target, ...] = ()  # the split before; empty when it was left as it is
    source_before: str = ""  # the other folder the function was last deployed from, if it was another


@dataclass(frozen=True, slots=True)
class RevisionStatus:
    """One immutable revision as it is now."""

    name: str
    created: float  # seconds since the epoch
    ready: bool
    reason: str  # why it is not ready; empty when it is
    instances: int
    percent: int
    tags: tuple[str, ...]
    models: Mapping[str, str]
    digest: str  # of code, configuration and model versions


@dataclass(frozen=True, slots=True)
class HandlerInfo:
    """One handler of a function, as its decorator declares it; what is empty takes any."""

    name: str
    kind: str  # "http", "event" or "functions-framework"
    path: str = ""
    methods: tuple[str, ...] = ()
    type: str = ""  # of events
    source: str = ""  # of events


@dataclass(frozen=True, slots=True)
class TriggerInfo:
    """Which events of a broker a function receives: attribute -> value, "" for any value."""

    broker: str
    filter: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FunctionStatus:
    """One function as it is now; revisions newest first, handlers and triggers of the one with most traffic."""

    name: str
    url: str
    ready: bool
    reason: str
    traffic: tuple[Target, ...]
    revisions: tuple[RevisionStatus, ...]
    handlers: tuple[HandlerInfo, ...] = ()
    triggers: tuple[TriggerInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class Component:
    """One part of the platform (gateway, broker, pool, ...) and how it is."""

    name: str
    ready: bool
    detail: str
    address: str = ""
    pid: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class PlatformStatus:
    """The platform's own parts and the model versions the pool holds."""

    components: tuple[Component, ...]
    models: Mapping[str, str] = field(default_factory=dict)  # version -> READY, LOADING or the failure's text


@dataclass(frozen=True, slots=True)
class Reply:
    """What a function answered to an invocation; header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


class Platform(Protocol):
    """The port. A name is a function's name; every method raises NotRunningError when the platform is not up."""

    def deploy(self, source: Path, *, traffic: bool = True) -> Iterator[Stage | Deployment]:
        """Make (or find) the revision for the function folder ``source``; yield stages, then one Deployment.

        A new revision gets all traffic. One that exists already changes no split: a redeploy of an unchanged folder
        leaves 90/10 at 90/10, and only where nothing has traffic it gets all. ``traffic=False`` leaves the split as
        it is for a new revision too: it is reachable by a tag only.
        Raises SpecError, ContractError, or DeployError with the one reason; what served before still serves then.
        """
        ...

    def status(self) -> PlatformStatus:
        """Describe the platform's own parts."""
        ...

    def functions(self) -> list[FunctionStatus]:
        """Describe all functions, by name."""
        ...

    def function(self, name: str) -> FunctionStatus:
        """Describe one function; NotFoundError names those that exist."""
        ...

    def set_traffic(self, name: str, targets: Sequence[Target]) -> FunctionStatus:
        """Replace the split; percents sum to 100, tags are unique, revisions exist. In effect on return."""
        ...

    def rollback(self, name: str) -> FunctionStatus:
        """Bring back the split before the newest change, and a second time the one before that.

        Tags stay as they are. ConflictError when there is no earlier split.
        """
        ...

    def invoke(
        self,
        name: str,
        *,
        tag: str = "",
        method: str = "POST",
        path: str = "/",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float = 60.0,
    ) -> Reply:
        """Call a function through the platform's front door."""
        ...

    def publish(self, headers: Mapping[str, str], body: bytes, *, broker: str = "default") -> None:
        """Hand one CloudEvent (binary or structured) to a broker; it is kept once this returns."""
        ...

    def logs(self, name: str, *, revision: str = "", follow: bool = False, lines: int = 100) -> Iterator[str]:
        """Yield a function's log lines, oldest first."""
        ...

    def delete(self, name: str) -> None:
        """Remove a function with its revisions, triggers and the leases on its models."""
        ...
