"""The pool client against a real Triton: all datatypes round, and each failure by its class."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from helpers_triton import IDENTITIES, SLOW_QUEUE_MAX, TritonAddress
from helpers_triton_http import oracle
from shoal.core import errors
from shoal.triton.client import PoolClient
from shoal.triton.tensors import DATATYPE_BYTES, Signature, TensorSpec

pytestmark = pytest.mark.triton

PATIENCE_S = 60.0
FP32 = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))


@pytest.fixture
async def client(triton_server: TritonAddress) -> AsyncIterator[PoolClient]:
    made = PoolClient([triton_server.http])
    yield made
    await made.close()


def values(datatype: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    if datatype == "BYTES":
        array = np.empty(count, dtype=object)
        array[:] = [rng.bytes(size % 5 * 40) for size in range(count)]
        return array
    if datatype == "BOOL":
        return rng.integers(0, 2, count).astype(bool)
    if datatype.startswith(("FP", "BF")):
        dtype = {"FP16": np.float16, "BF16": ml_dtypes.bfloat16, "FP32": np.float32, "FP64": np.float64}[datatype]
        return rng.standard_normal(count).astype(dtype)
    info = np.iinfo(datatype.lower())
    return rng.integers(info.min, info.max, count, dtype=datatype.lower(), endpoint=True)


@pytest.mark.parametrize("count", [0, 1, 7, 5000])
@pytest.mark.parametrize("datatype", DATATYPE_BYTES)
async def test_every_datatype_comes_back_as_it_went(client: PoolClient, datatype: str, count: int) -> None:
    model = f"identity_{datatype.lower()}"
    assert IDENTITIES[model] == datatype
    signature = await client.signature(model)
    assert [str(spec) for spec in signature.inputs + signature.outputs] == [
        f"x: {datatype}[-1]",
        f"y: {datatype}[-1]",
    ]
    sent = values(datatype, count)
    out = await client.infer(model, signature, {"x": sent}, timeout_s=PATIENCE_S, request_id=f"r-{count}")
    back = out["y"]
    assert (back.datatype, back.shape) == (datatype, (count,))
    assert np.asarray(back).tolist() == sent.astype(np.float32 if datatype == "BF16" else sent.dtype).tolist()


async def test_tritonclient_sees_the_same_answer(client: PoolClient, triton_server: TritonAddress) -> None:
    import tritonclient.grpc

    sent = values("FP32", 100)
    tensor = oracle("_infer_input").InferInput("x", [100], "FP32")
    tensor.set_data_from_numpy(sent)
    with tritonclient.grpc.InferenceServerClient(triton_server.grpc) as theirs:
        same = tritonclient.grpc.InferInput("x", [100], "FP32")
        same.set_data_from_numpy(sent)
        expected = theirs.infer("identity_fp32", [same], client_timeout=PATIENCE_S).as_numpy("y")
    ours = await client.infer("identity_fp32", FP32, {"x": sent}, timeout_s=PATIENCE_S)
    assert np.array_equal(ours["y"].numpy(), expected)


async def test_megabytes_pass_both_ways(client: PoolClient) -> None:
    sent = np.arange(4_000_000, dtype=np.float32)
    out = await client.infer("identity_fp32", FP32, {"x": sent}, timeout_s=PATIENCE_S)
    assert np.array_equal(out["y"].numpy(), sent)


async def test_many_calls_at_once_keep_their_answers_apart(client: PoolClient) -> None:
    async def one(number: int) -> list[float]:
        out = await client.infer(
            "identity_fp32",
            FP32,
            {"x": [float(number)] * (number % 7 + 1)},
            timeout_s=PATIENCE_S,
            request_id=f"r-{number}",
        )
        return list(out["y"].values)

    results = await asyncio.gather(*(one(number) for number in range(300)))
    assert results == [[float(number)] * (number % 7 + 1) for number in range(300)]
    assert client.counters.errors == {}


async def test_the_signature_tells_the_largest_batch(client: PoolClient) -> None:
    signature = await client.signature("batching_identity")
    assert signature.max_batch_size == 64
    assert str(signature.inputs[0]) == "x: FP32[-1,256]"


async def test_ready_is_per_model(client: PoolClient) -> None:
    assert await client.ready("identity_fp32")
    assert not await client.ready("no_such_model")


async def test_a_model_that_is_not_there(client: PoolClient) -> None:
    with pytest.raises(errors.ModelNotLoadedError, match="no_such_model"):
        await client.infer("no_such_model", FP32, {"x": [1.0]}, timeout_s=PATIENCE_S)
    with pytest.raises(errors.ModelNotLoadedError):
        await client.signature("no_such_model")


@pytest.mark.parametrize(
    ("claimed", "value"),
    [
        (TensorSpec("z", "FP32", (-1,)), [1.0]),
        (TensorSpec("x", "INT32", (-1,)), [1]),
        (TensorSpec("x", "FP32", (-1, -1)), [[1.0]]),
    ],
)
async def test_what_the_model_refuses_is_an_input_error(
    client: PoolClient, claimed: TensorSpec, value: Any
) -> None:
    """A signature that is out of date lets a wrong tensor through to Triton, which says no."""
    wrong = Signature((claimed,), FP32.outputs)
    with pytest.raises(errors.ModelInputError):
        await client.infer("identity_fp32", wrong, {claimed.name: value}, timeout_s=PATIENCE_S)


async def test_a_batch_past_the_largest_is_an_input_error(client: PoolClient) -> None:
    signature = await client.signature("batching_identity")
    with pytest.raises(errors.ModelInputError, match="batch-size must be <= 64"):
        await client.infer("batching_identity", signature, {"x": np.zeros((65, 256), "f4")}, timeout_s=PATIENCE_S)


@pytest.mark.parametrize(("value", "text"), [(0.0, "refused on purpose"), (1.0, "raised on purpose")])
async def test_a_model_that_fails_is_named_without_its_paths(client: PoolClient, value: float, text: str) -> None:
    with pytest.raises(errors.ModelFaultError, match=text) as caught:
        await client.infer("failing", FP32, {"x": [value]}, timeout_s=PATIENCE_S)
    assert "model.py" not in caught.value.message
    out = await client.infer("failing", FP32, {"x": [5.0]}, timeout_s=PATIENCE_S)
    assert out["y"].tolist() == [5.0]


async def test_a_full_queue_is_overload_and_nothing_else_is_lost(client: PoolClient) -> None:
    signature = await client.signature("slow")
    calls = [
        asyncio.create_task(client.infer("slow", signature, {"x": [[0.3]]}, timeout_s=PATIENCE_S))
        for _ in range(SLOW_QUEUE_MAX + 8)
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [one for one in results if isinstance(one, errors.ModelOverloadError)]
    answered = [one for one in results if isinstance(one, dict)]
    assert refused
    assert answered
    assert len(refused) + len(answered) == len(results)
    assert all(one.retry_after_s for one in refused)


async def test_the_deadline_reaches_the_queue(client: PoolClient, triton_server: TritonAddress) -> None:
    """An expired request is dropped by Triton itself: the model never counts it as run."""
    signature = await client.signature("slow")
    before = await executions(triton_server)
    busy = asyncio.create_task(client.infer("slow", signature, {"x": [[3.0]]}, timeout_s=PATIENCE_S))
    overtook = await expire_behind(busy, client, signature)
    await busy
    after = await client.infer("slow", signature, {"x": [[0.0]]}, timeout_s=PATIENCE_S)
    assert after["y"].tolist() == [[0.0]]
    assert await executions(triton_server) - before == 2 + overtook


async def expire_behind(busy: asyncio.Task[Any], client: PoolClient, signature: Signature) -> int:
    """Have one call expire in the queue; give how many reached the model before the long one did."""
    overtook = 0
    while not busy.done():
        try:
            await client.infer("slow", signature, {"x": [[0.0]]}, timeout_s=0.3)
            overtook += 1
        except errors.ModelDeadlineError:
            return overtook
    raise AssertionError("no call met the deadline in the queue")


async def executions(server: TritonAddress) -> int:
    def ask() -> int:
        import tritonclient.grpc

        with tritonclient.grpc.InferenceServerClient(server.grpc) as theirs:
            return int(theirs.get_inference_statistics("slow").model_stats[0].execution_count)

    return await asyncio.to_thread(ask)


async def test_the_caller_is_answered_at_its_deadline_while_the_model_runs_on(client: PoolClient) -> None:
    signature = await client.signature("slow")
    with pytest.raises(errors.ModelDeadlineError):
        await client.infer("slow", signature, {"x": [[1.0]]}, timeout_s=0.2)
    out = await client.infer("slow", signature, {"x": [[0.0]]}, timeout_s=PATIENCE_S)
    assert out["y"].tolist() == [[0.0]]
    assert client.counters.in_flight == 0


async def test_chosen_outputs_and_unknown_headers_are_taken(client: PoolClient) -> None:
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    out = await client.infer(
        "identity_fp32", FP32, {"x": [1.0]}, timeout_s=PATIENCE_S, outputs=["y"], headers=trace, request_id='a"ü\n'
    )
    assert out["y"].tolist() == [1.0]


async def test_calls_joined_on_the_wire_get_their_own_rows_back(triton_server: TritonAddress) -> None:
    client = PoolClient([triton_server.http])
    client.batch("batching_identity")
    signature = await client.signature("batching_identity")
    rows = [np.full((number % 5 + 1, 256), number, np.float32) for number in range(100)]

    async def one(sent: np.ndarray) -> bool:
        out = await client.infer("batching_identity", signature, {"x": sent}, timeout_s=PATIENCE_S)
        return np.array_equal(out["y"].numpy(), sent)

    assert all(await asyncio.gather(*map(one, rows)))
    assert client.counters.batches >= 1
    assert client.counters.errors == {}
    await client.close()
