"""A model's interface from what its server reports: the metadata, and the configuration where it may be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shoal.core.errors import PoolProtocolError
from shoal.core.limits import TENSOR_RANK_MAX
from shoal.triton.tensors import DATATYPE_BYTES, Signature, TensorSpec


def parse_json(model: str, body: bytes | bytearray) -> dict[str, Any]:
    """Give a JSON object, or raise PoolProtocolError."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise _broken(model, "not JSON") from None
    if not isinstance(answer, dict):
        raise _broken(model, "not an object")
    return answer


def signature_of(model: str, metadata: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Signature:
    """Build a Signature; without ``config`` no input is optional and the model is taken not to batch.

    Only the configuration tells optional inputs and the largest batch; the shapes have the batch dimension already.
    """
    optional, max_batch_size = _from_config(model, config) if config else (frozenset(), 0)
    inputs = tuple(_tensor(model, entry, optional) for entry in _entries(model, metadata, "inputs"))
    outputs = tuple(_tensor(model, entry, frozenset()) for entry in _entries(model, metadata, "outputs"))
    return Signature(inputs, outputs, max_batch_size)


def _from_config(model: str, config: Mapping[str, Any]) -> tuple[frozenset[str], int]:
    try:
        optional = frozenset(str(entry["name"]) for entry in config.get("input", ()) if entry.get("optional"))
        return optional, int(config.get("max_batch_size", 0))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _broken(model, f"its configuration is {dict(config)!r:.120}") from None


def _entries(model: str, metadata: Mapping[str, Any], key: str) -> list[Any]:
    entries = metadata.get(key)
    if not isinstance(entries, list):
        raise _broken(model, f"{key} is no list")
    return entries


def _tensor(model: str, entry: Any, optional: frozenset[Any]) -> TensorSpec:
    try:
        name, datatype = str(entry["name"]), str(entry["datatype"])
        shape = tuple(int(size) for size in entry["shape"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _broken(model, f"a tensor is {entry!r:.120}") from None
    if datatype not in DATATYPE_BYTES or len(shape) > TENSOR_RANK_MAX or min(shape, default=0) < -1:
        raise _broken(model, f"a tensor is {entry!r:.120}")
    return TensorSpec(name, datatype, shape, name in optional)


def _broken(model: str, why: str) -> PoolProtocolError:
    return PoolProtocolError(f"the pool's description of model {model} is not the inference protocol: {why}")
