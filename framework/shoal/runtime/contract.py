"""What a handler declares of a model's tensors, held to what the pool serves: the last check, at readiness.

Deployment has checked more, and told it better; here a model that changed behind the function's back is caught.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from shoal.core.errors import ContractError, UsageError
from shoal.triton.tensors import DATATYPE_BYTES, Signature, TensorSpec

_TENSOR: Final = re.compile(r"\s*([A-Z0-9]+)\s*\[\s*((?:-1|\d+)(?:\s*,\s*(?:-1|\d+))*)?\s*\]\s*")


def parse(name: str, text: str) -> TensorSpec:
    """Read ``INT32[-1,2048]`` (-1: any size) as the tensor ``name``; UsageError with the form otherwise."""
    match = _TENSOR.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[1] not in DATATYPE_BYTES:
        raise UsageError(
            f"tensor {name!r} is declared as {text!r}; it must be DATATYPE[d1,d2] with -1 for any size, "
            f"as INT32[-1,2048], and DATATYPE one of {', '.join(DATATYPE_BYTES)}"
        )
    return TensorSpec(name, match[1], tuple(int(size) for size in (match[2] or "").split(",") if size.strip()))


def check(
    model: str, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec], served: Signature
) -> None:
    """Raise ContractError that tells each declared tensor whose name, datatype, rank or sizes the model has not."""
    wrong = [*_differences("input", inputs, served.inputs), *_differences("output", outputs, served.outputs)]
    if wrong:
        raise ContractError(f"model {model!r}: {'; '.join(wrong)}")


def _differences(kind: str, declared: Mapping[str, TensorSpec], served: Sequence[TensorSpec]) -> Iterator[str]:
    theirs = {tensor.name: tensor for tensor in served}
    for mine in declared.values():
        other = theirs.get(mine.name)
        if other is None:
            yield f"it has no {kind} {mine.name!r}, it has {', '.join(theirs) or 'none'}"
        elif mine.datatype != other.datatype or not _fits(mine.shape, other.shape):
            yield f"{kind} is {other} on the pool and {mine} in the handler"


def _fits(mine: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    return len(mine) == len(theirs) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(mine, theirs, strict=True)
    )
