"""A handler's value for an input, made ready for the wire: its shape and its bytes, checked against the model.

What is wrong is said here, before anything is sent: Triton answers some of these mistakes with 500 and no name.
"""

from __future__ import annotations

import array
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from shoal.core.errors import ModelInputError
from shoal.triton import bf16
from shoal.triton.tensors import DATATYPE_BYTES, DATATYPE_FORMAT, Tensor, TensorSpec

Buffer = bytes | bytearray | memoryview
Prepared = tuple[tuple[int, ...], Buffer]  # shape; bytes of the elements, C-contiguous

# Buffer format -> datatype. "l" and "L" are as wide as the machine's long.
_DATATYPE_OF: Final[dict[str, str]] = {
    **{char: name for name, char in DATATYPE_FORMAT.items() if name != "BF16"},
    "l": f"INT{8 * struct.calcsize('l')}",
    "L": f"UINT{8 * struct.calcsize('L')}",
}
_DATATYPE_OF.update({prefix + char: name for char, name in tuple(_DATATYPE_OF.items()) for prefix in "@=<"})


class Input:
    """One input of a model: turns values into what travels."""

    __slots__ = ("datatype", "name", "rank", "spec")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.datatype = spec.datatype
        self.rank = len(spec.shape)

    def prepare(self, value: Any) -> Prepared:
        """Give shape and bytes of ``value``; ModelInputError says which rule it breaks.

        Arrays keep their shape and must have the model's datatype (float32 is rounded for BF16). ``bytes`` and
        other flat memory without a shape take the model's, of which at most one dimension may be free.
        """
        kind = type(value)
        if kind is bytes or kind is bytearray or kind is str:
            return self._from_flat(value)
        if kind is list or kind is tuple:
            return self._from_nested(value)
        if kind is Tensor:
            return self._from_tensor(value)
        try:
            view = memoryview(value)
        except (TypeError, ValueError):
            return self._from_other(value)
        return self._from_view(value, view)

    def _from_view(self, value: Any, view: memoryview) -> Prepared:
        datatype = _DATATYPE_OF.get(view.format)
        if datatype != self.datatype:
            return self._from_view_of(datatype, value, view)
        if view.ndim != self.rank and _is_flat(value, view):
            return self._fit(view.nbytes), view.tobytes()
        return view.shape or (), view if view.c_contiguous else view.tobytes()

    def _from_view_of(self, datatype: str | None, value: Any, view: memoryview) -> Prepared:
        """Take the buffers whose datatype is not the model's and that fit all the same."""
        if self.datatype == "BYTES":
            return self._from_other(value)
        if self.datatype == "BF16" and datatype == "FP32":
            fits = view.ndim == self.rank or not _is_flat(value, view)
            shape = (view.shape or ()) if fits else self._fit(view.nbytes // 2)
            return shape, bf16.from_float32(memoryview(view.tobytes()))
        if datatype == "UINT8" and _is_flat(value, view):
            return self._fit(view.nbytes), view.tobytes()
        raise self._wrong(f"has the element type {datatype or view.format!r}", self._cast_hint())

    def _from_other(self, value: Any) -> Prepared:
        """Take what has no plain buffer: arrays of objects or strings, ml_dtypes' BF16, numbers, the array-like."""
        if isinstance(value, (bool, int, float)):
            return self._from_nested(value)
        dtype = getattr(value, "dtype", None)
        if self.datatype == "BF16" and str(dtype) == "bfloat16" and hasattr(value, "tobytes"):
            return tuple(value.shape), value.tobytes()
        if self.datatype == "BYTES" and getattr(dtype, "kind", "") in ("O", "S", "U"):
            return tuple(value.shape), self._pack_bytes(value.ravel().tolist())
        if hasattr(value, "__array__"):
            converted = value.__array__()
            if type(converted) is not type(value):
                return self.prepare(converted)
        if dtype is not None:
            raise self._wrong(f"has the element type {dtype}", self._cast_hint())
        raise self._wrong(f"is a {type(value).__name__}", "pass an array, a list, bytes or a Tensor")

    def _from_tensor(self, value: Tensor) -> Prepared:
        if value.datatype != self.datatype:
            raise self._wrong(f"is the {value.datatype} tensor {value.name!r}", self._cast_hint())
        if self.datatype != "BYTES" and len(value.data) != DATATYPE_BYTES[self.datatype] * math.prod(value.shape):
            raise self._wrong(f"is a tensor of shape {list(value.shape)} over {len(value.data)} bytes", "")
        return value.shape, value.data

    def _from_flat(self, value: bytes | bytearray | str) -> Prepared:
        if self.datatype == "BYTES":
            shape = tuple(1 if size < 0 else size for size in self.spec.shape)
            if any(size != 1 for size in shape):
                raise self._wrong("is one element", "pass a list of bytes or str")
            return shape, self._pack_bytes([value])
        if isinstance(value, str):
            raise self._wrong("is a str", "encode it, or pass numbers")
        return self._fit(len(value)), value

    def _fit(self, size: int) -> tuple[int, ...]:
        """Find the shape for ``size`` bytes that came without one."""
        free = [axis for axis, extent in enumerate(self.spec.shape) if extent < 0]
        fixed = DATATYPE_BYTES[self.datatype]
        for extent in self.spec.shape:
            fixed *= 1 if extent < 0 else extent
        if len(free) > 1:
            raise self._wrong(f"is {size} bytes without a shape", "pass an array, or memoryview.cast with a shape")
        if fixed == 0 or size % fixed or (not free and size != fixed):
            rule = f"{fixed} bytes" if not free else f"a multiple of {fixed} bytes"
            raise self._wrong(f"is {size} bytes long, and {rule} are needed", "")
        return tuple(size // fixed if extent < 0 else extent for extent in self.spec.shape)

    def _from_nested(self, value: Any) -> Prepared:
        shape, flat = self._flatten(value)
        if self.datatype == "BYTES":
            return shape, self._pack_bytes(flat)
        try:
            return shape, _PACK.get(self.datatype, _pack_array)(self.datatype, flat)
        except (TypeError, ValueError, OverflowError, struct.error) as error:
            raise self._wrong(f"has an element that is no {self.datatype} ({error})", "") from None

    def _flatten(self, value: Any) -> tuple[tuple[int, ...], list[Any]]:
        """Shape and elements of nested lists: as many levels as the model has dimensions, each of one length."""
        shape: list[int] = []
        level = [value]
        for _ in range(self.rank):
            if not all(isinstance(part, (list, tuple)) for part in level):
                raise self._wrong(
                    f"is nested {len(shape)} deep, and {self.rank} levels are needed", self._batch_hint()
                )
            sizes = {len(part) for part in level}
            if len(sizes) > 1:
                raise self._wrong(f"is ragged: lists of {sorted(sizes)[:4]} elements side by side", "")
            shape.append(sizes.pop() if sizes else 0)
            level = [element for part in level for element in part]
        if level and isinstance(level[0], (list, tuple)):
            raise self._wrong(f"is nested deeper than {self.rank} levels", "")
        return tuple(shape), level

    def _pack_bytes(self, elements: Sequence[Any]) -> bytes:
        parts: list[Buffer] = []
        for element in elements:
            data = element.encode() if isinstance(element, str) else element
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise self._wrong(f"has an element of type {type(element).__name__}", "pass bytes or str")
            parts.append(_length_prefix(memoryview(data).nbytes))
            parts.append(data)
        return b"".join(parts)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ModelInputError unless ``shape`` has the model's rank and fixed dimensions."""
        if len(shape) != self.rank:
            raise self._wrong(f"has {len(shape)} dimensions ({list(shape)})", self._batch_hint())
        for axis, (size, wanted) in enumerate(zip(shape, self.spec.shape, strict=True)):
            if wanted >= 0 and size != wanted:
                raise self._wrong(f"has shape {list(shape)}: dimension {axis} is {size}, not {wanted}", "")

    def _wrong(self, what: str, hint: str) -> ModelInputError:
        return ModelInputError(f"input {self.name!r} {what}; the model takes {self.spec}", hint=hint)

    def _cast_hint(self) -> str:
        return f"convert it first: numpy.asarray(value).astype({_NUMPY_NAME[self.datatype]!r})"

    def _batch_hint(self) -> str:
        return "the first dimension is the batch: wrap the value once more" if self.rank > 1 else ""


def _is_flat(value: Any, view: memoryview) -> bool:
    """Whether a buffer has one dimension because its type knows no other, or is a plain view of such memory."""
    return view.ndim == 1 and (type(value) is memoryview or not hasattr(value, "shape"))


_NUMPY_NAME: Final = {name: name.lower() for name in DATATYPE_BYTES} | {
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BF16": "float32",
    "BYTES": "object",
}
_length_prefix: Final = struct.Struct("<I").pack


def _pack_array(datatype: str, flat: list[Any]) -> bytes:
    return array.array(DATATYPE_FORMAT[datatype], flat).tobytes()


def _pack_half(_: str, flat: list[Any]) -> bytes:
    return struct.pack(f"<{len(flat)}e", *flat)


def _pack_bf16(_: str, flat: list[Any]) -> bytes:
    return bf16.from_float32(memoryview(array.array("f", flat).tobytes()))


def _pack_bool(_: str, flat: list[Any]) -> bytes:
    if not all(value is True or value is False or (type(value) is int and value in (0, 1)) for value in flat):
        raise ValueError("only True, False, 1 and 0 are")
    return bytes(flat)


_PACK: Final[dict[str, Callable[[str, list[Any]], bytes]]] = {
    "FP16": _pack_half,
    "BF16": _pack_bf16,
    "BOOL": _pack_bool,
}
