"""Replicas that do anything, callers that leave at any time: each answer is the caller's own, nothing is leaked."""

from __future__ import annotations

import asyncio
import random

import pytest

from helpers_triton_http import (
    Exchange,
    close_after_request,
    hang,
    ok,
    ok_then_close,
    raw,
    reset_after_headers,
    reset_before_headers,
    scripted,
    status,
)
from shoal.core.errors import ShoalError
from shoal.triton.client import PoolClient
from shoal.triton.tensors import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),), max_batch_size=8)
BEHAVIOURS = [
    *[ok] * 6,
    ok_then_close,
    reset_before_headers,
    reset_after_headers,
    close_after_request,
    hang,
    status(503, "Exceeds maximum queue size"),
    status(404, "Request for unknown model: 'm' is not found"),
    status(400, "unexpected shape"),
    raw(b"garbage\r\n\r\n"),
]


async def one(client: PoolClient, number: int, rng: random.Random) -> bool:
    """Make a call that may be cancelled; whether it was answered, and then with its own values."""
    inputs = {"x": [[float(number)]] * rng.randrange(1, 4)}
    timeout_s = rng.choice([0.02, 0.05, 0.3])
    task = asyncio.create_task(client.infer("m", SIGNATURE, inputs, timeout_s=timeout_s, request_id=str(number)))
    if rng.random() < 0.2:
        asyncio.get_running_loop().call_later(rng.random() * 0.05, task.cancel)
    try:
        out = await task
    except (ShoalError, asyncio.CancelledError):
        return False
    assert out["y"].tolist() == inputs["x"]
    return True


@pytest.mark.parametrize("batching", [False, True])
async def test_nothing_is_mixed_up_and_nothing_is_leaked(batching: bool) -> None:
    rng = random.Random(5)

    async def anything(exchange: Exchange) -> None:
        await rng.choice(BEHAVIOURS)(exchange)

    async with scripted(otherwise=anything) as left, scripted(otherwise=anything) as right:
        client = PoolClient([left.address, right.address], connections_max=3, rng=rng)
        if batching:
            client.batch("m")
        answered = 0
        for _ in range(8):
            answered += sum(await asyncio.gather(*(one(client, number, rng) for number in range(40))))
        await client.close()
    counters = client.counters
    assert answered > 0
    assert counters.in_flight == 0
    assert answered + counters.cancelled + sum(counters.errors.values()) == counters.calls
    for replica in client._replicas:
        assert (replica.in_flight, replica._opening, len(replica._waiters), len(replica._idle)) == (0, 0, 0, 0)
    if client._batcher is not None:
        assert (client._batcher._lanes, client._batcher._tasks) == ({}, set())
