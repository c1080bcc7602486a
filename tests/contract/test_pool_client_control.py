"""Control of a real Triton: load, unload, index, metadata, and the class of each refusal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from helpers_triton import TritonAddress, write_model
from helpers_triton_http import refused_address
from shoal.core import errors
from shoal.triton.control import READY, Control, GrpcControl

pytestmark = pytest.mark.triton

PATIENCE_S = 60.0


@pytest.fixture
def control(triton_server: TritonAddress) -> Iterator[Control]:
    made = GrpcControl(triton_server.grpc)
    yield made
    made.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)


def test_a_model_is_loaded_used_and_unloaded(control: Control, triton_server: TritonAddress) -> None:
    write_model(triton_server.repository, "comes_and_goes", "identity", datatype="INT32")
    control.load("comes_and_goes")
    assert control.index()["comes_and_goes"] == (READY, "")
    signature = control.metadata("comes_and_goes")
    assert [str(spec) for spec in signature.inputs] == ["x: INT32[-1]"]
    control.unload("comes_and_goes")
    until(lambda: control.index()["comes_and_goes"][0] == "UNAVAILABLE")
    with pytest.raises(errors.ModelNotLoadedError):
        control.metadata("comes_and_goes")


def test_the_configuration_is_complete(control: Control) -> None:
    assert control.config("batching_identity")["max_batch_size"] == 64
    assert control.config("identity_fp32")["max_batch_size"] == 0
    assert control.metadata("batching_identity").max_batch_size == 64


def test_a_model_that_fails_to_load_says_why(control: Control, triton_server: TritonAddress) -> None:
    folder = write_model(triton_server.repository, "broken", "identity")
    (folder / "1" / "model.py").write_text("raise RuntimeError('this model is broken')\n")
    with pytest.raises(errors.ModelFaultError, match="this model is broken") as caught:
        control.load("broken")
    assert "\n" not in caught.value.message
    state, reason = control.index()["broken"]
    assert state == "UNAVAILABLE"
    assert "this model is broken" in reason
    control.unload("broken")


def test_a_model_that_is_not_in_the_repository(control: Control) -> None:
    with pytest.raises(errors.ModelFaultError, match="failed to poll from model repository"):
        control.load("no_such_model")
    for ask in (control.metadata, control.config):
        with pytest.raises(errors.ModelNotLoadedError, match="no_such_model"):
            ask("no_such_model")


def test_the_server_is_live_and_ready(control: Control) -> None:
    assert control.server_live()
    assert control.server_ready()


def test_nobody_answers() -> None:
    control: Control = GrpcControl(refused_address(), call_timeout_s=PATIENCE_S)
    try:
        assert not control.server_live()
        assert not control.server_ready()
        with pytest.raises(errors.PoolUnreachableError):
            control.index()
    finally:
        control.close()


def test_a_call_has_a_deadline(triton_server: TritonAddress) -> None:
    control = GrpcControl(triton_server.grpc, load_timeout_s=0.05)
    write_model(triton_server.repository, "loads_too_slowly", "identity")
    try:
        with pytest.raises(errors.ModelDeadlineError):
            control.load("loads_too_slowly")
        until(lambda: control.index()["loads_too_slowly"][0] == READY)  # a load goes on without its caller
    finally:
        control.close()
