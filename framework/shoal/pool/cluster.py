"""``python -m shoal.pool.cluster``: the agent in a pod of the pool, beside its Triton.

It follows the leases, pulls the versions they name, has them loaded and checked, unloads the rest, and reports per
pod. It holds no state of its own: killed at any moment, the next one starts from the leases and the server's index.

A sidecar and not Triton's parent: on GPUs the Triton image is NVIDIA's own, unchanged, and models' code, which runs
in Triton, gets neither the agent's token nor its libraries. The kubelet does what a parent would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from shoal.core import limits
from shoal.core.errors import ShoalError
from shoal.pool.agent import Agent
from shoal.pool.cluster_kube import KubeAccess, KubeClient
from shoal.pool.cluster_leases import LEASES, NAMESPACE, STATUS, report, wanted
from shoal.pool.cluster_models import Puller, pull_all
from shoal.pool.cluster_triton import NeighbourTriton, control_headers, ensure_key
from shoal.triton.control import GrpcControl

PORT: Final = 8003  # /live and /ready, for the kubelet
KEY: Final = Path("/run/shoal/key")
MODELS: Final = Path("/models")

Log = Callable[[str, str], None]  # level, message


@dataclass(slots=True)
class Keeper:
    """Holds one pod's models to the leases: ``attain`` is told what is wanted, ``models`` says how it stands."""

    agent: Agent
    puller: Puller
    tried: bool = False  # all that was leased at the start
    known: asyncio.Event = field(default_factory=asyncio.Event)  # the agent has been told what is wanted
    _failed: dict[str, ShoalError] = field(default_factory=dict)
    _wanted: frozenset[str] = frozenset()

    @property
    def ready(self) -> bool:
        """Whether this replica may get calls: not before its models were tried, nor while a new server loads them.

        One that FAILED, or a new one that is LOADING, does not take the others away.
        """
        return self.tried and self.agent.settled

    def models(self) -> dict[str, dict[str, str]]:
        """Describe every wanted version: those that could not be pulled, and the agent's."""
        found = {name: {"state": "LOADING", "reason": ""} for name in self._wanted}
        found |= {name: one for name, one in self.agent.models().items() if name in self._wanted}
        return found | {name: {"state": "FAILED", "reason": error.message} for name, error in self._failed.items()}

    async def attain(self, versions: frozenset[str]) -> bool:
        """Try once to hold exactly these versions; whether all of them are READY now."""
        self._wanted = versions
        self._failed = {name: error for name, error in self._failed.items() if name in versions}
        try:
            await self._want(versions.intersection(self.puller.held()))  # before waiting for what must be pulled
            self._failed = await pull_all(versions, self.puller.pull)
            states = await self._want(versions.difference(self._failed))
        except ShoalError as error:
            self._failed |= dict.fromkeys(versions, error)
            raise
        self.puller.forget(versions)
        self.tried = True
        return not self._failed and all(one["state"] == "READY" for one in states.values())

    async def run(self) -> None:
        """Keep the server's models as wanted, for ever; not before it is known what is.

        Else an agent that starts anew beside a server that never stopped would take all its models away.
        """
        await self.known.wait()
        await self.agent.run()

    async def _want(self, versions: frozenset[str]) -> dict[str, dict[str, str]]:
        asked = asyncio.create_task(self.agent.want(versions))
        await asyncio.sleep(0)  # lets it take note of the set; only then may the agent begin
        self.known.set()
        return await asked


async def keep(keeper: Keeper, leases: AsyncIterator[Mapping[str, str]], log: Log) -> None:
    """Follow the leases for ever; what FAILED is tried again, ever less often, until the leases change."""
    changes: asyncio.Queue[frozenset[str]] = asyncio.Queue()

    async def read() -> None:
        async for data in leases:
            versions, wrong = wanted(data)
            for function, line in wrong.items():
                log("error", f"the lease of {function} names {line!r:.80}, which is no model version")
            changes.put_nowait(versions)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        tasks.create_task(_follow(keeper, changes, log))


async def _follow(keeper: Keeper, changes: asyncio.Queue[frozenset[str]], log: Log) -> None:
    versions, delay = await _newest(changes), limits.LEASE_RETRY_SECONDS_MIN
    while True:
        attained = await _attained(keeper, versions, log)
        try:
            async with asyncio.timeout(None if attained else delay):
                versions, delay = await _newest(changes), limits.LEASE_RETRY_SECONDS_MIN
        except TimeoutError:
            delay = min(2 * delay, limits.LEASE_RETRY_SECONDS_MAX)


async def _newest(changes: asyncio.Queue[frozenset[str]]) -> frozenset[str]:
    found = await changes.get()
    while not changes.empty():
        found = changes.get_nowait()
    return found


async def _attained(keeper: Keeper, versions: frozenset[str], log: Log) -> bool:
    try:
        return await keeper.attain(versions)
    except ShoalError as error:
        log("error", error.message)
        return False


async def tell(keeper: Keeper, client: KubeClient, namespace: str, pod: str, log: Log) -> None:
    """Report this pod's models whenever they changed, for ever; a report that fails is tried again."""
    told, delay = "", limits.STATUS_TICK_SECONDS
    while True:
        now = report(keeper.models())
        if now != told:
            try:
                await client.patch(namespace, STATUS, {pod: now})
                told, delay = now, limits.STATUS_TICK_SECONDS
            except ShoalError as error:
                log("error", f"the report was not taken: {error.message}")
                delay = min(2 * delay, limits.API_RETRY_SECONDS_MAX)
        await asyncio.sleep(delay)


def main() -> None:
    """Run the agent until SIGTERM."""
    asyncio.run(_serve())


async def _serve() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    key = ensure_key(KEY)
    agent = Agent(
        NeighbourTriton(), lambda address: GrpcControl(address, headers=control_headers(key)), MODELS, note=_log
    )
    keeper = Keeper(agent, Puller(os.environ["SHOAL_MODEL_REGISTRY"], MODELS))
    namespace, pod = os.environ.get("POD_NAMESPACE", NAMESPACE), os.environ["POD_NAME"]
    runner = await _probes(keeper)
    async with KubeClient(KubeAccess.in_cluster(), note=_log) as client:
        works = [
            asyncio.create_task(keeper.run()),
            asyncio.create_task(keep(keeper, client.follow(namespace, LEASES), _log)),
            asyncio.create_task(tell(keeper, client, namespace, pod, _log)),
        ]
        told = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([told, *works], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a work that ended has raised: the pod's log says why, and the kubelet starts again
        finally:
            for task in (told, *works):
                task.cancel()
            await asyncio.gather(told, *works, return_exceptions=True)
            with contextlib.suppress(ShoalError):
                await client.patch(namespace, STATUS, {pod: None})
            await runner.cleanup()
            await agent.close()


async def _probes(keeper: Keeper) -> web.AppRunner:
    async def live(_request: web.Request) -> web.Response:
        return web.Response()

    async def ready(_request: web.Request) -> web.Response:
        return web.Response(status=200 if keeper.ready else 503)

    app = web.Application()
    app.router.add_get("/live", live)
    app.router.add_get("/ready", ready)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", PORT).start()  # noqa: S104 - the kubelet asks at the pod's address
    return runner


def _log(level: str, message: str, **fields: Any) -> None:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    print(json.dumps({"time": time, "level": level, "message": message, **fields}), flush=True)


if __name__ == "__main__":
    main()
