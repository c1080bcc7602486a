"""Natural batching: who travels together, and that each caller gets its own rows, error and deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_triton_http import (
    PATIENCE_S,
    Exchange,
    ScriptedServer,
    answer,
    http,
    ok,
    raw,
    scripted,
    status,
    until,
)
from shoal.core import errors
from shoal.triton.batching import rows_of, split
from shoal.triton.client import PoolClient
from shoal.triton.codec import Codec
from shoal.triton.tensors import Signature, Tensor, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, -1)),), (TensorSpec("y", "FP32", (-1, -1)),), max_batch_size=8)
STRINGS = Signature((TensorSpec("x", "BYTES", (-1, -1)),), (TensorSpec("y", "BYTES", (-1, -1)),), max_batch_size=8)


class Held:
    """Holds the first request until told; the rest are echoed at once."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await self.open.wait()
        await ok(exchange)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted() as running:
        yield running


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[PoolClient]:
    made = PoolClient([server.address])
    made.batch("m")
    yield made
    await made.close()


def start(client: PoolClient, values: Any, signature: Signature = SIGNATURE, **options: Any) -> asyncio.Task[Any]:
    options = {"timeout_s": PATIENCE_S} | options
    return asyncio.create_task(client.infer("m", signature, {"x": values}, **options))


async def hold(server: ScriptedServer, client: PoolClient) -> tuple[Held, asyncio.Task[Any]]:
    """Put one call on the wire and keep it there."""
    held = Held()
    server.script.insert(0, held)
    task = start(client, [[0.0]])
    await until(lambda: server.infers == 1)
    return held, task


def shapes(server: ScriptedServer) -> list[list[int]]:
    return [seen.header["inputs"][0]["shape"] for seen in server.seen]


async def test_a_lone_call_leaves_at_once_and_alone(server: ScriptedServer, client: PoolClient) -> None:
    for _ in range(3):
        await start(client, [[1.0]])
    assert shapes(server) == [[1, 1]] * 3
    assert client.counters.batches == 0


async def test_calls_behind_one_on_the_wire_leave_together(server: ScriptedServer, client: PoolClient) -> None:
    held, first = await hold(server, client)
    rest = [start(client, [[float(number)], [number + 0.5]]) for number in range(3)]
    await asyncio.sleep(0)
    held.open.set()
    assert (await first)["y"].tolist() == [[0.0]]
    assert [(await task)["y"].tolist() for task in rest] == [[[n], [n + 0.5]] for n in (0.0, 1.0, 2.0)]
    assert shapes(server) == [[1, 1], [6, 1]]
    assert client.counters.batches == 1


async def test_a_batch_is_never_larger_than_the_model_takes(server: ScriptedServer, client: PoolClient) -> None:
    held, first = await hold(server, client)
    rest = [start(client, [[float(number)]] * 3) for number in range(7)]
    await asyncio.sleep(0)
    held.open.set()
    await asyncio.gather(first, *rest)
    assert shapes(server) == [[1, 1], [6, 1], [6, 1], [6, 1], [3, 1]]
    assert [task.result()["y"].tolist() for task in rest] == [[[float(n)]] * 3 for n in range(7)]


async def test_other_shapes_outputs_and_priorities_do_not_travel_along(
    server: ScriptedServer, client: PoolClient
) -> None:
    held, first = await hold(server, client)
    others = [
        start(client, [[1.0, 2.0]]),
        start(client, [[1.0]], outputs=["y"]),
        start(client, [[1.0]], priority=1),
    ]
    await asyncio.gather(*others)  # they did not wait for the one that is held
    held.open.set()
    await first
    assert client.counters.batches == 0


async def test_elements_of_different_length_find_their_callers(server: ScriptedServer, client: PoolClient) -> None:
    held = Held()
    server.script = [held]
    first = start(client, [[b"first"]], STRINGS)
    await until(lambda: server.infers == 1)
    rest = [start(client, [[b"a" * number, b"" if number % 2 else b"zz"]], STRINGS) for number in range(4)]
    # One element a row and two a row do not go together: of the calls with two, the first leaves at once.
    held.open.set()
    assert (await first)["y"].tolist() == [[b"first"]]
    answers = [(await task)["y"].tolist() for task in rest]
    assert answers == [[[b"a" * number, b"" if number % 2 else b"zz"]] for number in range(4)]
    assert shapes(server) == [[1, 1], [1, 2], [3, 2]]


async def test_one_who_leaves_takes_nobody_along(server: ScriptedServer, client: PoolClient) -> None:
    held, first = await hold(server, client)
    rest = [start(client, [[float(number)]]) for number in range(3)]
    await asyncio.sleep(0)
    rest[1].cancel()
    first.cancel()
    done = await asyncio.gather(first, *rest, return_exceptions=True)
    held.open.set()
    assert isinstance(done[0], asyncio.CancelledError)
    assert isinstance(done[2], asyncio.CancelledError)
    assert [one["y"].tolist() for one in (done[1], done[3]) if isinstance(one, dict)] == [[[0.0]], [[2.0]]]
    assert shapes(server)[1] == [2, 1]


async def test_each_caller_keeps_its_own_deadline(server: ScriptedServer, client: PoolClient) -> None:
    held, first = await hold(server, client)
    short, long = start(client, [[1.0]], timeout_s=0.1), start(client, [[2.0]])
    with pytest.raises(errors.ModelDeadlineError, match="waited for the one before it"):
        await short
    held.open.set()
    await first
    assert (await long)["y"].tolist() == [[2.0]]
    assert shapes(server) == [[1, 1], [1, 1]]


async def test_a_batch_refused_before_it_ran_is_taken_apart(server: ScriptedServer, client: PoolClient) -> None:
    held, first = await hold(server, client)
    server.script.append(status(400, "one of these is wrong"))
    rest = [start(client, [[float(number)]]) for number in range(3)]
    await asyncio.sleep(0)
    held.open.set()
    await first
    assert [(await task)["y"].tolist() for task in rest] == [[[0.0]], [[1.0]], [[2.0]]]
    assert sorted(shapes(server)) == [[1, 1]] * 4 + [[3, 1]]


async def test_a_batch_that_fails_fails_each_with_an_error_of_its_own(
    server: ScriptedServer, client: PoolClient
) -> None:
    held, first = await hold(server, client)
    server.script.append(status(503, "Exceeds maximum queue size"))
    rest = [start(client, [[float(number)]]) for number in range(3)]
    await asyncio.sleep(0)
    held.open.set()
    await first
    done = await asyncio.gather(*rest, return_exceptions=True)
    assert {type(one) for one in done} == {errors.ModelOverloadError}
    assert len(set(map(id, done))) == 3
    assert server.infers == 2
    assert (await start(client, [[9.0]]))["y"].tolist() == [[9.0]]


async def test_an_answer_with_the_wrong_rows_is_refused(server: ScriptedServer, client: PoolClient) -> None:
    held, first = await hold(server, client)
    output = {"name": "y", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}
    body, length = answer([output], bytes(4))
    server.script.append(raw(http(200, body, f"Inference-Header-Content-Length: {length}")))
    rest = [start(client, [[float(number)]]) for number in range(2)]
    await asyncio.sleep(0)
    held.open.set()
    await first
    done = await asyncio.gather(*rest, return_exceptions=True)
    assert {type(one) for one in done} == {errors.PoolProtocolError}


async def test_closing_turns_away_who_waits(server: ScriptedServer, client: PoolClient) -> None:
    _, first = await hold(server, client)
    rest = [start(client, [[float(number)]]) for number in range(2)]
    await asyncio.sleep(0)
    await client.close()
    done = await asyncio.gather(first, *rest, return_exceptions=True)
    assert {type(one) for one in done} == {errors.PoolUnreachableError}


async def test_switched_off_every_call_travels_alone(server: ScriptedServer) -> None:
    client = PoolClient([server.address])
    held = Held()
    server.otherwise = held
    tasks = [start(client, [[float(number)]]) for number in range(4)]
    await until(lambda: server.infers == 4)
    held.open.set()
    await asyncio.gather(*tasks)
    assert shapes(server) == [[1, 1]] * 4
    await client.close()


@pytest.mark.parametrize(
    ("signature", "values", "rows"),
    [
        (SIGNATURE, [[1.0]] * 7, 7),
        (SIGNATURE, [[1.0]] * 8, 0),  # full already
        (Signature(SIGNATURE.inputs, SIGNATURE.outputs, 1), [[1.0]], 0),
        (Signature(SIGNATURE.inputs, SIGNATURE.outputs), [[1.0]], 0),
        (Signature(SIGNATURE.inputs, (TensorSpec("y", "FP32", (4,)),), 8), [[1.0]], 0),
        (Signature((TensorSpec("x", "FP32", (-1, -1), optional=True),), SIGNATURE.outputs, 8), [[1.0]], 0),
    ],
)
def test_only_models_that_batch_are_batched(signature: Signature, values: Any, rows: int) -> None:
    assert rows_of(Codec("m", signature).encode({"x": values}), signature) == rows


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 3), st.booleans())
def test_what_is_cut_is_what_was_joined(rows: list[int], width: int, strings: bool) -> None:
    total = sum(rows)
    datatype = "BYTES" if strings else "INT32"
    array = np.arange(total * width, dtype=np.int32).reshape(total, width)
    values = [[str(value).encode() for value in row] for row in array.tolist()] if strings else array.tolist()
    signature = Signature((TensorSpec("x", datatype, (-1, width)),), ())
    call = Codec("m", signature).encode({"x": values})
    data = memoryview(b"".join(call.buffers))
    parts = [part["y"] for part in split({"y": Tensor("y", datatype, (total, width), data)}, rows)]
    assert [len(part) for part in parts] == rows
    assert [row for part in parts for row in part.tolist()] == values
