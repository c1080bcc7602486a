"""The pool client: calls to models on the replicas of a Triton pool, from one event loop.

HTTP/1.1 with binary tensors, as it costs a fraction of what protobuf does. An abandoned HTTP request runs to its
end on the server, so every call carries its deadline to Triton's queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final
from urllib.parse import quote

from shoal.core.errors import (
    ModelNotLoadedError,
    PoolUnreachableError,
    ShoalError,
)
from shoal.core.limits import (
    CONTROL_CALL_SECONDS_MAX,
    MODELS_PER_FUNCTION_MAX,
    POOL_CONNECTIONS_MAX,
)
from shoal.triton.balance import RetryBudget, choose
from shoal.triton.batching import Batcher
from shoal.triton.classify import Failure, from_http
from shoal.triton.codec import Codec
from shoal.triton.connection import Reply
from shoal.triton.counters import Counters
from shoal.triton.metadata import parse_json, signature_of
from shoal.triton.replica import ANY_MODEL, Replica
from shoal.triton.requests import InferRequest, Plan, Question, budget_left, header_lines
from shoal.triton.tensors import Signature, Tensor

_OK: Final = 200
_Request = InferRequest | Question


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
        self._plans: dict[str, Plan] = {}
        self._batcher = Batcher(self._run, self.counters, len(addresses))
        self._batched: set[str] = set()
        self._closed = False

    def batch(self, model: str) -> None:
        """Let calls to ``model`` that arrive while others like them are on the wire leave together from now on."""
        self._batched.add(model)

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
            request = InferRequest(plan, call, request_id, header_lines(headers) if headers else "", priority)
            deadline = asyncio.get_running_loop().time() + timeout_s
            if model in self._batched:
                return await self._batcher.infer(request, deadline)
            return await self._run(request, deadline)
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
        metadata = await self._send(Question(model, path), deadline)
        config = await self._config(model, f"{path}/config", deadline)
        return signature_of(model, parse_json(model, metadata.body), config)

    async def ready(self, model: str, *, timeout_s: float = CONTROL_CALL_SECONDS_MAX) -> bool:
        """Whether some replica holds the model and takes calls for it; raises when none can be asked."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        request = Question(model, f"/v2/models/{quote(model, safe='')}/ready")
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
        await self._batcher.drain()
        await asyncio.sleep(0)  # lets the transports end within this loop

    async def _run(self, request: InferRequest, deadline: float) -> dict[str, Tensor]:
        reply = await self._send(request, deadline)
        codec, outputs = request.plan.codec, request.call.outputs
        return codec.decode(reply.body, reply.header_length, outputs, request.request_id)

    async def _ask(self, replica: Replica, request: Question, deadline: float) -> ShoalError | None:
        try:
            outcome = await self._attempt(replica, request, deadline)
        except ShoalError as error:
            return error
        return outcome.error if isinstance(outcome, Failure) else None

    def _plan(self, model: str, signature: Signature) -> Plan:
        plan = self._plans.get(model)
        if plan is None or not plan.codec.serves(signature):
            if len(self._plans) >= MODELS_PER_FUNCTION_MAX * 2:
                self._plans.clear()
            plan = self._plans[model] = Plan(model, Codec(model, signature))
        return plan

    async def _config(self, model: str, path: str, deadline: float) -> dict[str, Any] | None:
        """Read the model's configuration; None where a pool keeps it to itself."""
        outcome = await self._attempt(self._choose(model), Question(model, path), deadline)
        return None if isinstance(outcome, Failure) else parse_json(model, outcome.body)

    async def _send(self, request: _Request, deadline: float) -> Reply:
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

    async def _attempt(self, replica: Replica, request: _Request, deadline: float) -> Reply | Failure:
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
                parts = request.parts(replica, budget_left(deadline - loop.time(), request.model))
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
