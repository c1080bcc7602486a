"""The pool client against scripted replicas: what is retried, what is not, and what a caller is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from helpers_triton_http import (
    PATIENCE_S,
    Behaviour,
    Exchange,
    ScriptedServer,
    answer,
    close_after_headers,
    close_after_request,
    hang,
    http,
    ok,
    ok_then_close,
    raw,
    refused_address,
    reset_after_headers,
    reset_before_headers,
    scripted,
    status,
    until,
)
from shoal.core import errors
from shoal.core.errors import ShoalError
from shoal.triton.balance import RetryBudget
from shoal.triton.client import PoolClient
from shoal.triton.tensors import Signature, Tensor, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_LOADED = status(404, "Request for unknown model: 'm' is not found")


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted() as running:
        yield running


Connect = Callable[..., PoolClient]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    clients: list[PoolClient] = []

    def make(*replicas: ScriptedServer | str, **options: Any) -> PoolClient:
        addresses = [replica if isinstance(replica, str) else replica.address for replica in replicas]
        clients.append(PoolClient(addresses, rng=random.Random(3), **options))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


async def call(client: PoolClient, values: Any = (1.0, 2.0), **options: Any) -> dict[str, Tensor]:
    return await client.infer("m", SIGNATURE, {"x": list(values)}, **{"timeout_s": PATIENCE_S} | options)


async def test_a_call_carries_what_it_was_given(server: ScriptedServer, connect: Connect) -> None:
    client = connect(server)
    out = await call(client, request_id="r-1", headers={"traceparent": TRACEPARENT}, timeout_s=20, priority=2)
    assert out["y"].tolist() == [1.0, 2.0]
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/v2/models/m/infer")
    assert seen.headers["traceparent"] == TRACEPARENT
    assert seen.headers["host"] == server.address
    assert seen.header["id"] == "r-1"
    parameters = seen.header["parameters"]
    assert parameters.pop("timeout") in range(1, 20_000_000 - 5_000 + 1)
    assert parameters == {"binary_data_output": True, "priority": 2}


async def test_connections_are_reused_and_counted(server: ScriptedServer, connect: Connect) -> None:
    client = connect(server)
    for _ in range(5):
        await call(client)
    assert server.connections == 1
    assert (client.counters.calls, client.counters.in_flight, client.counters.errors) == (5, 0, {})


async def test_a_model_name_cannot_leave_its_place_in_the_path(server: ScriptedServer, connect: Connect) -> None:
    await connect(server).infer("a/b c\r\nX: y", SIGNATURE, {"x": [1.0]}, timeout_s=PATIENCE_S)
    assert server.seen[0].path == "/v2/models/a%2Fb%20c%0D%0AX%3A%20y/infer"


@pytest.mark.parametrize("headers", [{"a": "b\r\nc: d"}, {"a\r\nb": "c"}, {"a": "ü"}])
async def test_a_header_cannot_end_its_line(
    server: ScriptedServer, connect: Connect, headers: dict[str, str]
) -> None:
    with pytest.raises(errors.ModelInputError, match="printable ASCII"):
        await call(connect(server), headers=headers)
    assert server.seen == []


async def test_a_wrong_input_is_not_sent(server: ScriptedServer, connect: Connect) -> None:
    client = connect(server)
    with pytest.raises(errors.ModelInputError):
        await client.infer("m", SIGNATURE, {"z": [1.0]}, timeout_s=PATIENCE_S)
    assert server.seen == []
    assert client.counters.errors == {"model-input": 1}


async def test_a_budget_too_small_is_refused_here(server: ScriptedServer, connect: Connect) -> None:
    with pytest.raises(errors.ModelDeadlineError, match="a call needs 10 ms or more"):
        await call(connect(server), timeout_s=0.009)
    assert server.infers == 0


ALONE: list[tuple[Behaviour, type[ShoalError]]] = [
    (status(503, "Exceeds maximum queue size"), errors.ModelOverloadError),
    (status(503, "Request timeout expired"), errors.ModelDeadlineError),
    (status(500, "Failed to process the request(s)"), errors.ModelFaultError),
    (status(400, "unexpected shape"), errors.ModelInputError),
    (status(403, "restricted"), errors.PoolForbiddenError),
    (NOT_LOADED, errors.ModelNotLoadedError),
    (reset_before_headers, errors.PoolUnreachableError),
    (reset_after_headers, errors.PoolUnreachableError),
    (close_after_headers, errors.PoolUnreachableError),
    (close_after_request, errors.PoolUnreachableError),
    (raw(b"garbage\r\n\r\n"), errors.PoolProtocolError),
    (raw(http(200, b"not json")), errors.PoolProtocolError),
    (raw(http(200, b"{}", "Inference-Header-Content-Length: 900000")), errors.PoolProtocolError),
]


@pytest.mark.parametrize(("behaviour", "error"), ALONE, ids=range(len(ALONE)))
async def test_every_failure_is_its_class_once_and_the_next_call_works(
    server: ScriptedServer, connect: Connect, behaviour: Behaviour, error: type[ShoalError]
) -> None:
    client = connect(server)
    await call(client)
    server.script = [behaviour]
    with pytest.raises(error) as caught:
        await call(client)
    assert type(caught.value) is error
    assert server.infers == 2
    assert (await call(client))["y"].tolist() == [1.0, 2.0]
    assert client.counters.errors == {caught.value.code: 1}
    assert (client.counters.retries, client.counters.in_flight) == (0, 0)


async def test_a_replica_that_hangs_costs_no_more_than_the_deadline(
    server: ScriptedServer, connect: Connect
) -> None:
    server.script = [hang]
    client = connect(server)
    with pytest.raises(errors.ModelDeadlineError):
        await call(client, timeout_s=0.2)
    await until(lambda: server.ended == 1)
    assert (await call(client))["y"].shape == (2,)


async def test_a_cancelled_call_closes_its_connection_and_gives_its_place_back(
    server: ScriptedServer, connect: Connect
) -> None:
    server.script = [hang]
    client = connect(server, connections_max=1)
    task = asyncio.create_task(call(client))
    await until(lambda: server.infers == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await call(client))["y"].shape == (2,)
    assert (client.counters.cancelled, client.counters.in_flight) == (1, 0)


async def test_a_connection_closed_while_idle_costs_the_caller_nothing(
    server: ScriptedServer, connect: Connect
) -> None:
    server.script = [ok_then_close, ok_then_close]
    client = connect(server)
    for ended in (1, 2, 2):
        await call(client)
        await until(lambda least=ended: server.ended >= least)  # type: ignore[misc]
    assert client.counters.errors == {}
    assert (server.infers, server.connections) == (3, 3)


class Gate:
    """A behaviour that answers when told to."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.now = 0
        self.most = 0

    async def __call__(self, exchange: Exchange) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.open.wait()
        self.now -= 1
        await ok(exchange)


async def test_connections_are_limited_and_waiters_are_served_in_order(
    server: ScriptedServer, connect: Connect
) -> None:
    gate = server.otherwise = Gate()
    client = connect(server, connections_max=2)
    order: list[int] = []

    async def one(number: int) -> None:
        await call(client, [number])
        order.append(number)

    tasks = []
    for number in range(6):
        tasks.append(asyncio.create_task(one(number)))
        await asyncio.sleep(0)
    await until(lambda: gate.now == 2)
    gate.open.set()
    await asyncio.gather(*tasks)
    assert (gate.most, server.connections) == (2, 2)
    assert sorted(order) == list(range(6))
    assert [seen.raw for seen in server.seen[2:]] == [seen.raw for seen in sorted(server.seen[2:], key=_number)]


def _number(seen: Any) -> float:
    value: float = memoryview(seen.raw).cast("f")[0]
    return value


async def test_a_waiter_whose_deadline_passes_was_never_sent(server: ScriptedServer, connect: Connect) -> None:
    gate = server.otherwise = Gate()
    client = connect(server, connections_max=1)
    first = asyncio.create_task(call(client))
    await until(lambda: gate.now == 1)
    with pytest.raises(errors.ModelDeadlineError, match="in the line for a connection"):
        await call(client, timeout_s=0.05)
    gate.open.set()
    await first
    assert server.infers == 1
    assert (await call(client))["y"].shape == (2,)


async def test_a_cancelled_waiter_leaves_the_line(server: ScriptedServer, connect: Connect) -> None:
    gate = server.otherwise = Gate()
    client = connect(server, connections_max=1)
    first = asyncio.create_task(call(client))
    await until(lambda: gate.now == 1)
    waiting = [asyncio.create_task(call(client, [number])) for number in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    gate.open.set()
    waiting_done = await asyncio.gather(*waiting, return_exceptions=True)
    await first
    assert isinstance(waiting_done[0], asyncio.CancelledError)
    assert [one["y"].tolist() for one in waiting_done[1:] if isinstance(one, dict)] == [[1.0], [2.0]]
    assert server.infers == 3


async def test_a_connection_given_to_a_waiter_that_is_cancelled_at_once_is_passed_on(
    server: ScriptedServer, connect: Connect
) -> None:
    gate = server.otherwise = Gate()
    client = connect(server, connections_max=1)
    first = asyncio.create_task(call(client))
    await until(lambda: gate.now == 1)
    second, third = (asyncio.create_task(call(client, [number])) for number in (2, 3))
    await asyncio.sleep(0)
    first.add_done_callback(lambda _: second.cancel())  # the connection is the second's by now
    gate.open.set()
    assert (await third)["y"].tolist() == [3.0]
    await asyncio.gather(first, second, return_exceptions=True)
    assert (await call(client))["y"].shape == (2,)


async def test_too_many_waiters_are_turned_away(
    server: ScriptedServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.triton.replica.POOL_WAITERS_MAX", 1)
    gate = server.otherwise = Gate()
    client = connect(server, connections_max=1)
    tasks = [asyncio.create_task(call(client)) for _ in range(2)]
    await until(lambda: gate.now == 1)
    with pytest.raises(errors.ModelOverloadError, match="already wait"):
        await call(client)
    gate.open.set()
    await asyncio.gather(*tasks)


async def test_a_refused_connection_frees_the_place_of_who_waits(connect: Connect) -> None:
    client = connect(refused_address(), connections_max=1)
    results = await asyncio.gather(*(call(client) for _ in range(4)), return_exceptions=True)
    assert {type(one) for one in results} == {errors.PoolUnreachableError}
    assert client.counters.errors == {"pool-unreachable": 4}


@pytest.mark.parametrize(
    ("behaviour", "answers"),
    [
        (NOT_LOADED, True),
        (status(503, "Exceeds maximum queue size"), True),
        (status(503, "Server is stopping"), True),
        (status(500, "Failed to process"), False),
        (status(503, "Request timeout expired"), False),
        (reset_before_headers, False),
        (reset_after_headers, False),
        (close_after_request, False),
        (raw(b"garbage\r\n\r\n"), False),
    ],
)
async def test_only_what_surely_did_not_run_is_tried_elsewhere(
    connect: Connect, behaviour: Behaviour, answers: bool
) -> None:
    async with scripted(otherwise=behaviour) as one, scripted(otherwise=behaviour) as two:
        client = connect(one, two)
        with pytest.raises(ShoalError):
            await call(client)
        assert one.infers + two.infers == (2 if answers else 1)
        assert client.counters.retries == int(answers)


async def test_a_replica_without_the_model_is_passed_over(connect: Connect) -> None:
    async with scripted(otherwise=NOT_LOADED) as without, scripted() as holding:
        client = connect(without, holding)
        for _ in range(30):
            await call(client)
        assert holding.infers == 30
        assert without.infers <= 5
        assert client.counters.errors == {}


async def test_a_replica_that_refuses_connections_is_passed_over(server: ScriptedServer, connect: Connect) -> None:
    client = connect(refused_address(), server)
    for _ in range(30):
        await call(client)
    assert server.infers == 30
    assert client.counters.retries <= 5


async def test_calls_go_to_the_replica_with_fewer_in_flight(connect: Connect) -> None:
    gate = Gate()
    async with scripted(otherwise=gate) as busy, scripted() as free:
        client = connect(busy, free)
        held: list[asyncio.Task[Any]] = []
        while not busy.infers:
            held.append(asyncio.create_task(call(client)))
            await asyncio.sleep(0.001)
        before = busy.infers
        for _ in range(20):
            await call(client)
        assert busy.infers == before
        gate.open.set()
        await asyncio.gather(*held)


async def test_retries_do_not_multiply_an_outage(connect: Connect) -> None:
    async with scripted(otherwise=NOT_LOADED) as one, scripted(otherwise=NOT_LOADED) as two:
        client = connect(one, two, budget=RetryBudget())
        calls = 500
        for _ in range(calls):
            with pytest.raises(errors.ModelNotLoadedError):
                await call(client)
        assert one.infers + two.infers <= calls * 1.1 + 10
        assert client.counters.retries > 10


async def test_the_answer_to_another_request_is_refused(server: ScriptedServer, connect: Connect) -> None:
    output = {"name": "y", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
    body, length = answer([output], bytes(4), id="somebody else's")
    server.script = [raw(http(200, body, f"Inference-Header-Content-Length: {length}"))]
    with pytest.raises(errors.PoolProtocolError, match="the id"):
        await call(connect(server), request_id="mine")


async def test_a_model_whose_signature_changed_is_encoded_anew(server: ScriptedServer, connect: Connect) -> None:
    client = connect(server)
    await call(client)
    same = Signature(SIGNATURE.inputs, SIGNATURE.outputs)
    other = Signature((TensorSpec("x", "INT32", (-1,)),), (TensorSpec("y", "INT32", (-1,)),))
    for signature in (same, other, SIGNATURE):
        await client.infer("m", signature, {"x": [1]}, timeout_s=PATIENCE_S)
    datatypes = [seen.header["inputs"][0]["datatype"] for seen in server.seen]
    assert datatypes == ["FP32", "FP32", "INT32", "FP32"]


async def test_outputs_can_be_chosen(server: ScriptedServer, connect: Connect) -> None:
    await call(connect(server), outputs=["y"])
    header = server.seen[0].header
    assert header["outputs"] == [{"name": "y", "parameters": {"binary_data": True}}]
    assert "binary_data_output" not in header["parameters"]


METADATA = (
    b'{"name":"m","inputs":[{"name":"x","datatype":"FP32","shape":[-1,4]},{"name":"o","datatype":"BOOL","shape":[-1]}],'
    b'"outputs":[{"name":"y","datatype":"BYTES","shape":[-1]}]}'
)
CONFIG = b'{"max_batch_size":8,"input":[{"name":"x","optional":false},{"name":"o","optional":true}]}'
X, OPTION, Y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("o", "BOOL", (-1,)), TensorSpec("y", "BYTES", (-1,))


async def test_a_signature_joins_metadata_and_configuration(server: ScriptedServer, connect: Connect) -> None:
    server.script = [raw(http(200, METADATA)), raw(http(200, CONFIG))]
    optional = TensorSpec("o", "BOOL", (-1,), optional=True)
    assert await connect(server).signature("m") == Signature((X, optional), (Y,), 8)
    assert [seen.path for seen in server.seen] == ["/v2/models/m", "/v2/models/m/config"]


async def test_a_pool_that_keeps_its_configurations_gives_a_signature_all_the_same(
    server: ScriptedServer, connect: Connect
) -> None:
    server.script = [raw(http(200, METADATA)), status(403, "restricted")]
    assert await connect(server).signature("m") == Signature((X, OPTION), (Y,), 0)


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"[]",
        b"{}",
        b'{"inputs":[],"outputs":5}',
        b'{"inputs":[5],"outputs":[]}',
        b'{"inputs":[{"name":"x","datatype":"FP99","shape":[1]}],"outputs":[]}',
        b'{"inputs":[{"name":"x","datatype":["FP32"],"shape":[1]}],"outputs":[]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[-2]}],"outputs":[]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1e999]}],"outputs":[]}',
    ],
)
async def test_nonsense_for_a_signature_is_one_error(
    server: ScriptedServer, connect: Connect, metadata: bytes
) -> None:
    server.script = [raw(http(200, metadata)), raw(http(200, b"{}"))]
    with pytest.raises(errors.PoolProtocolError):
        await connect(server).signature("m")


@pytest.mark.parametrize("config", [b'{"input":5}', b'{"input":[5]}', b'{"max_batch_size":"many"}'])
async def test_nonsense_for_a_configuration_is_one_error(
    server: ScriptedServer, connect: Connect, config: bytes
) -> None:
    server.script = [raw(http(200, METADATA)), raw(http(200, config))]
    with pytest.raises(errors.PoolProtocolError):
        await connect(server).signature("m")


async def test_ready_asks_every_replica(connect: Connect) -> None:
    not_ready = status(400, "Model version not ready")
    async with scripted(otherwise=not_ready) as without, scripted() as holding:
        assert await connect(without, holding).ready("m")
        assert await connect(refused_address(), holding).ready("m")
        assert not await connect(without).ready("m")
        assert not await connect(refused_address(), without).ready("m")
        with pytest.raises(errors.PoolUnreachableError):
            await connect(refused_address()).ready("m")


async def test_a_closed_client_says_so_and_ends_what_is_in_flight(server: ScriptedServer, connect: Connect) -> None:
    server.otherwise = hang
    client = connect(server, connections_max=1)
    tasks = [asyncio.create_task(call(client)) for _ in range(2)]
    await until(lambda: server.infers == 1)
    await client.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(one) for one in results} == {errors.PoolUnreachableError}
    with pytest.raises(errors.PoolUnreachableError, match="closed"):
        await call(client)


@pytest.mark.parametrize("address", ["localhost", ":80", "host:", "host:0", "host:x", "host:70000"])
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(errors.UsageError, match="host:port"):
        PoolClient([address])


def test_a_pool_without_addresses_is_refused() -> None:
    with pytest.raises(errors.PoolUnreachableError, match="no address"):
        PoolClient([])
