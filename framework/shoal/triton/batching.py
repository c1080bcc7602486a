"""Natural batching: calls that arrive while one like them is on the wire leave together, as one batch.

No timer: an idle model is called at once, and the busier it is the larger the batches. A batch runs in a task of
its own, so that a caller who leaves takes nobody along; each caller keeps its own deadline. When the model itself
fails on a batch, all its calls fail: which of them it was, Triton does not tell.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from shoal.core.errors import ModelDeadlineError, ModelInputError, PoolProtocolError, ShoalError
from shoal.core.limits import POOL_BUDGET_SECONDS_MIN
from shoal.triton.codec import Call
from shoal.triton.counters import Counters
from shoal.triton.requests import InferRequest
from shoal.triton.tensors import Signature, Tensor, split_elements

Outputs = dict[str, Tensor]
Run = Callable[[InferRequest, float], Awaitable[Outputs]]


class _Member:
    """One call waiting to leave with others."""

    __slots__ = ("deadline", "future", "request", "rows")

    def __init__(self, request: InferRequest, rows: int, deadline: float, future: asyncio.Future[Outputs]) -> None:
        self.request = request
        self.rows = rows
        self.deadline = deadline
        self.future = future


class _Lane:
    """Calls that may travel together: one model, one set of outputs, shapes alike past the first dimension."""

    __slots__ = ("on_wire", "waiting")

    def __init__(self) -> None:
        self.on_wire = 0
        self.waiting: deque[_Member] = deque()


class Batcher:
    """Sends calls through ``run``, at most ``width`` requests at once per lane (the number of replicas)."""

    def __init__(self, run: Run, counters: Counters, width: int = 1) -> None:
        self._run = run
        self._counters = counters
        self._width = width
        self._lanes: dict[Any, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def infer(self, request: InferRequest, deadline: float) -> Outputs:
        """Run a call by itself or with others; raises what ``run`` raises, or ModelDeadlineError while it waits.

        A batch that Triton refuses before running it (ModelInputError) is taken apart and each call sent by itself.
        """
        rows = rows_of(request.call, request.plan.codec.signature)
        if rows == 0:
            return await self._run(request, deadline)
        key = _lane_key(request)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
        if lane.on_wire >= self._width:
            return await self._wait(lane, request, rows, deadline)
        lane.on_wire += 1
        try:
            return await self._run(request, deadline)
        finally:
            self._leave(key, lane)

    async def drain(self) -> None:
        """Wait until no batch is on the wire; ends soon once ``run`` refuses."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def _wait(self, lane: _Lane, request: InferRequest, rows: int, deadline: float) -> Outputs:
        loop = asyncio.get_running_loop()
        member = _Member(request, rows, deadline, loop.create_future())
        lane.waiting.append(member)
        timer = loop.call_at(deadline, _expire, member)
        try:
            return await member.future
        finally:
            timer.cancel()

    def _leave(self, key: Any, lane: _Lane) -> None:
        """Give the place on the wire to those who wait, or give it up."""
        members = self._next(lane)
        if not members:
            lane.on_wire -= 1
            if not lane.on_wire:
                self._lanes.pop(key, None)
            return
        task = asyncio.get_running_loop().create_task(self._send(key, lane, members))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _next(self, lane: _Lane) -> list[_Member]:
        """Take from the front as many calls as fit into one batch; those who left or came too late drop out."""
        now = asyncio.get_running_loop().time()
        members: list[_Member] = []
        room = 0
        while lane.waiting:
            member = lane.waiting[0]
            if not members:
                room = member.request.plan.codec.signature.max_batch_size
            if not member.future.done() and member.rows > room:
                break
            lane.waiting.popleft()
            if member.deadline - now < POOL_BUDGET_SECONDS_MIN:
                _expire(member)
            if not member.future.done():
                members.append(member)
                room -= member.rows
        return members

    async def _send(self, key: Any, lane: _Lane, members: list[_Member]) -> None:
        try:
            await self._send_together(members)
        except BaseException as error:
            for member in members:
                _fail(member, error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._leave(key, lane)

    async def _send_together(self, members: list[_Member]) -> None:
        if len(members) == 1:
            await self._send_alone(members[0])
            return
        self._counters.batches += 1
        first, deadline = members[0].request, max(member.deadline for member in members)
        call = first.plan.codec.join([member.request.call for member in members])
        joined = InferRequest(first.plan, call, first.request_id, first.lines, first.priority)
        try:
            outputs = await self._run(joined, deadline)
        except ModelInputError:
            await asyncio.gather(*(self._send_alone(member) for member in members))
            return
        for member, part in zip(members, split(outputs, [member.rows for member in members]), strict=True):
            if not member.future.done():
                member.future.set_result(part)

    async def _send_alone(self, member: _Member) -> None:
        try:
            outputs = await self._run(member.request, member.deadline)
        except ShoalError as error:
            _fail(member, error)
            return
        if not member.future.done():
            member.future.set_result(outputs)


def rows_of(call: Call, signature: Signature) -> int:
    """How many rows a call would take in a batch; 0 when it cannot travel with others.

    It can when the model batches, every tensor has the batch as its first dimension, and all inputs agree on it.
    """
    if signature.max_batch_size < 2 or not _batches(signature):
        return 0
    rows = {shape[0] for shape in call.shapes if shape is not None}
    if len(rows) != 1:
        return 0
    count = rows.pop()
    return count if count < signature.max_batch_size else 0


def split(outputs: Mapping[str, Tensor], rows: list[int]) -> Iterator[Outputs]:
    """Cut a batch's outputs into those of its calls, as views; PoolProtocolError when the rows do not add up."""
    total, start = sum(rows), 0
    for tensor in outputs.values():
        if not tensor.shape or tensor.shape[0] != total:
            raise PoolProtocolError(f"output {tensor.name!r} has the shape {list(tensor.shape)} for {total} rows")
    bounds = {name: _bounds(tensor, total) for name, tensor in outputs.items()}
    for count in rows:
        end = start + count
        yield {
            name: Tensor(
                name,
                tensor.datatype,
                (count, *tensor.shape[1:]),
                tensor.data[bounds[name](start) : bounds[name](end)],
            )
            for name, tensor in outputs.items()
        }
        start = end


def _bounds(tensor: Tensor, total: int) -> Callable[[int], int]:
    """Where a row of the tensor's bytes begins; BYTES elements differ in length and have to be counted."""
    if tensor.datatype != "BYTES":
        size = len(tensor.data) // total
        return lambda row: row * size
    each = math.prod(tensor.shape[1:])
    ends = [0]
    for element in split_elements(tensor.data):
        ends.append(ends[-1] + 4 + len(element))
    return lambda row: ends[row * each]


def _batches(signature: Signature) -> bool:
    specs = signature.inputs + signature.outputs
    return all(spec.shape[:1] == (-1,) for spec in specs) and not any(spec.optional for spec in signature.inputs)


def _lane_key(request: InferRequest) -> Any:
    call = request.call
    shapes = tuple(shape[1:] if shape else None for shape in call.shapes)
    return request.plan, shapes, call.outputs, request.priority


def _expire(member: _Member) -> None:
    text = f"the deadline passed while a call to model {member.request.model} waited for the one before it"
    _fail(member, ModelDeadlineError(text))


def _fail(member: _Member, error: BaseException) -> None:
    """Give a caller an error of its own: one exception must not be raised in several places."""
    if member.future.done():
        return
    if isinstance(error, asyncio.CancelledError):
        member.future.cancel()
    elif isinstance(error, ShoalError):
        copy = type(error)(error.message, hint=error.hint, retry_after_s=error.retry_after_s)
        member.future.set_exception(copy.with_traceback(None))
    else:
        member.future.set_exception(error)
