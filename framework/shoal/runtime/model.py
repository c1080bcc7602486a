"""A model as a handler sees it: declared once, awaited with tensors, bound to an exact version by the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shoal.core.errors import ModelDeadlineError, ShoalError, UsageError
from shoal.runtime import contract, current, handlers
from shoal.runtime.metrics import PoolCounters
from shoal.triton.tensors import Signature, Tensor, TensorSpec

_SYNC_MARGIN_SECONDS = 1.0  # past the call's own deadline, for its error to come back to the thread


class Pool(Protocol):
    """What this module asks of the pool's client."""

    @property
    def counters(self) -> PoolCounters:
        """Give what the client counts by itself."""
        ...

    async def signature(self, model: str) -> Signature:
        """Give what the pool reports of a model version."""
        ...

    async def ready(self, model: str) -> bool:
        """Say whether the pool takes calls for a model version."""
        ...

    async def infer(
        self,
        model: str,
        signature: Signature,
        inputs: Mapping[str, Any],
        *,
        timeout_s: float,
        outputs: Sequence[str] | None = None,
        request_id: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Tensor]:
        """Run a model version."""
        ...

    def batch(self, model: str) -> None:
        """Let calls to a model version that meet on the wire leave together."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


@dataclass(slots=True)
class Bound:
    """What a served model has: its pool, its version, and how calls are counted (version, outcome, seconds)."""

    pool: Pool
    version: str
    loop: asyncio.AbstractEventLoop
    timeout_s: float  # of a call outside a request
    count: Callable[[str, str, float], None]
    monotonic: Callable[[], float]
    known: asyncio.Event  # set with the signature
    signature: Signature | None = None


class Model:
    """A model the handler depends on; construct it at module level and call it with its inputs by name.

    ``inputs`` and ``outputs`` map tensor names to ``DATATYPE[d1,d2]`` (-1: any size); what is declared is checked
    at deployment and before the first request. UsageError if such a text is malformed. With ``batching``, calls
    that arrive while others are on the wire leave together: more calls a second on small models, but one batch
    at a time to each replica, which slows a large model whose instances could work side by side.
    """

    def __init__(
        self,
        name: str,
        *,
        inputs: Mapping[str, str] | None = None,
        outputs: Mapping[str, str] | None = None,
        batching: bool = False,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise UsageError(f"a model's name is {name!r}; it must be a string with at least one character")
        self.name = name
        self.batching = batching
        self.inputs = {key: contract.parse(key, text) for key, text in (inputs or {}).items()}
        self.outputs = {key: contract.parse(key, text) for key, text in (outputs or {}).items()}
        self._bound: Bound | None = None
        handlers.current().models.append(self)

    def __repr__(self) -> str:
        return f"Model({self.name!r})"

    async def __call__(self, /, **tensors: Any) -> dict[str, Tensor]:
        """Run the model on ``tensors`` (buffers, numpy arrays or nested lists); give its outputs by name.

        The call has what is left of the request's time and carries its id and trace. ModelError or PoolError if it
        fails.
        """
        bound = self._served()
        begun = bound.monotonic()
        outcome = "ok"
        try:
            return await self._infer(bound, tensors)
        except ShoalError as error:
            outcome = error.code
            raise
        except BaseException as error:
            outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else "fault"
            raise
        finally:
            bound.count(bound.version, outcome, bound.monotonic() - begun)

    def sync(self, /, **tensors: Any) -> dict[str, Tensor]:
        """Run the model from a synchronous handler: the same call, made on the loop, awaited on this thread.

        UsageError on the loop's own thread, which would wait for itself.
        """
        bound = self._served()
        if _on(bound.loop):
            raise UsageError(
                f"{self!r}.sync() was called on the event loop; in an async handler write: await {self.name}(…)"
            )
        call = asyncio.run_coroutine_threadsafe(self(**tensors), bound.loop)
        try:
            return call.result(_time_left(bound) + _SYNC_MARGIN_SECONDS)
        finally:
            call.cancel()

    def bind(self, bound: Bound) -> None:
        """Serve calls from now on; the process does this once."""
        self._bound = bound

    def check(self, served: Signature) -> None:
        """Hold the declared tensors to what the pool serves; ContractError tells the differences."""
        contract.check(self.name, self.inputs, self.outputs, served)

    def _served(self) -> Bound:
        if self._bound is None:
            raise UsageError(
                f"{self!r} is not connected to a pool: a model answers only inside a function process",
                hint="start the function with: shoal up, then shoal deploy <folder>",
            )
        return self._bound

    async def _infer(self, bound: Bound, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
        left = _time_left(bound)
        if bound.signature is None:
            left = await _wait_for_signature(bound, left)
        if left <= 0 or bound.signature is None:
            raise ModelDeadlineError(f"no time is left for model {self.name!r}: the request's deadline passed")
        context = current.context.get()
        return await bound.pool.infer(
            bound.version,
            bound.signature,
            tensors,
            timeout_s=left,
            request_id=context.request_id if context else "",
            headers={"traceparent": context.traceparent} if context and context.traceparent else None,
        )


def declared(tensors: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Give declared tensors as they were written: name -> ``INT32[-1,2048]``."""
    return {name: f"{spec.datatype}[{','.join(map(str, spec.shape))}]" for name, spec in tensors.items()}


async def _wait_for_signature(bound: Bound, left: float) -> float:
    """Wait for what a start hook may not yet have; give the seconds left afterwards."""
    begun = bound.loop.time()
    try:
        async with asyncio.timeout(left):
            await bound.known.wait()
    except TimeoutError:
        return 0.0
    return left - (bound.loop.time() - begun)


def _time_left(bound: Bound) -> float:
    context = current.context.get()
    return bound.timeout_s if context is None else context.deadline - bound.loop.time()


def _on(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
