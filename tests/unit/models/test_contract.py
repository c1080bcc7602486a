"""What a handler declares and calls is held to what the model has, and every difference is told."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.core.errors import ContractError, PoolProtocolError, UsageError
from shoal.models import contract
from shoal.triton.tensors import Signature, TensorSpec

MAGIKA = Signature(
    inputs=(TensorSpec("bytes", "INT32", (-1, 2048)),),
    outputs=(TensorSpec("target_label", "FP32", (-1, 214)),),
    max_batch_size=64,
)
TWO = Signature(
    inputs=(TensorSpec("image", "UINT8", (-1, -1, 3)), TensorSpec("mask", "BOOL", (-1,), optional=True)),
    outputs=(TensorSpec("boxes", "FP32", (-1, 4)),),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("INT32[-1,2048]", ("INT32", (-1, 2048))),
        ("FP32[]", ("FP32", ())),
        (" BYTES [ -1 , 1 ] ", ("BYTES", (-1, 1))),
    ],
)
def test_a_tensor_is_read(text: str, expected: tuple[str, tuple[int, ...]]) -> None:
    spec = contract.parse_tensor(text, "t")
    assert (spec.name, spec.datatype, spec.shape) == ("t", *expected)


@pytest.mark.parametrize("text", ["", "INT32", "INT32[", "INT31[1]", "FP32[-2]", "FP32[a]", "FP32[1,]", "FP32[1]x"])
def test_what_is_no_tensor_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(UsageError, match="DATATYPE"):
        contract.parse_tensor(text)


@pytest.mark.parametrize(
    "declared",
    [
        {},
        {"inputs": {"bytes": "INT32[-1,2048]"}, "outputs": {"target_label": "FP32[-1,214]"}},
        {"inputs": {"bytes": "INT32[1,-1]"}},
        {"called_inputs": ["bytes"], "used_outputs": ["target_label"]},
        {"outputs": {"target_label": "FP32[-1,214]"}},
    ],
)
def test_what_agrees_passes(declared: dict[str, Any]) -> None:
    contract.check("magika", MAGIKA, **declared)


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"inputs": {"byts": "INT32[-1,2048]"}}, "it has no input 'byts' (did you mean 'bytes'?)"),
        ({"inputs": {"bytes": "INT64[-1,2048]"}}, "input 'bytes' is INT32 in the model, INT64 in the handler"),
        (
            {"inputs": {"bytes": "INT32[2048]"}},
            "input 'bytes' has shape [-1,2048] in the model, [2048] in the handler",
        ),
        ({"inputs": {"bytes": "INT32[-1,512]"}}, "[-1,2048] in the model, [-1,512] in the handler"),
        ({"outputs": {"label": "FP32[-1,214]"}}, "it has no output 'label'"),
        ({"called_inputs": ["image"]}, "it has no input 'image' (it has bytes)"),
        ({"called_inputs": ["image"]}, "its input 'bytes' (bytes: INT32[-1,2048]) is not given"),
        ({"used_outputs": ["target_labels"]}, "did you mean 'target_label'?"),
    ],
)
def test_a_difference_names_model_tensor_and_both_sides(declared: dict[str, Any], told: str) -> None:
    with pytest.raises(ContractError) as caught:
        contract.check("magika", MAGIKA, **declared)
    assert "magika" in caught.value.message
    assert told in caught.value.message
    assert caught.value.hint == "the model has bytes: INT32[-1,2048] -> target_label: FP32[-1,214]"


def test_all_differences_are_told_at_once_each_once() -> None:
    with pytest.raises(ContractError) as caught:
        contract.check("m", TWO, inputs={"imag": "UINT8[1]"}, called_inputs=["imag"], used_outputs=["box"])
    message = caught.value.message
    assert message.count("no input 'imag'") == 1
    assert "no output 'box'" in message
    assert "input 'image'" in message


def test_an_optional_input_may_be_left_out() -> None:
    contract.check("m", TWO, called_inputs=["image"])


def test_metadata_becomes_a_signature() -> None:
    served = {
        "name": "m",
        "inputs": [{"name": "x", "datatype": "FP16", "shape": ["-1", 4]}],
        "outputs": [{"name": "y", "datatype": "BYTES", "shape": [1]}],
    }
    signature = contract.signature_of(served)
    assert contract.describe(signature) == "x: FP16[-1,4] -> y: BYTES[1]"


def test_metadata_that_is_none_is_a_protocol_error() -> None:
    with pytest.raises(PoolProtocolError):
        contract.signature_of({"name": "m", "inputs": "x"})


@pytest.mark.parametrize(
    ("served", "told"),
    [
        (Signature(MAGIKA.inputs, ()), "output 'target_label' is stated, not served"),
        (Signature((*MAGIKA.inputs, TensorSpec("more", "BOOL", (1,))), MAGIKA.outputs), "input 'more' is served"),
        (
            Signature((TensorSpec("bytes", "INT32", (-1, 1024)),), MAGIKA.outputs),
            "input bytes: INT32[-1,2048] is stated, bytes: INT32[-1,1024] is served",
        ),
    ],
)
def test_what_is_served_must_be_what_is_stated(served: Signature, told: str) -> None:
    with pytest.raises(ContractError) as caught:
        contract.check_served("magika", MAGIKA, served)
    assert told in caught.value.message


def test_the_same_signature_is_served_as_stated() -> None:
    contract.check_served("magika", MAGIKA, Signature(MAGIKA.inputs, MAGIKA.outputs))
