"""What a handler may pass for an input, and the one error each mistake gets before anything is sent."""

from __future__ import annotations

import array
import mmap
from typing import Any

import numpy as np
import pytest

from shoal.core.errors import ModelInputError
from shoal.triton.codec import Codec
from shoal.triton.inputs import Input
from shoal.triton.tensors import Signature, Tensor, TensorSpec


def prepare(datatype: str, shape: tuple[int, ...], value: Any) -> tuple[tuple[int, ...], bytes]:
    slot = Input(TensorSpec("x", datatype, shape))
    found, data = slot.prepare(value)
    slot.check_shape(found)
    return found, bytes(data)


FLOATS = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)


class ArrayLike:
    """As torch and pandas offer themselves."""

    dtype = "torch.float32"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return FLOATS


@pytest.mark.parametrize(
    "value",
    [
        FLOATS,
        np.asfortranarray(FLOATS),
        FLOATS.tolist(),
        tuple(map(tuple, FLOATS.tolist())),
        FLOATS.tobytes(),
        bytearray(FLOATS.tobytes()),
        memoryview(FLOATS.tobytes()),
        memoryview(FLOATS.tobytes()).cast("f"),
        memoryview(FLOATS.tobytes()).cast("f", (2, 2)),
        array.array("f", [1, 2, 3, 4]),
        Tensor("other", "FP32", (2, 2), memoryview(FLOATS.tobytes())),
        ArrayLike(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_form_of_the_same_values_travels_alike(value: Any) -> None:
    assert prepare("FP32", (-1, 2), value) == ((2, 2), FLOATS.tobytes())


def test_flat_memory_takes_the_shape_of_the_model() -> None:
    assert prepare("UINT8", (1, -1), b"abc") == ((1, 3), b"abc")
    assert prepare("INT32", (2, 2), array.array("i", [1, 2, 3, 4]))[0] == (2, 2)
    with mmap.mmap(-1, 8) as memory:
        assert prepare("FP64", (-1, 1), memory)[0] == (1, 1)


def test_long_is_taken_as_wide_as_it_is() -> None:
    name = "INT64" if array.array("l").itemsize == 8 else "INT32"
    assert prepare(name, (-1,), array.array("l", [5]))[0] == (1,)


def test_numbers_and_numpy_scalars_have_no_dimensions() -> None:
    assert prepare("FP32", (), 1.0) == ((), np.float32(1).tobytes())
    assert prepare("FP32", (), np.float32(1)) == ((), np.float32(1).tobytes())
    assert prepare("BOOL", (), True) == ((), b"\1")


@pytest.mark.parametrize(
    "value",
    [
        [b"ab", "ü"],
        np.array([b"ab", "ü"], dtype=object),
        [bytearray(b"ab"), memoryview("ü".encode())],
        Tensor("t", "BYTES", (2,), memoryview(b"\2\0\0\0ab\2\0\0\0\xc3\xbc")),
    ],
)
def test_strings_travel_as_utf8_and_bytes_as_they_are(value: Any) -> None:
    assert prepare("BYTES", (-1,), value) == ((2,), b"\2\0\0\0ab\2\0\0\0\xc3\xbc")


@pytest.mark.parametrize("value", [b"ab", "ab", np.array("ab"), np.str_("ab")])
def test_one_string_is_one_element(value: Any) -> None:
    shape = (1, 1) if isinstance(value, (bytes, str)) and type(value) in (bytes, str) else ()
    assert prepare("BYTES", (-1, 1) if shape else (), value) == (shape, b"\2\0\0\0ab")


@pytest.mark.parametrize("dtype", ["S3", "U3"])
def test_numpy_strings_of_fixed_width_are_taken(dtype: str) -> None:
    assert prepare("BYTES", (-1,), np.array(["a", "bcd"], dtype=dtype)) == ((2,), b"\1\0\0\0a\3\0\0\0bcd")


@pytest.mark.parametrize(
    ("datatype", "shape", "value", "message"),
    [
        ("FP32", (-1, 2), FLOATS.astype(np.float64), "has the element type 'FP64'; the model takes x: FP32[-1,2]"),
        ("FP32", (-1, 2), FLOATS.astype(">f4"), "has the element type '>f'"),
        ("INT32", (-1,), np.array([1 + 2j]), "has the element type"),
        ("INT64", (-1,), np.array(["2020-01-01"], dtype="datetime64[s]"), "has the element type datetime64"),
        ("FP32", (-1, 2), FLOATS[0], "has 1 dimensions ([2])"),
        ("FP32", (-1, 3), FLOATS, "dimension 1 is 2, not 3"),
        ("FP32", (-1, 2), [1.0, 2.0], "nested 1 deep, and 2 levels are needed"),
        ("FP32", (-1,), [[1.0]], "nested deeper than 1 levels"),
        ("FP32", (-1, -1), [[1.0], [1.0, 2.0]], "ragged"),
        ("FP32", (-1, -1), b"1234", "4 bytes without a shape"),
        ("FP32", (-1, 2), b"123", "a multiple of 8 bytes"),
        ("FP32", (2,), b"1234", "8 bytes are needed"),
        ("FP32", (-1,), "text", "is a str"),
        ("FP32", (-1,), object(), "is a object"),
        ("FP32", (-1,), [None], "has an element that is no FP32"),
        ("INT8", (-1,), [128], "has an element that is no INT8"),
        ("UINT8", (-1,), [-1], "has an element that is no UINT8"),
        ("INT32", (-1,), [1.5], "has an element that is no INT32"),
        ("FP16", (-1,), [1e9], "has an element that is no FP16"),
        ("BOOL", (-1,), [2], "only True, False, 1 and 0"),
        ("BF16", (-1,), np.zeros(2, np.uint16), "has the element type 'UINT16'"),
        ("BYTES", (-1,), [1], "has an element of type int"),
        ("BYTES", (2,), b"ab", "is one element"),
        ("BYTES", (-1,), FLOATS, "has the element type float32"),
        ("FP32", (-1,), Tensor("t", "FP64", (1,), memoryview(bytes(8))), "is the FP64 tensor 't'"),
        ("FP32", (-1,), Tensor("t", "FP32", (3,), memoryview(bytes(8))), "of shape [3] over 8 bytes"),
    ],
)
def test_a_wrong_value_is_named_with_the_rule(
    datatype: str, shape: tuple[int, ...], value: Any, message: str
) -> None:
    with pytest.raises(ModelInputError) as caught:
        prepare(datatype, shape, value)
    assert message in caught.value.message
    assert f"the model takes x: {datatype}" in caught.value.message


def test_names_are_checked_and_the_closest_is_offered() -> None:
    specs = (TensorSpec("tokens", "INT32", (-1,)), TensorSpec("mask", "INT32", (-1,), optional=True))
    codec = Codec("m", Signature(specs, (TensorSpec("scores", "FP32", (-1,)),)))
    with pytest.raises(ModelInputError, match="has no input 'token'") as caught:
        codec.encode({"token": [1]})
    assert caught.value.hint == "did you mean 'tokens'?"
    with pytest.raises(ModelInputError, match="has no input 'masks'; it has tokens, mask"):
        codec.encode({"tokens": [1], "masks": [1]})
    with pytest.raises(ModelInputError, match=r"needs the input tokens: INT32\[-1\]"):
        codec.encode({"mask": [1]})
    with pytest.raises(ModelInputError, match="has no output 'score'"):
        codec.encode({"tokens": [1]}, ["score"])


def test_a_shape_seen_before_does_not_let_a_wrong_one_pass() -> None:
    codec = Codec("m", Signature((TensorSpec("x", "FP32", (-1, 2)),), ()))
    for _ in range(2):
        codec.encode({"x": FLOATS})
        with pytest.raises(ModelInputError):
            codec.encode({"x": FLOATS.T.reshape(1, 4)})
        with pytest.raises(ModelInputError):
            codec.encode({"x": FLOATS.astype(np.int32)})


def test_what_is_kept_per_shape_is_bounded() -> None:
    codec = Codec("m", Signature((TensorSpec("x", "UINT8", (-1,)),), ()))
    sizes = {len(codec.encode({"x": bytes(n)}).tail) > 0 and len(codec._tails) for n in range(1000)}
    assert max(sizes) <= 128
