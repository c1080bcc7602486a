"""From an imported handler to a function that is ready: models known, their contract held, start hooks done.

The models are looked at again and again afterwards, so that the readiness probe can answer from memory.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from shoal.core.errors import ContractError, ShoalError, UsageError
from shoal.core.limits import (
    MODEL_LOOK_SECONDS_MAX,
    MODEL_REFRESH_SECONDS,
    MODEL_RETRY_SECONDS_MAX,
    MODEL_RETRY_SECONDS_MIN,
    MODELS_PER_FUNCTION_MAX,
)
from shoal.runtime.function import Function
from shoal.runtime.model import Bound, Model, Pool
from shoal.runtime.settings import Settings

_HOOKS = "start hooks"


def version_of(model: Model, settings: Settings) -> str:
    """Give the exact version a declared model stands for; UsageError names the variable that should tell it."""
    if not settings.pool:
        raise UsageError(f"the handler declares {model!r}, but environment variable SHOAL_POOL is not set")
    if model.name not in settings.models:
        known = ", ".join(sorted(settings.models)) or "no model"
        raise UsageError(f"the handler declares {model!r}; environment variable SHOAL_MODELS names {known}")
    return settings.models[model.name]


def check_models(models: list[Model], settings: Settings) -> None:
    """Raise UsageError for a declared model the environment says nothing of, or for too many."""
    if len(models) > MODELS_PER_FUNCTION_MAX:
        raise UsageError(f"the handler declares {len(models)} models; {MODELS_PER_FUNCTION_MAX} is the most")
    for model in models:
        version_of(model, settings)


class Startup:
    """Makes one function ready and keeps its readiness true; ``connect`` makes the pool's client."""

    def __init__(self, function: Function, connect: Callable[[tuple[str, ...]], Pool]) -> None:
        self._function = function
        self._connect = connect
        self._pool: Pool | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> asyncio.Task[None]:
        """Start looking at the models and give the task that runs the start hooks; it raises what a hook raises."""
        function = self._function
        for model in function.registry.models:
            self._tasks.append(function.loop.create_task(self._keep(model, self._bind(model))))
        if function.registry.start:
            function.readiness.wait_for(_HOOKS, "the start hooks are running")
        function.readiness.open_if_clear()
        return function.loop.create_task(self._run_start_hooks())

    async def end(self) -> None:
        """Stop looking and close the pool's connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._pool is not None:
            await self._pool.close()

    async def run_stop_hooks(self) -> None:
        """Run the stop hooks in order; one that raises is logged, and the next one runs."""
        for hook in self._function.registry.stop:
            try:
                await self._run(hook)
            except Exception as error:
                self._function.log.failure(f"stop hook {hook.__name__} failed", error)

    async def _run_start_hooks(self) -> None:
        for hook in self._function.registry.start:
            await self._run(hook)
        self._function.readiness.clear(_HOOKS)

    async def _run(self, hook: Callable[[], Any]) -> None:
        if inspect.iscoroutinefunction(hook):
            await hook()
        else:
            await self._function.loop.run_in_executor(self._function.executor, hook)

    def _bind(self, model: Model) -> Bound:
        settings = self._function.settings
        if self._pool is None:
            self._pool = self._connect(settings.pool)
            self._function.metrics.pool = self._pool.counters
        version = version_of(model, settings)
        if model.batching:
            self._pool.batch(version)
        self._function.readiness.wait_for(version, f"model {version} has not answered yet")
        bound = Bound(
            pool=self._pool,
            version=version,
            loop=self._function.loop,
            timeout_s=settings.timeout_s,
            count=self._function.metrics.model_call,
            monotonic=self._function.monotonic,
            known=asyncio.Event(),
        )
        model.bind(bound)
        return bound

    async def _keep(self, model: Model, bound: Bound) -> None:
        """Look at a model for as long as the process lives: often until it is ready, seldom afterwards."""
        pause = MODEL_RETRY_SECONDS_MIN
        while True:
            if reason := await self._look(model, bound):
                self._function.readiness.wait_for(bound.version, reason)
                await asyncio.sleep(pause)
                pause = min(pause * 2, MODEL_RETRY_SECONDS_MAX)
            else:
                self._function.readiness.clear(bound.version)
                pause = MODEL_RETRY_SECONDS_MIN
                await asyncio.sleep(MODEL_REFRESH_SECONDS)

    async def _look(self, model: Model, bound: Bound) -> str:
        """Give why a model is not ready; empty when it is."""
        try:
            async with asyncio.timeout(MODEL_LOOK_SECONDS_MAX):
                if bound.signature is not None:
                    return "" if await bound.pool.ready(bound.version) else f"model {bound.version} is not loaded"
                served = await bound.pool.signature(bound.version)
            model.check(served)
        except TimeoutError:
            return f"model {bound.version}: the pool did not describe it within {MODEL_LOOK_SECONDS_MAX:g} s"
        except ContractError as error:
            return f"{error.message} (version {bound.version})"
        except ShoalError as error:
            return f"model {bound.version}: {error.message}"
        except Exception as error:
            self._function.log.failure(f"looking at model {bound.version} failed", error)
            return f"model {bound.version}: the pool's answer could not be read"
        bound.signature = served
        bound.known.set()
        return ""


def connect(addresses: tuple[str, ...]) -> Pool:
    """Make the pool's client; imported here, because most functions start faster without it."""
    from shoal.triton.client import PoolClient

    return PoolClient(addresses)
