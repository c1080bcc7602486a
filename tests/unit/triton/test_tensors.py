"""Tensors of an answer: views that become lists or arrays when asked."""

from __future__ import annotations

import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.triton import bf16
from shoal.triton.tensors import Tensor, TensorSpec


def floats(*values: float) -> memoryview:
    return memoryview(struct.pack(f"<{len(values)}f", *values))


def test_values_index_without_numpy_and_without_a_copy() -> None:
    tensor = Tensor("y", "FP32", (1, 3), floats(0.5, 2.0, 1.0))
    assert max(range(3), key=tensor.values.__getitem__) == 1
    assert tensor.tolist() == [[0.5, 2.0, 1.0]]
    assert isinstance(tensor.values, memoryview)
    assert len(tensor) == 1
    assert repr(tensor) == "Tensor(y: FP32[1,3], 12 bytes)"


def test_numpy_shares_the_memory_and_cannot_write_to_it() -> None:
    data = floats(1, 2)
    array = Tensor("y", "FP32", (2,), data).numpy()
    assert np.shares_memory(array, np.frombuffer(data, np.float32))
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 5


def test_asarray_converts_and_copies_on_request() -> None:
    tensor = Tensor("y", "FP32", (2,), floats(1, 2))
    assert np.asarray(tensor, dtype=np.float64).dtype == np.float64
    copied = np.array(tensor, copy=True)
    copied[0] = 7
    assert tensor.tolist() == [1.0, 2.0]


def test_a_tensor_without_dimensions_has_one_value_and_no_length() -> None:
    tensor = Tensor("y", "INT8", (), memoryview(b"\xff"))
    assert tensor.tolist() == -1
    with pytest.raises(TypeError, match="no dimensions"):
        len(tensor)


def test_empty_tensors_keep_their_shape() -> None:
    tensor = Tensor("y", "FP32", (2, 0, 3), memoryview(b""))
    assert tensor.tolist() == [[], []]
    assert tensor.numpy().shape == (2, 0, 3)


def test_bytes_become_an_object_array_even_when_all_have_one_length() -> None:
    tensor = Tensor("y", "BYTES", (2, 1), memoryview(b"\1\0\0\0a\1\0\0\0b"))
    assert tensor.numpy().dtype == object
    assert tensor.tolist() == [[b"a"], [b"b"]] == tensor.numpy().tolist()


def test_a_spec_prints_as_it_is_declared() -> None:
    assert str(TensorSpec("x", "FP32", (-1, 2))) == "x: FP32[-1,2]"


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_bf16_rounds_to_nearest_even_as_ml_dtypes_does(values: list[float]) -> None:
    wanted = np.array(values, np.float32).astype(ml_dtypes.bfloat16).tobytes()
    data = floats(*values)
    assert bf16._plain(data) == wanted
    assert bf16._vectorised(np, data) == wanted


@pytest.mark.parametrize("bits", [0x7F800001, 0xFF800001, 0x7FC00000, 0x7FFFFFFF])
def test_bf16_keeps_a_nan_a_nan(bits: int) -> None:
    data = memoryview(struct.pack("<I", bits))
    for rounded in (bf16._plain(data), bf16._vectorised(np, data)):
        assert np.isnan(Tensor("y", "BF16", (1,), memoryview(rounded)).numpy()).all()
