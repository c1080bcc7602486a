"""The contract between handler and model: what the one says it sends and reads against what the other has."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from shoal.core.errors import ContractError
from shoal.runtime import contract as runtime_contract
from shoal.triton import metadata
from shoal.triton.tensors import Signature, TensorSpec


def parse_tensor(text: str, name: str = "") -> TensorSpec:
    """Read ``INT32[-1,2048]`` (-1: any size); UsageError with the form otherwise."""
    return runtime_contract.parse(name, text)


def signature_of(served: Mapping[str, Any]) -> Signature:
    """Read a server's model metadata (the v2 protocol's JSON); PoolProtocolError when it is none.

    Shapes there have the batch dimension already.
    """
    return metadata.signature_of(str(served.get("name", "")), served)


def check(
    model: str,
    signature: Signature,
    *,
    inputs: Mapping[str, str] | None = None,
    outputs: Mapping[str, str] | None = None,
    called_inputs: Collection[str] = (),
    used_outputs: Collection[str] = (),
) -> None:
    """Hold a handler's declarations and calls to a model's signature; ContractError tells all differences.

    ``inputs`` and ``outputs`` are declared tensors (name -> ``INT32[-1,2048]``), the other two are names seen in
    the handler's code. Nothing declared is checked by names alone.
    """
    wrong = [
        *_declared("input", inputs or {}, signature.inputs),
        *_declared("output", outputs or {}, signature.outputs),
        *_named("input", called_inputs, signature.inputs),
        *_named("output", used_outputs, signature.outputs),
        *_missing({*called_inputs, *(inputs or {})}, signature.inputs),
    ]
    if wrong:
        told = list(dict.fromkeys(wrong))
        raise ContractError(f"model {model!r}: " + "; ".join(told), hint=f"the model has {describe(signature)}")


def check_served(model: str, stated: Signature, served: Signature) -> None:
    """Hold what a server reports to what the configuration states; ContractError tells all differences."""
    wrong = [
        *_differences("input", stated.inputs, served.inputs),
        *_differences("output", stated.outputs, served.outputs),
    ]
    if wrong:
        raise ContractError(f"model {model!r} is not served as its configuration states: " + "; ".join(wrong))


def describe(signature: Signature) -> str:
    """One line: inputs, an arrow, outputs."""
    inputs, outputs = (", ".join(map(str, tensors)) for tensors in (signature.inputs, signature.outputs))
    return f"{inputs} -> {outputs}"


def _declared(kind: str, declared: Mapping[str, str], real: tuple[TensorSpec, ...]) -> Iterable[str]:
    yield from _named(kind, declared, real)
    by_name = {one.name: one for one in real}
    for name, text in declared.items():
        if name in by_name:
            yield from _mismatch(kind, parse_tensor(text, name), by_name[name])


def _mismatch(kind: str, handler: TensorSpec, model: TensorSpec) -> Iterable[str]:
    if handler.datatype != model.datatype:
        yield f"{kind} {model.name!r} is {model.datatype} in the model, {handler.datatype} in the handler"
    if not _compatible(handler.shape, model.shape):
        yield f"{kind} {model.name!r} has shape {_shape(model)} in the model, {_shape(handler)} in the handler"


def _compatible(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    return len(first) == len(second) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(first, second, strict=True)
    )


def _named(kind: str, names: Iterable[str], real: tuple[TensorSpec, ...]) -> Iterable[str]:
    known = [one.name for one in real]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            rest = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
            yield f"it has no {kind} {name!r} ({rest})"


def _missing(given: Collection[str], real: tuple[TensorSpec, ...]) -> Iterable[str]:
    """Tell inputs left out; a handler of which no input is known cannot be judged."""
    if given:
        for one in real:
            if one.name not in given and not one.optional:
                yield f"its input {one.name!r} ({one}) is not given"


def _differences(kind: str, stated: tuple[TensorSpec, ...], served: tuple[TensorSpec, ...]) -> Iterable[str]:
    theirs = {one.name: one for one in served}
    for mine in stated:
        other = theirs.pop(mine.name, None)
        if other is None:
            yield f"{kind} {mine.name!r} is stated, not served"
        elif (mine.datatype, mine.shape) != (other.datatype, other.shape):
            yield f"{kind} {mine} is stated, {other} is served"
    for name in theirs:
        yield f"{kind} {name!r} is served, not stated"


def _shape(tensor: TensorSpec) -> str:
    return f"[{','.join(map(str, tensor.shape))}]"
