"""A deployment: from a function folder to a ready revision with traffic, one stage after the other.

Until the last stage nothing that serves is touched. Whatever ends a deployment early (an error, a caller who went
away, a dead node) leaves at most a revision nobody can reach, which is removed at once or by the next node.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from shoal.core import limits
from shoal.core.errors import ContractError, DeployError, ShoalError, SpecError, UsageError
from shoal.core.hashing import parts_digest, tree_digest
from shoal.models import contract
from shoal.models.repository import ModelRepository
from shoal.platform.local import descriptions, environment, logfiles, packages, snapshot, strays
from shoal.platform.local.descriptions import Described
from shoal.platform.local.engine import Engine
from shoal.platform.local.processes import Command, Process
from shoal.platform.local.records import Revision, RunSpec, TriggerSpec, handler_info, percents, with_all_traffic
from shoal.platform.port import Deployment, Stage, Target
from shoal.spec.function import FunctionSpec, load

Report = Callable[[Stage], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What to deploy: the function's folder, the models' folder if any, their cache, and whether to switch."""

    source: Path
    repository: Path | None
    cache: Path
    traffic: bool = True


@dataclass(slots=True)
class Deploying:
    """One deployment under way; ``report`` gets its stages as they begin and end."""

    engine: Engine
    order: Order
    report: Report
    wanted: Callable[[], bool] = lambda: True  # whether whoever asked for it is still there
    spec: FunctionSpec = field(init=False)
    described: Described = field(init=False)
    code: Path = field(init=False)  # the copy of the folder that all stages work on
    code_digest: str = ""
    packages: str = ""  # the folder with what requirements.txt pins
    versions: dict[str, str] = field(default_factory=dict)  # alias -> exact model version
    replaced: tuple[Target, ...] = ()  # the split this deployment put another in the place of

    async def run(self) -> Deployment:
        """Go through all stages; raises SpecError, ContractError or DeployError with the one reason."""
        scratch = Path(tempfile.mkdtemp(prefix="deploy-", dir=self.engine.home.scratch)).resolve()
        self.code = scratch / "code" / self.order.source.name  # its name is the function's, unless a file says so
        try:
            with _as_of(self.order.source, self.code):
                await self._packages()
                with self._stage("check") as told:
                    await self._check(scratch)
                    told.append(_summary(self.described))
            async with self.engine.deploying(self.spec.name):
                return await self._under_lock(scratch)
        finally:
            self.engine.release(str(scratch))
            await _in_thread(_remove, scratch)

    async def _under_lock(self, scratch: Path) -> Deployment:
        if self._wanted():
            await self._models(str(scratch))
        with self._stage("revision") as told:
            revision, created = self._revision()
            told.append(revision.name if created else f"{revision.name}, unchanged")
        try:
            await self._ready(revision)
            await self._publish(revision, created=created)
        except BaseException:
            if created:
                await asyncio.shield(self._withdraw(revision))
            raise
        self.engine.prune(self.spec.name)
        return self._outcome(revision, created)

    def _outcome(self, revision: Revision, created: bool) -> Deployment:
        name, state, source = self.spec.name, self.engine.state, str(self.order.source)
        before = str(state.setting(_source_key(name), "")) if len(state.revisions(name)) > created else ""
        state.remember(_source_key(name), source)
        return Deployment(
            name,
            revision.name,
            created,
            self.engine.url(name),
            revision.models,
            traffic=state.traffic(name),
            replaced=self.replaced,
            source_before="" if before == source else before,
        )

    # Stages.

    async def _packages(self) -> None:
        """Install what the function pins, before its handler is imported; without pins there is no such stage."""
        if not packages.asked(self.order.source):
            return
        with self._stage("packages") as told:
            await _in_thread(self._copy)  # its mistakes are told before anything is installed
            wanted = await asyncio.to_thread(packages.wanted, self.code)
            self.packages = await asyncio.to_thread(packages.install, wanted, self.order.cache)
            told.append(", ".join(map(str, wanted.pins)) or "nothing to install")

    async def _check(self, scratch: Path) -> None:
        await _in_thread(self._copy)
        self.described = await self._describe(scratch)
        if not self.described.handlers:
            hint = "decorate a function with @http or @event"
            raise SpecError("no handler in it", where=str(self.code / self.spec.handler), hint=hint)

    async def _models(self, lease: str) -> None:
        with self._stage("models") as told:
            repository, wanted = self._repository(), self._wanted()
            for alias, model in wanted.items():
                self.versions[alias] = (await asyncio.to_thread(repository.version, model)).name
            self.engine.leases[lease] = set(self.versions.values())
            for model in sorted(set(wanted.values())):
                await asyncio.to_thread(repository.materialise, model, self.engine.home.models)
            told.append(", ".join(sorted(set(self.versions.values()))))
        with self._stage("pool"):
            await self.engine.load_models(set(self.versions.values()))
        with self._stage("contract"):
            for declared in self.described.models:
                await self._hold_to_contract(declared)

    def _revision(self) -> tuple[Revision, bool]:
        """Find the newest revision if it is the same, else make the next one from the snapshot."""
        spec = run_spec(self.spec, self.described, self.packages)
        digest = _digest(self.code_digest, spec, self.versions)
        newest = next(iter(self.engine.state.revisions(self.spec.name)), None)
        if newest is not None and newest.digest == digest:
            return newest, False
        now = self.engine.clock.now()
        made = self.engine.state.add_revision(
            self.spec.name, digest=digest, spec=spec, models=self.versions, now=now
        )
        folder = self.engine.home.revisions / made.name
        shutil.rmtree(folder, ignore_errors=True)
        self.code.rename(folder)
        return made, True

    async def _ready(self, revision: Revision) -> None:
        with self._stage("ready"):
            if not self.engine.instances.ready(revision.name):
                self.engine.instances.forgive(revision.name)
                await self.engine.instances.ensure(revision)

    async def _publish(self, revision: Revision, *, created: bool) -> None:
        """Put the revision in effect; one that was there before leaves a split that someone chose as it is."""
        async with self.engine.changing(self.spec.name):
            if not self.wanted():
                raise DeployError("whoever asked for the deployment went away before its last stage")
            before = self.engine.state.traffic(self.spec.name)
            if not self.order.traffic or (percents(before) and not created):
                await self.engine.publish(revision, None)
                return
            with self._stage("traffic") as told:
                late = await self.engine.publish(revision, with_all_traffic(before, revision.name))
                self.replaced = before
                told.append(f"100 % to {revision.name}" + (f", {late}" if late else ""))

    async def _withdraw(self, revision: Revision) -> None:
        """Remove what this deployment made, unless it was published before the failure."""
        if self.engine.state.revision(revision.name).ready:
            return
        await self.engine.instances.drain_revision(revision.name)
        self.engine.state.remove_revision(revision.name)
        self.engine.discard(revision.name)

    # Parts of stages.

    def _copy(self) -> None:
        """Copy the folder, once, and read what it is; all that follows is about the copy."""
        if not self.code_digest:
            load(self.order.source)  # what a copy leaves out is refused too: a function.yaml that is no file
            snapshot.take(self.order.source, self.code)
            self.spec = load(self.code)
            self.code_digest = tree_digest(self.code)  # before its own code runs

    async def _describe(self, scratch: Path) -> Described:
        """Import the handler in a process of its own, as the runtime would, and read what it declares."""
        output = scratch / "described"
        argv = environment.describe_command(self.code, self.spec.handler)
        ours = {"K_SERVICE": self.spec.name, **environment.with_packages(self.packages)}
        env = {**environment.base(scratch), **self.spec.env, **ours}
        process = Process(Command(argv, env, output, self.code, session=True))
        try:
            async with asyncio.timeout(limits.DESCRIBE_SECONDS_MAX):
                code = await process.wait()
        except TimeoutError:
            limit = f"{limits.DESCRIBE_SECONDS_MAX:g} s"
            raise DeployError(f"importing {self.spec.handler} took over {limit}") from None
        finally:
            await asyncio.shield(_end(process))
        return descriptions.read(code, logfiles.lines_since(output, 0, 1_000), self.spec.handler)

    def _wanted(self) -> dict[str, str]:
        """Map each alias to a model in the repository: as function.yaml says, else the same name."""
        declared = [str(model["name"]) for model in self.described.models]
        return {alias: alias for alias in declared} | dict(self.spec.models or {})

    def _repository(self) -> ModelRepository:
        if self.order.repository is None:
            wanted = ", ".join(sorted(self._wanted().values()))
            raise UsageError(
                f"{self.spec.name} needs the model {wanted}; there is no triton-repo/ above {self.order.source}",
                hint="SHOAL_MODEL_REPOSITORY=DIR shoal deploy …",
            )
        return ModelRepository(self.order.repository, self.order.cache)

    async def _hold_to_contract(self, declared: Mapping[str, Any]) -> None:
        alias = str(declared["name"])
        signature = contract.signature_of(await self._metadata(self.versions[alias]))
        contract.check(
            alias,
            signature,
            inputs=declared.get("inputs"),
            outputs=declared.get("outputs"),
            called_inputs=declared.get("called_inputs") or (),
            used_outputs=declared.get("used_outputs") or (),
        )

    async def _metadata(self, version: str) -> Mapping[str, Any]:
        address = (await self.engine.pool_addresses())[0]
        timeout = aiohttp.ClientTimeout(total=limits.CONTROL_SECONDS_MAX)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://{address}/v2/models/{version}") as response,
            ):
                response.raise_for_status()
                metadata: Mapping[str, Any] = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            reason = f"the pool does not tell what {version} takes: {error}"
            raise DeployError(reason, hint="shoal logs pool") from error
        return metadata

    @contextmanager
    def _stage(self, name: str) -> Iterator[list[str]]:
        """Report the begin and the end of a stage; what is appended to the list becomes its detail."""
        started = self.engine.clock.monotonic()
        told: list[str] = []
        self.report(Stage(name, "started"))
        try:
            yield told
        except BaseException:
            self.report(Stage(name, "failed", self.engine.clock.monotonic() - started))
            raise
        self.report(Stage(name, "done", self.engine.clock.monotonic() - started, "".join(told)))


async def _in_thread(work: Callable[..., None], *arguments: Path) -> None:
    """Run work in a thread; also when cancelled back only when it is over, for no thread can be stopped."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)  # what it raised concerns nobody any more
        raise


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


async def _end(process: Process) -> None:
    """End a process and what it started."""
    await process.stop(0.0)
    await strays.end()


def run_spec(spec: FunctionSpec, described: Described, packages: str = "") -> RunSpec:
    """Reduce a specification and what its handler declares to what running it needs."""
    triggers = spec.triggers
    if triggers is None:
        types = [str(item.get("type") or "") for item in described.handlers if item["kind"] == "event"]
        triggers = tuple(spec.trigger_for(kind) for kind in dict.fromkeys(types))
    return RunSpec(
        handler=spec.handler,
        concurrency=spec.concurrency,
        timeout_s=spec.timeout_s,
        threads=spec.threads,
        scale_min=spec.scale.min,
        scale_max=spec.scale.max,
        window_s=spec.scale.window_s,
        env=dict(spec.env),
        triggers=tuple(
            TriggerSpec(
                broker=trigger.broker,
                filter=dict(trigger.filter),
                retry=trigger.delivery.retry,
                backoff_policy=trigger.delivery.backoff_policy,
                backoff_delay_s=trigger.delivery.backoff_delay_s,
                timeout_s=trigger.delivery.timeout_s,
            )
            for trigger in triggers
        ),
        packages=packages,
        handlers=tuple(handler_info(handler) for handler in described.handlers),
    )


def _digest(code: str, spec: RunSpec, versions: Mapping[str, str]) -> str:
    chosen = {key: value for key, value in spec.to_json().items() if key != "handlers"}  # the code says those
    settings = json.dumps([chosen, dict(versions)], sort_keys=True)
    return parts_digest([("code", code), ("settings", settings)])


def _source_key(function: str) -> str:
    """Name the setting that remembers the folder a function was last deployed from."""
    return f"source of {function}"


@contextmanager
def _as_of(source: Path, code: Path) -> Iterator[None]:
    """Let what is wrong with the copy name the folder it was made of, which its author knows."""
    try:
        yield
    except ShoalError as error:
        error.message = error.message.replace(str(code), str(source))
        error.hint = error.hint.replace(str(code), str(source))
        raise


def _summary(described: Described) -> str:
    handlers = ", ".join(f"{item['name']} ({item['kind']})" for item in described.handlers)
    models = ", ".join(str(model["name"]) for model in described.models)
    return handlers + (f"; models: {models}" if models else "")


__all__ = ["ContractError", "Deploying", "Described", "Order", "run_spec"]
