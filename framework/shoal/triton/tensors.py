"""Tensors as the inference protocol has them: the interface of a model, and the values that travel.

Values stay in the bytes they arrived in: numpy is imported only when a handler asks for an array.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

# Datatype -> bytes per element; BYTES elements carry their own length (u32, little-endian). BF16 has no numpy type.
DATATYPE_BYTES: Final[dict[str, int]] = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
    "BYTES": 0,
}

# Datatype -> struct format of one element; BF16 travels as its bits, BYTES has none.
DATATYPE_FORMAT: Final[dict[str, str]] = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "BF16": "H",
    "FP32": "f",
    "FP64": "d",
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a model's interface; ``shape`` has the batch dimension where the model batches."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False  # an input the model runs without; metadata does not tell, the configuration does

    def __str__(self) -> str:
        return f"{self.name}: {self.datatype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives, as its server reports it; ``max_batch_size`` 0: the model does not batch."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int = 0


class Tensor:
    """One tensor of an answer: ``name``, ``datatype``, ``shape``, and ``data``, its bytes as they came.

    ``data`` is a read-only memoryview of bytes: little-endian, row-major; BYTES elements each after its length.
    """

    __slots__ = ("data", "datatype", "name", "shape")

    def __init__(self, name: str, datatype: str, shape: tuple[int, ...], data: memoryview) -> None:
        self.name = name
        self.datatype = datatype
        self.shape = shape
        self.data = data

    def __repr__(self) -> str:
        return f"Tensor({self.name}: {self.datatype}[{','.join(map(str, self.shape))}], {len(self.data)} bytes)"

    def __len__(self) -> int:
        """Size of the first dimension; TypeError for a tensor without dimensions."""
        if not self.shape:
            raise TypeError(f"tensor {self.name} has no dimensions, so no length")
        return self.shape[0]

    @property
    def values(self) -> Sequence[Any]:
        """All elements in row-major order, flat: a typed view where Python has the type, else a tuple."""
        if self.datatype == "BYTES":
            return tuple(bytes(part) for part in split_elements(self.data))
        if self.datatype == "FP16":
            return struct.unpack(f"<{len(self.data) // 2}e", self.data)
        if self.datatype == "BF16":
            return struct.unpack(f"<{len(self.data) // 2}f", _widen(self.data))
        char: Any = DATATYPE_FORMAT[self.datatype]
        return self.data.cast(char) if self.data else ()

    def tolist(self) -> Any:
        """Nested lists in the tensor's shape; a single value for a tensor without dimensions."""
        flat: list[Any] = list(self.values)
        if not self.shape:
            return flat[0]
        for level in range(len(self.shape) - 1, 0, -1):
            size, count = self.shape[level], _product(self.shape[:level])
            flat = [flat[i * size : (i + 1) * size] for i in range(count)]
        return flat

    def numpy(self) -> Any:
        """Give the tensor as a read-only numpy array without a copy, where numpy has the datatype.

        BF16 becomes float32 (exact, as every BF16 value is one); BYTES becomes an object array of ``bytes``.
        """
        import numpy as np

        if self.datatype == "BYTES":
            array = np.empty(_product(self.shape), dtype=object)
            array[:] = self.values
            return array.reshape(self.shape)
        if self.datatype == "BF16":
            return np.frombuffer(_widen(self.data), dtype="<f4").reshape(self.shape)
        return np.frombuffer(self.data, dtype=f"<{DATATYPE_FORMAT[self.datatype]}").reshape(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Give what ``numpy.asarray(tensor)`` asks for."""
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            return array.astype(dtype)
        return array.copy() if copy else array


def split_elements(data: memoryview) -> list[memoryview]:
    """Cut the bytes of a BYTES tensor into its elements; ValueError when the lengths do not add up."""
    elements, offset, end = [], 0, len(data)
    while offset < end:
        if end - offset < _LENGTH.size:
            raise ValueError(f"{end - offset} bytes are left where a 4-byte length belongs")
        (size,) = _LENGTH.unpack_from(data, offset)
        offset += _LENGTH.size
        if size > end - offset:
            raise ValueError(f"an element says {size} bytes, {end - offset} are left")
        elements.append(data[offset : offset + size])
        offset += size
    return elements


_LENGTH: Final = struct.Struct("<I")


def _widen(data: memoryview) -> bytes:
    """BF16 to float32, exactly: the missing low half is zero."""
    wide = bytearray(2 * len(data))
    wide[2::4] = data[0::2]
    wide[3::4] = data[1::2]
    return bytes(wide)


def _product(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
