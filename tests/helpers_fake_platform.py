"""A platform in memory, for tests of the command line: the port's rules, no process, no clock of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shoal.core import names
from shoal.core.clock import FakeClock
from shoal.core.errors import ConflictError, NotFoundError, NotRunningError, SpecError, UsageError
from shoal.platform.port import (
    Component,
    Deployment,
    FunctionStatus,
    HandlerInfo,
    PlatformStatus,
    Reply,
    RevisionStatus,
    Stage,
    Target,
    TriggerInfo,
)

GATEWAY = "http://127.0.0.1:8080"
VERSION = "magika--3f2a9c1d22e0"


@dataclass
class FakePlatform:
    """Knobs first: what ``deploy`` raises at its last stage, what ``invoke`` answers, what ``logs`` yields."""

    clock: FakeClock
    is_up: bool = True
    failure: Exception | None = None
    reply: Reply = field(default_factory=lambda: Reply(200, {"content-type": "text/plain"}, b"hello", 0.012))
    lines: Sequence[str] = ()
    models: Mapping[str, str] = field(default_factory=dict)  # of the next deployment: alias -> version
    unchanged: bool = False  # whether the next deployments find the newest revision as it is
    handlers: tuple[HandlerInfo, ...] = ()  # of the next deployment
    triggers: tuple[TriggerInfo, ...] = ()
    detail: str = "starting (a deployment that needs a model waits for it)"  # of the pool, which is not ready

    options: dict[str, Any] = field(default_factory=dict)  # what it was opened with
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    known: dict[str, FunctionStatus] = field(default_factory=dict)
    history: dict[str, list[tuple[Target, ...]]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def open(self, **options: Any) -> FakePlatform:
        """Stand in for ``open_platform``."""
        self.options = options
        return self

    # Life.

    def up(self) -> PlatformStatus:
        if self.is_up:
            raise ConflictError("the platform is running already", hint="shoal down")
        if self.failure:
            raise self.failure
        self.clock.advance(1.5)
        self.is_up = True
        return self.status()

    def down(self) -> bool:
        was_up, self.is_up = self.is_up, False
        return was_up

    def running(self) -> bool:
        return self.is_up

    # The port.

    def deploy(self, source: Path, *, traffic: bool = True) -> Iterator[Stage | Deployment]:
        self._check_up()
        self.calls.append(("deploy", source, traffic))
        if not source.is_dir():
            raise UsageError(f"{source} is not a folder", hint="shoal deploy functions/NAME")
        yield Stage("check", "started")
        yield Stage("check", "done", 0.21, f"{source.name} (http)")
        yield Stage("ready", "started")
        if self.failure:
            yield Stage("ready", "failed", 2.5, "no answer")
            raise self.failure
        yield Stage("ready", "done", 0.82, "1 instance")
        yield self._publish(source, traffic)

    def status(self) -> PlatformStatus:
        self._check_up()
        parts = (
            Component("gateway", True, "", GATEWAY, pid=101),
            Component("broker", True, "", "http://127.0.0.1:8081", pid=102, restarts=1),
            Component("pool", False, self.detail, pid=103, restarts=2),
        )
        return PlatformStatus(parts, {VERSION: "LOADING"})

    def functions(self) -> list[FunctionStatus]:
        self._check_up()
        return [self.known[name] for name in sorted(self.known)]

    def function(self, name: str) -> FunctionStatus:
        self._check_up()
        if name not in self.known:
            raise NotFoundError(f"there is no function {name!r}")
        return self.known[name]

    def set_traffic(self, name: str, targets: Sequence[Target]) -> FunctionStatus:
        function = self.function(name)
        if sum(target.percent for target in targets) != 100:
            raise UsageError("percents must sum to 100")
        tags = [target.tag for target in targets if target.tag]
        if len(set(tags)) != len(tags):
            raise UsageError("a tag is given twice")
        self.calls.append(("set_traffic", name, tuple(targets)))
        self.history[name].append(function.traffic)
        return self._split(name, tuple(targets))

    def rollback(self, name: str) -> FunctionStatus:
        self.function(name)
        if not self.history[name]:
            raise ConflictError(f"{name} has no earlier split")
        return self._split(name, self.history[name].pop())

    def invoke(self, name: str, **call: Any) -> Reply:
        self._check_up()
        self.calls.append(("invoke", name, call))
        if name not in self.known:
            problem = {"type": "urn:shoal:problem:not-found", "detail": f"there is no function {name!r}"}
            headers = {"content-type": "application/problem+json"}
            return Reply(404, headers, json.dumps(problem).encode(), 0.001)
        return self.reply

    def publish(self, headers: Mapping[str, str], body: bytes, *, broker: str = "default") -> None:
        self._check_up()
        self.calls.append(("publish", dict(headers), body, broker))

    def logs(self, name: str, *, revision: str = "", follow: bool = False, lines: int = 100) -> Iterator[str]:
        self.function(name)
        self.calls.append(("logs", name, revision, follow, lines))
        yield from self.lines

    def delete(self, name: str) -> None:
        self.function(name)
        del self.known[name]

    # Inside.

    def _check_up(self) -> None:
        if not self.is_up:
            raise NotRunningError("the platform is not running")

    def _publish(self, source: Path, traffic: bool) -> Deployment:
        name, folder = source.name, str(source.absolute())
        url = GATEWAY.replace("127.0.0.1", f"{name}.localhost")
        before = self.known.get(name)
        came_from = self.sources.get(name, folder) if before else folder
        self.sources[name] = folder
        moved = "" if came_from == folder else came_from
        if before and self.unchanged:
            newest = before.revisions[0].name
            return Deployment(name, newest, False, url, self.models, before.traffic, (), moved)
        old = before.revisions if before else ()
        revision = names.revision(name, len(old) + 1)
        digest = f"{len(old) + 1:064x}"
        new = RevisionStatus(revision, self.clock.now(), True, "", 1, 0, (), dict(self.models), digest)
        targets = (Target(revision, 100),) if traffic or before is None else before.traffic
        replaced = before.traffic if before and traffic else ()
        if before:
            self.history[name].append(before.traffic)
        self.history.setdefault(name, [])
        takes, waits = self.handlers, self.triggers
        self.known[name] = FunctionStatus(name, url, True, "", targets, (new, *old), takes, waits)
        self._split(name, targets)
        return Deployment(name, revision, True, url, dict(self.models), targets, replaced, moved)

    def _split(self, name: str, targets: tuple[Target, ...]) -> FunctionStatus:
        function = self.known[name]
        revisions = tuple(_with_traffic(one, targets) for one in function.revisions)
        self.known[name] = replace(function, traffic=targets, revisions=revisions)
        return self.known[name]


def _with_traffic(one: RevisionStatus, targets: Sequence[Target]) -> RevisionStatus:
    mine = [target for target in targets if target.revision == one.name]
    tags = tuple(target.tag for target in mine if target.tag)
    return replace(one, percent=sum(target.percent for target in mine), tags=tags)


def spec_failure() -> SpecError:
    """A failure with two lines, as a function.yaml with two mistakes gives."""
    return SpecError(
        "unknown key 'nam'; did you mean 'name'?\nf/function.yaml:2:10: threads: 0 is too small: at least 1",
        where="f/function.yaml:1:1",
    )
