"""Model: declaration, calls inside a request, calls from threads, and what it says when it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from shoal.core.errors import ContractError, ModelDeadlineError, ModelOverloadError, UsageError
from shoal.runtime import contract, current, handlers
from shoal.runtime.messages import Context, Request
from shoal.runtime.model import Bound, Model, declared
from shoal.triton.tensors import Signature, Tensor, TensorSpec

SERVED = Signature(
    inputs=(TensorSpec("bytes", "INT32", (-1, 2048)),), outputs=(TensorSpec("label", "FP32", (-1, 214)),)
)


@dataclass
class RecordingPool:
    """A pool in memory: it answers with what it was asked, or raises."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    error: BaseException | None = None

    async def signature(self, model: str) -> Signature:
        return SERVED

    async def ready(self, model: str) -> bool:
        return True

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
        asked = {"model": model, "inputs": dict(inputs), "timeout_s": timeout_s}
        self.asked.append({**asked, "request_id": request_id, "headers": headers})
        if self.error:
            raise self.error
        return {"label": Tensor("label", "UINT8", (2,), memoryview(b"ok"))}

    async def close(self) -> None:
        pass


@dataclass
class Bench:
    """A bound model, its pool and what was counted."""

    model: Model
    pool: RecordingPool
    bound: Bound
    counted: list[tuple[str, str]]


def make_bench(*, known: bool = True) -> Bench:
    """Bind a model in the running loop."""
    counted: list[tuple[str, str]] = []
    model, pool, loop = Model("magika"), RecordingPool(), asyncio.get_running_loop()
    bound = Bound(
        pool=pool,
        version="magika--1",
        loop=loop,
        timeout_s=60.0,
        count=lambda version, outcome, seconds: counted.append((version, outcome)),
        monotonic=loop.time,
        known=asyncio.Event(),
        signature=SERVED if known else None,
    )
    model.bind(bound)
    return Bench(model, pool, bound, counted)


def serve(left: float) -> None:
    """Be inside a request with ``left`` seconds."""
    deadline = asyncio.get_running_loop().time() + left
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    current.context.set(Context("r-1", trace, deadline, "f", "f-1", Request("POST", "/", b"", [], b"")))


def test_a_model_is_registered_by_its_construction() -> None:
    model = Model("magika")
    assert handlers.current().models[-1] is model


async def test_a_call_carries_the_requests_time_id_and_trace() -> None:
    bench = make_bench()
    serve(5.0)
    out = await bench.model(bytes=b"1234")
    assert out["label"].tolist() == list(b"ok")
    (asked,) = bench.pool.asked
    assert (asked["model"], asked["inputs"], asked["request_id"]) == ("magika--1", {"bytes": b"1234"}, "r-1")
    assert 0 < asked["timeout_s"] <= 5.0
    assert asked["headers"] == {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    assert bench.counted == [("magika--1", "ok")]


async def test_outside_a_request_a_call_has_the_functions_timeout() -> None:
    bench = make_bench()
    await bench.model(bytes=b"1234")
    assert bench.pool.asked[0]["timeout_s"] == 60.0
    assert bench.pool.asked[0]["headers"] is None


async def test_with_no_time_left_nothing_is_sent() -> None:
    bench = make_bench()
    serve(0.0)
    with pytest.raises(ModelDeadlineError, match="no time is left for model 'magika'"):
        await bench.model(bytes=b"1234")
    assert bench.pool.asked == []
    assert bench.counted == [("magika--1", "model-deadline")]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ModelOverloadError("full"), "model-overload"),
        (asyncio.CancelledError(), "cancelled"),
        (ValueError("a bug"), "fault"),
    ],
)
async def test_failures_pass_and_are_counted_by_their_code(error: BaseException, outcome: str) -> None:
    bench = make_bench()
    bench.pool.error = error
    with pytest.raises(type(error)):
        await bench.model(bytes=b"1234")
    assert bench.counted == [("magika--1", outcome)]


async def test_a_call_before_the_model_is_known_waits_for_it() -> None:
    bench = make_bench(known=False)
    call = asyncio.ensure_future(bench.model(bytes=b"1234"))
    await asyncio.sleep(0)
    assert bench.pool.asked == []
    bench.bound.signature = SERVED
    bench.bound.known.set()
    await asyncio.wait_for(call, 60)
    assert len(bench.pool.asked) == 1


async def test_it_waits_no_longer_than_the_request_has() -> None:
    bench = make_bench(known=False)
    serve(0.05)
    with pytest.raises(ModelDeadlineError):
        await bench.model(bytes=b"1234")


async def test_sync_runs_on_the_loop_with_the_calling_threads_request() -> None:
    bench = make_bench()
    serve(30.0)
    out = await asyncio.to_thread(bench.model.sync, bytes=b"1234")
    assert out["label"].shape == (2,)
    assert bench.pool.asked[0]["request_id"] == "r-1"
    assert bench.pool.asked[0]["timeout_s"] <= 30.0


async def test_sync_passes_errors_to_the_thread() -> None:
    bench = make_bench()
    bench.pool.error = ModelOverloadError("full")
    with pytest.raises(ModelOverloadError):
        await asyncio.to_thread(bench.model.sync, bytes=b"1234")


async def test_sync_on_the_loop_is_refused_with_the_right_words() -> None:
    bench = make_bench()
    with pytest.raises(UsageError, match="await magika"):
        bench.model.sync(bytes=b"1234")


async def test_an_unbound_model_says_where_it_works() -> None:
    with pytest.raises(UsageError, match="only inside a function process") as caught:
        await Model("magika")(bytes=b"1")
    assert "shoal up" in caught.value.hint


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_name_must_be_one(name: Any) -> None:
    with pytest.raises(UsageError, match="at least one character"):
        Model(name)


def test_declared_tensors_keep_their_form() -> None:
    model = Model("m", inputs={"a": " FP32 [ -1, 4 ] "}, outputs={"b": "BYTES[]"})
    assert declared(model.inputs) == {"a": "FP32[-1,4]"}
    assert declared(model.outputs) == {"b": "BYTES[]"}


@pytest.mark.parametrize("text", ["FP33[1]", "FP32", "FP32[-2]", "FP32[a]", "fp32[1]", "FP32[1", "", 5])
def test_a_declaration_without_form_is_refused(text: Any) -> None:
    with pytest.raises(UsageError, match=r"tensor 'x' is declared as .*DATATYPE\[d1,d2\]"):
        contract.parse("x", text)


def test_the_contract_is_names_datatypes_and_ranks() -> None:
    Model("m", inputs={"bytes": "INT32[-1,2048]"}, outputs={"label": "FP32[1,-1]"}).check(SERVED)
    wrong = Model("m", inputs={"bites": "INT32[-1,2048]", "bytes": "INT64[-1,2048]"}, outputs={"label": "FP32[-1]"})
    with pytest.raises(ContractError) as caught:
        wrong.check(SERVED)
    assert "it has no input 'bites', it has bytes" in caught.value.message
    assert "input is bytes: INT32[-1,2048] on the pool and bytes: INT64[-1,2048] in the handler" in str(
        caught.value
    )
    assert "output is label: FP32[-1,214] on the pool and label: FP32[-1] in the handler" in caught.value.message
