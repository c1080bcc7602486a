"""A real function process and a real Triton: readiness by its models, calls from async and sync code, errors."""

from __future__ import annotations

import json
import struct
import urllib.request
from pathlib import Path

import pytest

from helpers_process import FunctionProcess, served, spawned, until
from helpers_triton import TritonAddress, running, write_model

pytestmark = pytest.mark.triton

CODE = """
    import asyncio
    from shoal import Context, Model, http, start

    numbers = Model("numbers", inputs={"x": "FP32[-1]"}, outputs={"y": "FP32[-1]"})
    slow = Model("slow")
    warm = []

    @start
    async def warm_up():
        warm.append((await numbers(x=[1.0]))["y"].tolist())

    @http
    async def double(body: list) -> list:
        out = await numbers(x=body)
        return [2 * value for value in out["y"].tolist()]

    @http(path="/sync")
    def double_sync(body: list) -> list:
        return [2 * value for value in numbers.sync(x=body)["y"].tolist()]

    @http(path="/sync-on-loop")
    async def wrong():
        return numbers.sync(x=[1.0])["y"].tolist()

    @http(path="/slow")
    async def wait(body: list):
        return (await slow(x=body))["y"].tolist()

    @http(path="/wrong-tensor")
    async def wrong_tensor():
        await numbers(z=[1.0])

    @http(path="/warm")
    async def warmed():
        return warm
"""
JSON = {"content-type": "application/json"}


def settings(triton: TritonAddress) -> dict[str, str]:
    models = {"numbers": "identity_fp32", "slow": "slow"}
    return {"SHOAL_POOL": triton.http, "SHOAL_MODELS": json.dumps(models)}


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory, triton_server: TritonAddress) -> FunctionProcess:  # type: ignore[misc]
    with served(tmp_path_factory.mktemp("models"), CODE, **settings(triton_server)) as process:
        yield process


@pytest.mark.parametrize("path", ["/", "/sync"])
def test_a_model_answers_async_and_sync_handlers(function: FunctionProcess, path: str) -> None:
    answer = function.ask(path, b"[1.5, -2.0]", headers=JSON)
    assert (answer.status, answer.json()) == (200, [3.0, -4.0])
    assert answer.headers["shoal-models"] == "numbers=identity_fp32,slow=slow"


def test_a_start_hook_may_call_a_model(function: FunctionProcess) -> None:
    assert function.ask("/warm").json() == [[1.0]]


def test_sync_on_the_loop_is_the_handlers_mistake(function: FunctionProcess) -> None:
    answer = function.ask("/sync-on-loop", headers={"x-request-id": "on-loop"})
    assert (answer.status, answer.json()["component"]) == (500, "handler")
    assert "write: await numbers" in function.line(message="handler wrong failed")["traceback"]


def test_a_wrong_tensor_is_the_handlers_mistake(function: FunctionProcess) -> None:
    answer = function.ask("/wrong-tensor")
    document = answer.json()
    assert (answer.status, document["component"], document["code"]) == (500, "handler", "model-input")
    assert "'z'" in document["detail"]


def test_the_callers_deadline_bounds_the_model_call(function: FunctionProcess) -> None:
    seconds = json.dumps([[2.0]]).encode()
    answer = function.ask("/slow", seconds, headers={**JSON, "shoal-timeout-ms": "700"})
    assert answer.status == 504
    assert answer.json()["component"] in ("model", "handler")


def test_model_calls_are_counted_by_version_and_outcome(function: FunctionProcess) -> None:
    function.ask("/", b"[1.0]", headers=JSON)
    function.ask("/wrong-tensor")
    text = function.ask("/metrics").body.decode()
    calls = [line for line in text.splitlines() if line.startswith("shoal_model_calls_total")]
    assert any('model="identity_fp32"' in line and 'outcome="ok"' in line for line in calls)
    assert any('model="identity_fp32"' in line and 'outcome="model-input"' in line for line in calls)
    assert 'shoal_pool_retries_total{revision="echo-00001",service="echo"} 0.0' in text
    assert 'shoal_pool_calls_in_flight{revision="echo-00001",service="echo"} 0.0' in text


def test_a_contract_that_does_not_hold_keeps_the_function_from_being_ready(
    tmp_path: Path, triton_server: TritonAddress
) -> None:
    code = """
        from shoal import Model, http

        numbers = Model("numbers", inputs={"x": "INT32[-1,-1]"}, outputs={"z": "FP32[-1]"})

        @http
        async def hello():
            return {}
    """
    with spawned(tmp_path, code, **settings(triton_server)) as function:

        def told() -> str:
            detail: str = function.ask("/_shoal/ready").json()["detail"]
            return detail if "handler" in detail else ""

        detail = until(told, "the contract to be checked")
        assert "x: FP32[-1] on the pool and x: INT32[-1,-1] in the handler" in detail
        assert "it has no output 'z', it has y" in detail
        answer = function.ask()
        assert (answer.status, answer.json()["detail"]) == (503, detail)


def test_readiness_follows_the_model(tmp_path: Path, triton_environment: object) -> None:
    """Not ready without it, ready with it, not ready once it is gone; requests go on and tell the model's error."""
    from shoal.triton.control import GrpcControl

    code = """
        from shoal import Model, http

        numbers = Model("numbers")

        @http
        async def call(body: list):
            return (await numbers(x=body))["y"].tolist()
    """
    home = tmp_path / "triton"
    write_model(home / "models", "m--1", "identity")
    with running(home, []) as triton:
        models = {"SHOAL_POOL": triton.http, "SHOAL_MODELS": '{"numbers": "m--1"}'}
        with spawned(tmp_path, code, **models) as function:
            until(lambda: function.ask("/_shoal/live").status == 200, "the process to answer")
            answer = function.ask("/", b"[1.0]", headers=JSON)
            assert answer.status == 503
            assert "m--1" in answer.json()["detail"]
            control = GrpcControl(triton.grpc)
            control.load("m--1")
            until(function.ready, "the model to be noticed")
            assert function.ask("/", b"[1.0]", headers=JSON).json() == [1.0]
            control.unload("m--1")
            until(lambda: not function.ready(), "the model's loss to be noticed")
            answer = function.ask("/", b"[1.0]", headers=JSON)
            assert (answer.status, answer.json()["component"]) == (503, "model")
            control.close()


def test_the_raw_bytes_of_a_body_may_be_a_tensor(tmp_path: Path, triton_server: TritonAddress) -> None:
    code = """
        from shoal import Model, http

        numbers = Model("numbers")

        @http
        async def call(body: bytes) -> bytes:
            return bytes((await numbers(x=body))["y"].data)
    """
    with served(tmp_path, code, **settings(triton_server)) as function:
        packed = struct.pack("<3f", 1.0, 2.0, 3.0)
        assert function.ask("/", packed).body == packed


def test_calls_that_meet_travel_together_where_the_handler_asks_for_it(
    tmp_path: Path, triton_server: TritonAddress
) -> None:
    code = """
        import asyncio
        from shoal import Model, http
        rows = Model("rows", batching=True)

        @http
        async def many():
            calls = [rows(x=[[float(number)] * 256]) for number in range(64)]
            return [out["y"].values[0] for out in await asyncio.gather(*calls)]
    """
    environment = {"SHOAL_POOL": triton_server.http, "SHOAL_MODELS": '{"rows": "batching_identity"}'}
    with served(tmp_path, code, **environment) as function:
        assert function.ask().json() == [float(number) for number in range(64)]
        answered = _requests_answered(triton_server)
        assert function.ask().json() == [float(number) for number in range(64)]
        assert _requests_answered(triton_server) - answered < 64


def _requests_answered(triton: TritonAddress) -> int:
    """Count the inference requests that Triton has answered for the batching model."""
    with urllib.request.urlopen(f"{triton.url}/v2/models/batching_identity/stats", timeout=60) as answer:
        return int(json.load(answer)["model_stats"][0]["inference_stats"]["success"]["count"])
