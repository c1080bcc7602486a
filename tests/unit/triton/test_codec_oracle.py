"""The codec against tritonclient's encoder and decoder: same messages, same arrays, all datatypes, both ways."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from helpers_triton_http import answer, oracle
from shoal.triton.codec import Codec
from shoal.triton.tensors import DATATYPE_BYTES, Signature, TensorSpec

DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
ELEMENTS = [b"", b"\x00", "grün".encode(), b"x" * 300, b"tail"]
FORMS = ("plain", "empty", "zero-dim", "strided", "transposed", "one")


def make(datatype: str, form: str) -> np.ndarray:
    """An array with every bit pattern class of its type, in a form that codecs get wrong."""
    shape = {"empty": (0, 3), "zero-dim": (), "one": (1,)}.get(form, (4, 6))
    count = int(np.prod(shape))
    rng = np.random.default_rng(7)
    if datatype == "BYTES":
        array = np.empty(count, dtype=object)
        array[:] = (ELEMENTS * count)[:count]
        array = array.reshape(shape)
    elif datatype == "BOOL":
        array = rng.integers(0, 2, shape).astype(bool)
    elif datatype.startswith(("FP", "BF")):
        array = np.asarray(rng.standard_normal(shape) * 100).astype(DTYPES[datatype])
    else:
        info = np.iinfo(DTYPES[datatype])
        array = rng.integers(info.min, info.max, shape, dtype=DTYPES[datatype], endpoint=True)
    array = np.asarray(array)
    if form == "strided":
        return array[::2, 1::2]
    return array.T if form == "transposed" else array


def codec_for(array: np.ndarray, datatype: str) -> Codec:
    shape = (-1,) * array.ndim
    return Codec("m", Signature((TensorSpec("x", datatype, shape),), (TensorSpec("y", datatype, shape),)))


def oracle_request(array: np.ndarray, datatype: str, **options: Any) -> tuple[dict[str, Any], bytes]:
    tensor = oracle("_infer_input").InferInput("x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    arguments = {"request_id": "", "outputs": None, "priority": 0, "timeout": None} | options
    body, length = oracle("_utils")._get_inference_request(
        inputs=[tensor],
        sequence_id=0,
        sequence_start=False,
        sequence_end=False,
        custom_parameters=None,
        **arguments,
    )
    return json.loads(body[:length]), body[length:]


def same(left: Any, right: Any) -> bool:
    left, right = np.asarray(left), np.asarray(right)
    return left.shape == right.shape and left.tolist() == right.tolist()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("datatype", DATATYPE_BYTES)
def test_a_request_is_the_message_tritonclient_writes(datatype: str, form: str) -> None:
    array = make(datatype, form)
    body, length = codec_for(array, datatype).encode({"x": array}).body()
    assert (json.loads(body[:length]), body[length:]) == oracle_request(array, datatype)


@pytest.mark.parametrize("datatype", DATATYPE_BYTES)
def test_the_raw_part_is_what_the_grpc_client_sends(datatype: str) -> None:
    from tritonclient.grpc import InferInput

    array = make(datatype, "strided")
    theirs = InferInput("x", list(array.shape), datatype)
    theirs.set_data_from_numpy(array)
    body, length = codec_for(array, datatype).encode({"x": array}).body()
    assert body[length:] == theirs._get_content()
    assert json.loads(body[:length])["inputs"][0]["shape"] == list(theirs._get_tensor().shape)


@pytest.mark.parametrize("form", ["plain", "empty", "zero-dim", "one"])
@pytest.mark.parametrize("datatype", DATATYPE_BYTES)
def test_an_answer_is_read_as_tritonclient_reads_it(datatype: str, form: str) -> None:
    array = make(datatype, form)
    _, raw = oracle_request(array, datatype)
    output = {
        "name": "y",
        "datatype": datatype,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": len(raw)},
    }
    body, length = answer([output], raw)
    theirs = oracle("_infer_result").InferResult.from_response_body(body, header_length=length).as_numpy("y")
    ours = codec_for(array, datatype).decode(body, length)["y"]
    assert ours.shape == array.shape
    assert same(ours.numpy(), theirs.astype(np.float32) if datatype == "BF16" else theirs)
    assert same(ours.numpy(), array.astype(np.float32) if datatype == "BF16" else array)
    assert ours.tolist() == ours.numpy().tolist()
    assert list(ours.values) == ours.numpy().ravel().tolist()


@pytest.mark.parametrize("datatype", sorted(set(DATATYPE_BYTES) - {"BF16"}))
def test_nested_lists_give_the_bytes_of_the_array(datatype: str) -> None:
    array = make(datatype, "plain")
    codec = codec_for(array, datatype)
    assert codec.encode({"x": array.tolist()}).body() == codec.encode({"x": array}).body()


def test_id_timeout_priority_and_outputs_are_where_tritonclient_puts_them() -> None:
    array = make("FP32", "plain")
    requested = oracle("_requested_output").InferRequestedOutput("y", binary_data=True)
    call = codec_for(array, "FP32").encode({"x": array}, ["y"])
    body, length = call.body('a"b\u00fc', timeout_us=250_000, priority=2)
    theirs, raw = oracle_request(array, "FP32", request_id='a"bü', outputs=[requested], timeout=250_000, priority=2)
    assert json.loads(body[:length]) == theirs
    assert body[length:] == raw


def test_several_inputs_travel_in_the_order_of_the_model() -> None:
    specs = (
        TensorSpec("a", "INT32", (-1,)),
        TensorSpec("b", "BYTES", (-1,)),
        TensorSpec("c", "BOOL", (2,), optional=True),
    )
    codec = Codec("m", Signature(specs, ()))
    body, length = codec.encode({"b": [b"zz"], "a": [1, 2]}).body()
    header = json.loads(body[:length])
    assert [one["name"] for one in header["inputs"]] == ["a", "b"]
    assert body[length:] == b"\1\0\0\0\2\0\0\0" + b"\2\0\0\0zz"
    assert len(codec.encode({"b": [b""], "a": [1], "c": [True, False]}).buffers) == 3
