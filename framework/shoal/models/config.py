"""A model's ``config.pbtxt``: reading it, the rules the pool asks of it, and the signature it states.

The message type comes with tritonclient and is imported when a configuration is read, not before: it costs 50 ms.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from shoal.core.errors import SpecError
from shoal.core.limits import MODEL_CONFIG_BYTES_MAX
from shoal.triton.tensors import DATATYPE_BYTES, Signature, TensorSpec

FILE_NAME: Final = "config.pbtxt"
_QUEUE_HINT: Final = (
    "add: dynamic_batching { default_queue_policy { default_timeout_microseconds: 60000000 "
    "allow_timeout_override: true max_queue_size: 256 } }"
)


def load(path: Path) -> Any:
    """Read a configuration as Triton's ModelConfig message; SpecError with ``file:line:column`` when it is none."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    config = model_config_pb2.ModelConfig()
    try:
        return text_format.Parse(_read(path), config)
    except text_format.ParseError as error:
        text = str(error).partition(" : ")[2] or str(error)
        where = f"{path}:{error.GetLine() or 1}:{error.GetColumn() or 1}"
        raise SpecError(text, where=where, hint="it is the text form of Triton's ModelConfig") from None


def check(config: Any, where: str) -> None:
    """Hold a configuration to the pool's rules; SpecError names the first one it breaks.

    A queue without a default timeout ignores the caller's own, and one without a bound grows until memory ends.
    """
    if not config.backend:
        raise SpecError("it states no backend", where=where, hint='add: backend: "onnxruntime"')
    for kind, tensors in (("input", config.input), ("output", config.output)):
        if not tensors:
            raise SpecError(
                f"it states no {kind}: handlers are checked against it", where=where, hint=f"add {kind} [ … ]"
            )
    policy = config.dynamic_batching.default_queue_policy
    rules = {
        "default_timeout_microseconds above 0": policy.default_timeout_microseconds > 0,
        "allow_timeout_override: true": policy.allow_timeout_override,
        "max_queue_size above 0": policy.max_queue_size > 0,
    }
    for rule, kept in rules.items():
        if not kept:
            message = f"its dynamic_batching.default_queue_policy lacks {rule}"
            raise SpecError(message, where=where, hint=_QUEUE_HINT)


def signature(config: Any) -> Signature:
    """Give the interface a configuration states, with the batch dimension first where the model batches."""
    batch = (-1,) if config.max_batch_size > 0 else ()
    return Signature(
        inputs=tuple(_tensor(one, batch, optional=one.optional) for one in config.input),
        outputs=tuple(_tensor(one, batch) for one in config.output),
        max_batch_size=config.max_batch_size,
    )


def canonical(config: Any) -> str:
    """Give a configuration as text that is the same however the file was written; the name is not part of it."""
    from google.protobuf import text_format

    return str(text_format.MessageToString(_nameless(config)))


def digest(config: Any) -> str:
    """Hexadecimal SHA-256 of what a configuration says, whatever its order, comments and name."""
    from google.protobuf import json_format

    said = json_format.MessageToDict(_nameless(config), preserving_proto_field_name=True)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _nameless(config: Any) -> Any:
    copy = type(config)()
    copy.CopyFrom(config)
    copy.ClearField("name")
    return copy


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MODEL_CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if len(raw) > MODEL_CONFIG_BYTES_MAX:
        raise SpecError(f"more than {MODEL_CONFIG_BYTES_MAX} bytes", where=str(path))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise SpecError("not UTF-8", where=str(path)) from None


def _tensor(one: Any, batch: Iterable[int], *, optional: bool = False) -> TensorSpec:
    return TensorSpec(one.name, _datatype(one), (*batch, *one.dims), optional)


def _datatype(one: Any) -> str:
    from tritonclient.grpc import model_config_pb2

    name = str(model_config_pb2.DataType.Name(one.data_type)).removeprefix("TYPE_")
    datatype = "BYTES" if name == "STRING" else name
    if datatype not in DATATYPE_BYTES:
        raise SpecError(f"{FILE_NAME}: tensor {one.name!r} has data_type TYPE_{name}, which no tensor may have")
    return datatype
