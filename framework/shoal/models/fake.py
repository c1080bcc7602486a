"""A pool without a Triton: every model answers from its signature, deterministically, and fails as it is told to.

The fake speaks both protocols (``fake_http``, ``fake_grpc``) and refuses in Triton 2.51's own words and status
codes, so what is built against it meets the same answers as on the real server; tests/contract holds both to that.

What it answers: an output with the datatype and dimensions of an input echoes that input; any other holds values
made from a hash of the row's inputs, floating point between 0 and 1. Rows of a batch do not depend on each other.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from shoal.core.errors import SpecError
from shoal.models import config
from shoal.triton.tensors import DATATYPE_BYTES, Signature, TensorSpec, split_elements

QUEUE_MAX_DEFAULT: Final = 256  # requests waiting for one model whose configuration is not known
TIMEOUT_US_DEFAULT: Final = 60_000_000
DELAY_SECONDS_MAX: Final = 30.0
_UNKNOWN_ID: Final = "[request id: <id_unknown>] "
_TEXT_CHARS: Final = 8  # of a made-up BYTES element


class FakeError(Exception):
    """What Triton would answer: an HTTP status, the gRPC code's name and the text."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.text = text


@dataclass(slots=True)
class Knobs:
    """How one model misbehaves; all off at first."""

    delay_s: float = 0.0  # in execution, one request at a time
    delay_from_input: bool = False  # the first input's first FP32 value is the delay
    overload: bool = False  # every request finds the queue full
    fault: str = ""  # the backend's error text; every request fails with it
    reset: bool = False  # the connection ends without an answer
    load_fault: str = ""  # loading fails with this text
    stub_dead: bool = False  # as after kill -9 of a Python stub; loading it afresh heals it


@dataclass(frozen=True, slots=True)
class FakeTensor:
    """One tensor on the wire: its bytes as the binary protocol has them."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(slots=True)
class _Model:
    signature: Signature
    message: Any = None  # the ModelConfig, where a repository has it
    queue_max: int = QUEUE_MAX_DEFAULT
    timeout_us: int = TIMEOUT_US_DEFAULT
    waiting: int = 0
    slot: asyncio.Lock = field(default_factory=asyncio.Lock)


class FakeModels:
    """The models of a fake pool: what is loaded, what it answers, how it fails.

    ``repository`` is a folder as Triton reads it; ``serve`` adds a model from a signature alone.
    """

    def __init__(self, repository: Path | None = None) -> None:
        self._repository = repository
        self._loaded: dict[str, _Model] = {}
        self._states: dict[str, tuple[str, str]] = {}
        self.knobs: dict[str, Knobs] = {}
        self.executed: dict[str, int] = {}  # requests a model has answered

    def serve(self, name: str, signature: Signature) -> None:
        """Have a model READY that no repository knows."""
        self._loaded[name] = _Model(signature)
        self._states[name] = ("READY", "")

    def turn(self, name: str, **knobs: Any) -> None:
        """Set a model's knobs; those not named go back to off."""
        self.knobs[name] = Knobs(**knobs)

    def load(self, name: str) -> None:
        """Load from the repository; nothing happens when it is loaded already."""
        if name in self._loaded:
            return
        found = self._read(name)
        if reason := self._knobs(name).load_fault:
            self._states[name] = ("UNAVAILABLE", f"Internal: {reason}")
            text = f"load failed for model '{name}': version 1 is at UNAVAILABLE state: Internal: {reason};\n"
            raise FakeError(400, "INVALID_ARGUMENT", text)
        self._knobs(name).stub_dead = False
        self._loaded[name] = found
        self._states[name] = ("READY", "")

    def unload(self, name: str) -> None:
        """Unload; a model that is not loaded, or not known at all, is no error."""
        if self._loaded.pop(name, None):
            self._states[name] = ("UNAVAILABLE", "unloaded")

    def clear(self) -> None:
        """Forget what is loaded, as a server does that is started again."""
        self._loaded.clear()
        self._states.clear()

    def index(self) -> list[dict[str, str]]:
        """Give the repository's index: name, version, state and reason; a model never loaded has only its name."""
        folders = {path.name for path in self._repository.iterdir()} if self._repository else set()
        rows = []
        for name in sorted(folders | set(self._states)):
            state, reason = self._states.get(name, ("", ""))
            rows.append({"name": name, "version": "1" if state else "", "state": state, "reason": reason})
        return rows

    def ready(self, name: str, version: str = "") -> bool:
        """Whether a model takes calls."""
        return name in self._loaded and version in ("", "1")

    def signature(self, name: str, version: str = "") -> Signature:
        """Give a loaded model's signature."""
        return self._model(name, version).signature

    def message(self, name: str, version: str = "") -> Any:
        """Give a loaded model's ModelConfig; None for one served from a signature."""
        return self._model(name, version).message

    def stubs(self) -> dict[str, int]:
        """Count the live stub processes a real server would have for each model."""
        return {name: 0 if self._knobs(name).stub_dead else 1 for name in self._loaded}

    def resets(self, name: str) -> bool:
        """Whether the connection of a request to this model is to be cut."""
        return self._knobs(name).reset

    async def infer(
        self,
        name: str,
        inputs: Sequence[FakeTensor],
        *,
        version: str = "",
        wanted: Sequence[str] = (),
        timeout_us: int = 0,
    ) -> list[FakeTensor]:
        """Answer one request; FakeError where Triton would refuse. ``wanted`` empty: all outputs."""
        model = self._model(name, version)
        check_inputs(name, model.signature, inputs)
        for output in wanted:
            if output not in {one.name for one in model.signature.outputs}:
                raise FakeError(
                    400, "INVALID_ARGUMENT", f"unexpected inference output '{output}' for model '{name}'"
                )
        await self._execute(name, model, inputs, timeout_us)
        return make_outputs(model.signature, inputs, wanted)

    async def _execute(self, name: str, model: _Model, inputs: Sequence[FakeTensor], timeout_us: int) -> None:
        knobs = self._knobs(name)
        if knobs.overload or (model.slot.locked() and model.waiting >= model.queue_max):
            raise FakeError(503, "UNAVAILABLE", f"{_UNKNOWN_ID}Exceeds maximum queue size")
        shortest = min(timeout_us or model.timeout_us, model.timeout_us)
        model.waiting += 1
        try:
            async with asyncio.timeout(shortest / 1e6):
                await model.slot.acquire()
        except TimeoutError:
            raise FakeError(503, "UNAVAILABLE", "Request timeout expired") from None
        finally:
            model.waiting -= 1
        try:
            await self._run(name, knobs, inputs)
        finally:
            model.slot.release()

    async def _run(self, name: str, knobs: Knobs, inputs: Sequence[FakeTensor]) -> None:
        if knobs.stub_dead:
            raise FakeError(500, "INTERNAL", f"Stub process '{name}_0_0' is not healthy.")
        if knobs.fault:
            raise FakeError(500, "INTERNAL", knobs.fault)
        delay = struct.unpack_from("<f", inputs[0].data)[0] if knobs.delay_from_input else knobs.delay_s
        if delay:
            await asyncio.sleep(min(delay, DELAY_SECONDS_MAX))
        self.executed[name] = self.executed.get(name, 0) + 1

    def _knobs(self, name: str) -> Knobs:
        return self.knobs.setdefault(name, Knobs())

    def _model(self, name: str, version: str) -> _Model:
        if name in self._loaded and version in ("", "1"):
            return self._loaded[name]
        text = f"Request for unknown model: '{name}' "
        if version not in ("", "1"):
            raise FakeError(404, "NOT_FOUND", f"{text}version {version} is not found")
        known = name in self._states
        raise FakeError(404, "NOT_FOUND", text + ("has no available versions" if known else "is not found"))

    def _read(self, name: str) -> _Model:
        path = (self._repository or Path()) / name / config.FILE_NAME
        try:
            message = config.load(path)
        except SpecError:
            text = f"failed to load '{name}', failed to poll from model repository"
            raise FakeError(500, "INTERNAL", text) from None
        message.name = name
        policy = message.dynamic_batching.default_queue_policy
        return _Model(
            config.signature(message),
            message,
            queue_max=policy.max_queue_size or QUEUE_MAX_DEFAULT,
            timeout_us=policy.default_timeout_microseconds or TIMEOUT_US_DEFAULT,
        )


def check_inputs(name: str, signature: Signature, inputs: Sequence[FakeTensor]) -> None:
    """Refuse inputs the model does not take, in Triton's order and words."""
    expected = {one.name: one for one in signature.inputs}
    if len(inputs) != len(expected):
        raise _refused(f"expected {len(expected)} inputs but got {len(inputs)} inputs for model '{name}'")
    for one in inputs:
        if one.name not in expected:
            text = f"unexpected inference input '{one.name}' for model '{name}'"
            raise FakeError(400, "INVALID_ARGUMENT", text)
    for one in inputs:
        _check_tensor(name, expected[one.name], one, signature.max_batch_size)


def make_outputs(
    signature: Signature, inputs: Sequence[FakeTensor], wanted: Sequence[str] = ()
) -> list[FakeTensor]:
    """Make the outputs a signature promises, from the inputs alone."""
    chosen = [one for one in signature.outputs if not wanted or one.name in wanted]
    return [_output(one, signature, inputs) for one in chosen]


def _refused(text: str) -> FakeError:
    return FakeError(400, "INVALID_ARGUMENT", _UNKNOWN_ID + text)


def _check_tensor(model: str, spec: TensorSpec, given: FakeTensor, batch_max: int) -> None:
    name = f"'{spec.name}'"
    if given.datatype != spec.datatype:
        text = (
            f"inference input {name} data-type is '{given.datatype}', but model '{model}' expects '{spec.datatype}'"
        )
        raise _refused(text)
    if batch_max and (not given.shape or given.shape[0] > batch_max):
        raise _refused(f"inference request batch-size must be <= {batch_max} for '{model}'")
    if len(given.shape) != len(spec.shape) or any(
        want not in (-1, size) for want, size in zip(spec.shape, given.shape, strict=True)
    ):
        expected, got = (_text(shape) for shape in (spec.shape, given.shape))
        raise _refused(f"unexpected shape for input {name} for model '{model}'. Expected {expected}, got {got}. ")
    _check_size(model, spec, given)


def _check_size(model: str, spec: TensorSpec, given: FakeTensor) -> None:
    count = math.prod(given.shape)
    if spec.datatype == "BYTES":
        try:
            found = len(split_elements(memoryview(given.data)))
        except ValueError as error:
            raise _refused(f"incomplete string data for input '{spec.name}' for model '{model}': {error}") from None
        if found != count:
            raise _refused(
                f"expected {count} string elements for input '{spec.name}' for model '{model}', got {found}"
            )
    elif len(given.data) != count * DATATYPE_BYTES[spec.datatype]:
        wanted = count * DATATYPE_BYTES[spec.datatype]
        text = f"input byte size mismatch for input '{spec.name}' for model '{model}'. Expected {wanted}, got "
        raise _refused(text + str(len(given.data)))


def _text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _output(spec: TensorSpec, signature: Signature, inputs: Sequence[FakeTensor]) -> FakeTensor:
    by_name = {one.name: one for one in inputs}
    for source in signature.inputs:
        if (source.datatype, source.shape) == (spec.datatype, spec.shape) and source.name in by_name:
            echoed = by_name[source.name]
            return FakeTensor(spec.name, spec.datatype, echoed.shape, echoed.data)
    if not signature.max_batch_size:
        shape = tuple(1 if size == -1 else size for size in spec.shape)
        return FakeTensor(
            spec.name, spec.datatype, shape, _values(spec, shape, {k: v.data for k, v in by_name.items()})
        )
    rows = inputs[0].shape[0]
    row_shape = tuple(1 if size == -1 else size for size in spec.shape[1:])
    parts = [_values(spec, row_shape, {one.name: _row(one, row) for one in inputs}) for row in range(rows)]
    return FakeTensor(spec.name, spec.datatype, (rows, *row_shape), b"".join(parts))


def _row(tensor: FakeTensor, row: int) -> bytes:
    if tensor.datatype == "BYTES":
        elements = split_elements(memoryview(tensor.data))
        size = len(elements) // tensor.shape[0]
        return b"\0".join(elements[row * size : (row + 1) * size])
    size = len(tensor.data) // tensor.shape[0]
    return tensor.data[row * size : (row + 1) * size]


def _values(spec: TensorSpec, shape: Sequence[int], inputs: Mapping[str, bytes]) -> bytes:
    """Make the bytes of one output (or one row of it) from a hash of its name and the inputs."""
    seed = hashlib.shake_256(spec.name.encode())
    for name, data in sorted(inputs.items()):
        seed.update(struct.pack("<II", len(name), len(data)) + name.encode() + data)
    count = math.prod(shape)
    if spec.datatype == "BYTES":
        text = seed.hexdigest(count * _TEXT_CHARS // 2).encode()
        cuts = range(0, count * _TEXT_CHARS, _TEXT_CHARS)
        return b"".join(struct.pack("<I", _TEXT_CHARS) + text[cut : cut + _TEXT_CHARS] for cut in cuts)
    if spec.datatype in _FLOATS:
        words = struct.unpack(f"<{count}H", seed.digest(2 * count))
        return _FLOATS[spec.datatype]([word / 0xFFFF for word in words])
    raw = seed.digest(count * DATATYPE_BYTES[spec.datatype])
    return bytes(byte & 1 for byte in raw) if spec.datatype == "BOOL" else raw


def _bf16(values: Sequence[float]) -> bytes:
    wide = struct.pack(f"<{len(values)}f", *values)
    return b"".join(wide[at + 2 : at + 4] for at in range(0, len(wide), 4))


_FLOATS: Final = {
    "FP16": lambda values: struct.pack(f"<{len(values)}e", *values),
    "FP32": lambda values: struct.pack(f"<{len(values)}f", *values),
    "FP64": lambda values: struct.pack(f"<{len(values)}d", *values),
    "BF16": _bf16,
}
