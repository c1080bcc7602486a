"""A replica that answers nonsense: one class of error, bounded memory, never a crash or a wrong tensor."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helpers_triton_http import answer
from shoal.core.errors import PoolProtocolError
from shoal.core.limits import POOL_JSON_BYTES_MAX
from shoal.triton.codec import Codec
from shoal.triton.tensors import DATATYPE_BYTES, Signature, Tensor, TensorSpec

FP32 = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
BYTES = Signature((TensorSpec("x", "BYTES", (-1,)),), (TensorSpec("y", "BYTES", (-1,)),))


def output(**changes: Any) -> dict[str, Any]:
    return {"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}} | changes


def sized(size: Any) -> dict[str, Any]:
    return {"parameters": {"binary_data_size": size}}


@pytest.mark.parametrize(
    ("changes", "raw", "message"),
    [
        ({"name": "z"}, 8, "output 'y' is missing; it has z"),
        ({"name": 5}, 8, "has the name 5"),
        ({"datatype": "INT32"}, 8, "is INT32, announced as FP32"),
        ({"datatype": "FP33"}, 8, "datatype 'FP33'"),
        ({"datatype": ["FP32"]}, 8, "datatype"),
        ({"shape": [3]}, 8, r"is FP32\[3\] in 8 bytes"),
        ({"shape": [-2]}, 8, "has the shape"),
        ({"shape": [True, 2]}, 8, "has the shape"),
        ({"shape": [2.0]}, 8, "has the shape"),
        ({"shape": "2"}, 8, "has the shape"),
        ({"shape": [1] * 33}, 8, "has the shape"),
        ({"shape": [2**62, 2**62, 0], **sized(0)}, 0, "in 0 bytes"),
        ({"shape": [2**24, 0], **sized(0)}, 0, "in 0 bytes"),
        (sized(4), 8, "in 4 bytes"),
        (sized(-8), 8, "no binary_data_size"),
        (sized("8"), 8, "no binary_data_size"),
        ({"parameters": None, "data": [1.0, 2.0]}, 0, "no binary_data_size"),
        ({}, 7, "8 bytes long, 7 came"),
        ({}, 9, "8 bytes long, 9 came"),
    ],
)
def test_a_wrong_output_is_refused(changes: dict[str, Any], raw: int, message: str) -> None:
    body, length = answer([output(**changes)], bytes(raw))
    with pytest.raises(PoolProtocolError, match=message):
        Codec("m", FP32).decode(body, length)


@pytest.mark.parametrize(
    "header",
    [b"", b"{", b"[]", b"null", b'{"outputs":{}}', b'{"outputs":[5]}', b"\xff\xfe", b"[" * 100_000, b"1" * 10_000],
    ids=range(9),
)
def test_a_wrong_header_is_refused(header: bytes) -> None:
    with pytest.raises(PoolProtocolError):
        Codec("m", FP32).decode(header, len(header))


@pytest.mark.parametrize("length", [-1, 10**15, 9, POOL_JSON_BYTES_MAX + 1])
def test_a_wrong_header_length_is_refused(length: int) -> None:
    with pytest.raises(PoolProtocolError, match="JSON part"):
        Codec("m", FP32).decode(b"{}", length)


def test_a_json_part_past_its_limit_is_refused() -> None:
    body = b" " * (POOL_JSON_BYTES_MAX + 1)
    with pytest.raises(PoolProtocolError, match="JSON part"):
        Codec("m", FP32).decode(body, None)


def test_the_answer_to_another_request_is_refused() -> None:
    body, length = answer([output()], bytes(8), id="other")
    with pytest.raises(PoolProtocolError, match="the id 'other', not 'mine'"):
        Codec("m", FP32).decode(body, length, None, "mine")


@pytest.mark.parametrize("raw", [b"\1\0\0\0", b"\xff\xff\xff\xffa", b"\0\0\0\0\0\0\0\0", b"\1\0\0", b"\1\0\0\0ab"])
def test_lengths_of_elements_are_checked(raw: bytes) -> None:
    body, length = answer([output(datatype="BYTES", shape=[1], **sized(len(raw)))], raw)
    with pytest.raises(PoolProtocolError):
        Codec("m", BYTES).decode(body, length)


def test_a_header_seen_before_does_not_let_wrong_bytes_pass() -> None:
    codec = Codec("m", FP32)
    header = b'{"id":"r","outputs":[' + json.dumps(output()).encode() + b"]}"
    for _ in range(2):
        assert codec.decode(header + bytes(8), len(header), None, "r")["y"].tolist() == [0.0, 0.0]
        with pytest.raises(PoolProtocolError):
            codec.decode(header + bytes(7), len(header), None, "r")
    assert len(codec._layouts) == 1


def test_claims_of_size_take_no_memory() -> None:
    body, length = answer([output(datatype="BYTES", shape=[2**40], **sized(2**42))], b"")
    tracemalloc.start()
    try:
        with pytest.raises(PoolProtocolError):
            Codec("m", BYTES).decode(body, length)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["y", "z"]) | JSON,
        "datatype": st.sampled_from(sorted(DATATYPE_BYTES)) | JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40)}) | JSON,
    },
)


def check(tensor: Tensor) -> None:
    """What is handed out must be usable."""
    flat = list(tensor.values)
    assert tensor.numpy().shape == tensor.shape
    assert tensor.numpy().size == len(flat)
    tensor.tolist()


@given(
    st.lists(NEARLY, max_size=3) | JSON, st.binary(max_size=40), st.integers(-3, 3), st.sampled_from([FP32, BYTES])
)
@example([output()], bytes(8), 0, FP32)
def test_any_answer_is_tensors_or_one_error(outputs: Any, raw: bytes, shift: int, signature: Signature) -> None:
    header = json.dumps({"outputs": outputs}).encode()
    try:
        tensors = Codec("m", signature).decode(header + raw, len(header) + shift)
    except PoolProtocolError:
        return
    assert set(tensors) == {"y"}
    check(tensors["y"])


@given(st.binary(max_size=200), st.none() | st.integers(-1, 250))
def test_any_bytes_are_one_error(body: bytes, length: int | None) -> None:
    with pytest.raises(PoolProtocolError):
        Codec("m", FP32).decode(body, length)
