"""The pool client: calls to models on the replicas of a Triton pool, from one event loop.

HTTP/1.1 with binary tensors, as it costs a fraction of what protobuf does. An abandoned HTTP request runs to its
end on the server, so every call carries its deadline to Triton's queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from urllib.parse import quote

from shoal.core.errors import (
    ModelDeadlineError,
    ModelInputError,
    ModelNotLoadedError,
    PoolUnreachableError,
    ShoalError,
)
from shoal.core.limits import (
    CONTROL_CALL_SECONDS_MAX,
    MODELS_PER_FUNCTION_MAX,
    POOL_BUDGET_SECONDS_MIN,
    POOL_CONNECTIONS_MAX,
    POOL_MARGIN_SECONDS,
)
from shoal.triton.balance import RetryBudget, choose
from shoal.triton.classify import Failure, from_http
from shoal.triton.codec import Call, Codec
from shoal.triton.connection import Reply
from shoal.triton.inputs import Buffer
from shoal.triton.metadata import parse_json, signature_of
from shoal.triton.replica import ANY_MODEL, Replica
from shoal.triton.tensors import Signature, Tensor

_OK: Final = 200


@dataclass(slots=True)
class Counters:
    """What happened so far, for metrics; plain numbers, read whenever asked."""

    calls: int = 0
    retries: int = 0
    in_flight: int = 0
    cancelled: int = 0
    errors: dict[str, int] = field(default_factory=dict)  # ShoalError.code -> count

    def count(self, error: ShoalError) -> None:
        """Count one failed call."""
        self.errors[error.code] = self.errors.get(error.code, 0) + 1


class PoolClient:
    """A process's client of a pool, for one event loop; ``addresses`` are host:port of Triton's HTTP endpoints."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        connections_max: int = POOL_CONNECTIONS_MAX,
        rng: Random | None = None,
        budget: RetryBudget | None = None,
    ) -> None:
        if not addresses:
            raise PoolUnreachableError("the pool has no address", hint="set SHOAL_POOL to host:port of a Triton")
        self.counters = Counters()
        self._replicas = tuple(Replica(address, connections_max) for address in addresses)
        self._rng = rng or Random()  # noqa: S311 - spreads load, guards nothing
        self._budget = budget or RetryBudget()
        self._plans: dict[str, _Plan] = {}
        self._closed = False

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
        priority: int = 0,
    ) -> dict[str, Tensor]:
        """Run ``model`` on ``inputs`` (name -> array, buffer, nested list or Tensor); give its outputs by name.

        ``timeout_s`` bounds everything: waiting for a connection, Triton's queue, the run and the answer.
        Raises ModelInputError before anything is sent, else the other ModelErrors and PoolErrors. A call that
        surely did not run is tried once more on another replica, within the process's budget.
        """
        counters = self.counters
        counters.calls += 1
        counters.in_flight += 1
        try:
            plan = self._plan(model, signature)
            call = plan.codec.encode(inputs, outputs)
            request = _Infer(plan, call, request_id, _lines(headers) if headers else "", priority)
            deadline = asyncio.get_running_loop().time() + timeout_s
            reply = await self._send(request, deadline)
            return plan.codec.decode(reply.body, reply.header_length, call.outputs, request_id)
        except ShoalError as error:
            counters.count(error)
            raise
        except asyncio.CancelledError:
            counters.cancelled += 1
            raise
        finally:
            counters.in_flight -= 1

    async def signature(self, model: str, *, timeout_s: float = CONTROL_CALL_SECONDS_MAX) -> Signature:
        """Ask a replica for the model's interface; ModelNotLoadedError when it does not hold the model."""
        path = f"/v2/models/{quote(model, safe='')}"
        deadline = asyncio.get_running_loop().time() + timeout_s
        metadata = await self._send(_Get(model, path), deadline)
        config = await self._config(model, f"{path}/config", deadline)
        return signature_of(model, parse_json(model, metadata.body), config)

    async def ready(self, model: str, *, timeout_s: float = CONTROL_CALL_SECONDS_MAX) -> bool:
        """Whether some replica holds the model and takes calls for it; raises when none can be asked."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        request = _Get(model, f"/v2/models/{quote(model, safe='')}/ready")
        outcomes = await asyncio.gather(*(self._ask(replica, request, deadline) for replica in self._replicas))
        if None in outcomes:
            return True
        if any(isinstance(error, ModelNotLoadedError) for error in outcomes):
            return False
        raise next(error for error in outcomes if error)

    async def close(self) -> None:
        """End every connection; calls in flight fail with PoolUnreachableError."""
        self._closed = True
        for replica in self._replicas:
            replica.close()
        await asyncio.sleep(0)  # lets the transports end within this loop

    async def _ask(self, replica: Replica, request: _Get, deadline: float) -> ShoalError | None:
        try:
            outcome = await self._attempt(replica, request, deadline)
        except ShoalError as error:
            return error
        return outcome.error if isinstance(outcome, Failure) else None

    def _plan(self, model: str, signature: Signature) -> _Plan:
        plan = self._plans.get(model)
        if plan is None or plan.codec.signature is not signature:
            if len(self._plans) >= MODELS_PER_FUNCTION_MAX * 2:
                self._plans.clear()
            plan = self._plans[model] = _Plan(model, Codec(model, signature))
        return plan

    async def _config(self, model: str, path: str, deadline: float) -> dict[str, Any] | None:
        """Read the model's configuration; None where a pool keeps it to itself."""
        outcome = await self._attempt(self._choose(model), _Get(model, path), deadline)
        return None if isinstance(outcome, Failure) else parse_json(model, outcome.body)

    async def _send(self, request: _Infer | _Get, deadline: float) -> Reply:
        """Give the answer with status 200, after one more attempt on another replica where that is safe."""
        self._budget.earn()
        replica = self._choose(request.model)
        outcome = await self._attempt(replica, request, deadline)
        if isinstance(outcome, Reply):
            return outcome
        if outcome.elsewhere and len(self._replicas) > 1 and self._budget.spend():
            self.counters.retries += 1
            outcome = await self._attempt(self._choose(request.model, avoid=replica), request, deadline)
            if isinstance(outcome, Reply):
                return outcome
        raise outcome.error

    def _choose(self, model: str, avoid: Replica | None = None) -> Replica:
        if self._closed:
            raise PoolUnreachableError("the pool client is closed")
        if len(self._replicas) == 1:
            return self._replicas[0]
        return choose(self._replicas, model, asyncio.get_running_loop().time(), self._rng, avoid)

    async def _attempt(self, replica: Replica, request: _Infer | _Get, deadline: float) -> Reply | Failure:
        """Ask one replica once. Errors after the request left are raised: it may have run."""
        loop = asyncio.get_running_loop()
        replica.in_flight += 1
        try:
            try:
                connection = await replica.acquire(deadline)
            except PoolUnreachableError as error:
                replica.pass_over(loop.time())
                return Failure(error, elsewhere=True)
            try:
                parts = request.parts(replica, _budget_left(deadline - loop.time(), request.model))
                reply = await connection.exchange(parts, deadline)
            finally:
                replica.release(connection)
        finally:
            replica.in_flight -= 1
        return reply if reply.status == _OK else self._failed(replica, request.model, reply)

    def _failed(self, replica: Replica, model: str, reply: Reply) -> Failure:
        failure = from_http(model, reply.status, bytes(reply.body))
        if failure.elsewhere:
            whole = isinstance(failure.error, PoolUnreachableError)
            replica.pass_over(asyncio.get_running_loop().time(), ANY_MODEL if whole else model)
        return failure


class _Plan:
    """What is the same for every call to one model."""

    __slots__ = ("codec", "model", "start")

    def __init__(self, model: str, codec: Codec) -> None:
        self.model = model
        self.codec = codec
        self.start = (
            f"POST /v2/models/{quote(model, safe='')}/infer HTTP/1.1\r\nContent-Type: application/octet-stream\r\n"
        )


class _Infer:
    """One inference request, written out when a connection is there: its timeout is what is left then."""

    __slots__ = ("_call", "_lines", "_plan", "_priority", "_request_id", "model")

    def __init__(self, plan: _Plan, call: Call, request_id: str, lines: str, priority: int) -> None:
        self.model = plan.model
        self._plan = plan
        self._call = call
        self._request_id = request_id
        self._lines = lines
        self._priority = priority

    def parts(self, replica: Replica, seconds: float) -> list[Buffer]:
        """Give the bytes to send, ``seconds`` before the deadline."""
        call = self._call
        timeout_us = int((seconds - POOL_MARGIN_SECONDS) * 1e6)
        json = call.json(self._request_id, timeout_us, self._priority)
        head = (
            f"{self._plan.start}Host: {replica.address}\r\n{self._lines}"
            f"Inference-Header-Content-Length: {len(json)}\r\n"
            f"Content-Length: {len(json) + call.nbytes}\r\n\r\n{json}"
        )
        return [head.encode("ascii"), *call.buffers]


class _Get:
    """A question about a model."""

    __slots__ = ("_path", "model")

    def __init__(self, model: str, path: str) -> None:
        self.model = model
        self._path = path

    def parts(self, replica: Replica, seconds: float) -> list[Buffer]:
        """Give the bytes to send."""
        return [f"GET {self._path} HTTP/1.1\r\nHost: {replica.address}\r\n\r\n".encode("ascii")]


def _budget_left(seconds: float, model: str) -> float:
    if seconds < POOL_BUDGET_SECONDS_MIN:
        raise ModelDeadlineError(
            f"{max(0.0, seconds) * 1e3:.1f} ms are left for model {model}, "
            f"a call needs {POOL_BUDGET_SECONDS_MIN * 1e3:.0f} ms or more"
        )
    return seconds


def _lines(headers: Mapping[str, str]) -> str:
    """Write extra request headers; one that could end its line is the caller's mistake."""
    lines = ""
    for name, value in headers.items():
        if not (name.isascii() and name.isprintable() and value.isascii() and value.isprintable()):
            raise ModelInputError(f"header {name!r:.80} has the value {value!r:.80}: printable ASCII only")
        lines += f"{name}: {value}\r\n"
    return lines
