"""The shape of a model's interface: named tensors with a datatype and dimensions (-1: any size)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a model's interface; ``shape`` has the batch dimension where the model batches."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.datatype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives, as its server reports it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
