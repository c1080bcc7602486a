"""The v2 protocol's binary tensor extension, both ways, for one model: what is constant is made once.

A request is a JSON header, then the raw tensors in input order; an answer the same. The JSON of a call differs only
in its id and deadline from the one before with the same shapes, so both directions keep what they saw.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quote
from typing import Any, Final, NamedTuple

from shoal.core.errors import ModelInputError, PoolProtocolError
from shoal.core.limits import (
    POOL_JSON_BYTES_MAX,
    REQUEST_ID_CHARS_MAX,
    TENSOR_CALLS_CACHED_MAX,
    TENSOR_EMPTY_ROWS_MAX,
    TENSOR_RANK_MAX,
)
from shoal.triton.inputs import Buffer, Input
from shoal.triton.tensors import DATATYPE_BYTES, Signature, Tensor, TensorSpec, split_elements

__all__ = ["Call", "Codec", "Tensor"]

_LAYOUT_KEY_BYTES_MAX: Final = 4096  # longer answer headers are parsed every time
_LENGTH_BYTES: Final = 4  # before each element of BYTES
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Call:
    """A checked request for one model, lacking only what is known when it leaves: its id and its deadline."""

    tail: str  # the JSON from "inputs" on
    buffers: Sequence[Buffer]
    nbytes: int  # of all buffers
    shapes: tuple[tuple[int, ...] | None, ...]  # by input; None: an optional input left out
    outputs: tuple[str, ...] | None  # None: all

    def json(self, request_id: str, timeout_us: int = 0, priority: int = 0) -> str:
        """Give the whole JSON header, ASCII only; ``timeout_us`` and ``priority`` 0 leave the parameter out."""
        parameters = "" if self.outputs else '"binary_data_output":true'
        if timeout_us:
            parameters += f',"timeout":{timeout_us}' if parameters else f'"timeout":{timeout_us}'
        if priority:
            parameters += f',"priority":{priority}' if parameters else f'"priority":{priority}'
        name = f'"id":{quote(request_id[:REQUEST_ID_CHARS_MAX])},' if request_id else ""
        return f'{{{name}"parameters":{{{parameters}}},{self.tail}'

    def body(self, request_id: str = "", timeout_us: int = 0, priority: int = 0) -> tuple[bytes, int]:
        """Give the whole body in one piece, and the length of its JSON part in bytes."""
        head = self.json(request_id, timeout_us, priority).encode("ascii")
        return b"".join((head, *self.buffers)), len(head)


class _Slot(NamedTuple):
    """Where one output lies in an answer's binary part."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    start: int
    end: int


class _Layout(NamedTuple):
    """The outputs an answer's header announces, and the length of the binary part they fill."""

    slots: tuple[_Slot, ...]
    nbytes: int


class Codec:
    """Encodes calls to one model and decodes their answers."""

    def __init__(self, model: str, signature: Signature) -> None:
        self.model = model
        self.signature = signature
        self._inputs = tuple(Input(spec) for spec in signature.inputs)
        self._outputs = {spec.name: spec for spec in signature.outputs}
        self._sized = all(spec.datatype != "BYTES" for spec in signature.inputs)
        self._tails: dict[Any, str] = {}
        self._layouts: dict[Any, _Layout] = {}

    def serves(self, signature: Signature) -> bool:
        """Whether this codec was made for an equal signature; the same object is recognised without comparing."""
        if signature is self.signature:
            return True
        if signature == self.signature:
            self.signature = signature
            return True
        return False

    def encode(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> Call:
        """Check ``inputs`` (name -> array, buffer, nested list or Tensor) against the model and make a call.

        Raises ModelInputError for an unknown or missing name, a wrong datatype, rank or fixed dimension.
        """
        shapes: list[tuple[int, ...] | None] = []
        buffers: list[Buffer] = []
        nbytes = 0
        for slot in self._inputs:
            value = inputs.get(slot.name, _MISSING)
            if value is _MISSING:
                self._check_missing(slot.spec, inputs)
                shapes.append(None)
                continue
            shape, buffer = slot.prepare(value)
            shapes.append(shape)
            buffers.append(buffer)
            nbytes += buffer.nbytes if type(buffer) is memoryview else len(buffer)
        if len(inputs) != len(buffers):
            self._raise_unknown("input", next(name for name in inputs if name not in self._input_names()))
        wanted = tuple(dict.fromkeys(outputs)) if outputs else None
        key = (tuple(shapes), wanted)
        tail = self._tails.get(key) if self._sized else None
        return Call(tail or self._make_tail(key, map(_nbytes, buffers)), buffers, nbytes, key[0], wanted)

    def join(self, calls: Sequence[Call]) -> Call:
        """Make one call of several whose shapes agree past the first dimension: their rows in order."""
        count = len(calls[0].buffers)
        buffers = [call.buffers[index] for index in range(count) for call in calls]
        sizes = [sum(_nbytes(call.buffers[index]) for call in calls) for index in range(count)]
        shapes = tuple(
            None if parts[0] is None else (sum(part[0] for part in parts if part), *parts[0][1:])
            for parts in zip(*(call.shapes for call in calls), strict=True)
        )
        key = (shapes, calls[0].outputs)
        tail = self._tails.get(key) if self._sized else None
        return Call(tail or self._make_tail(key, sizes), buffers, sum(sizes), shapes, calls[0].outputs)

    def decode(
        self,
        body: bytes | bytearray,
        header_length: int | None,
        outputs: tuple[str, ...] | None = None,
        request_id: str = "",
    ) -> dict[str, Tensor]:
        """Give an answer's tensors by name, as views into ``body``; ``header_length`` None: all of it is JSON.

        Raises PoolProtocolError when a length, a name, a datatype or a size does not add up.
        """
        size = len(body) if header_length is None else header_length
        if not 0 <= size <= min(len(body), POOL_JSON_BYTES_MAX):
            raise self._broken(f"its JSON part is {size} bytes of {len(body)}, {POOL_JSON_BYTES_MAX} at most")
        layout = self._layout(bytes(body[:size]), outputs, request_id)
        if size + layout.nbytes != len(body):
            raise self._broken(f"its tensors are {layout.nbytes} bytes long, {len(body) - size} came")
        view = memoryview(body).toreadonly()
        tensors = {
            name: Tensor(name, datatype, shape, view[size + start : size + end])
            for name, datatype, shape, start, end in layout.slots
        }
        for tensor in tensors.values():
            if tensor.datatype == "BYTES":
                self._check_elements(tensor)
        return tensors

    def _layout(self, header: bytes, outputs: tuple[str, ...] | None, request_id: str) -> _Layout:
        """Parse an answer's header, or recognise it: past the id it is the same for the same shapes."""
        start = f'{{"id":"{request_id}",'.encode()
        rest = header[len(start) :] if header.startswith(start) else b""
        key = (rest, outputs)
        if rest and (known := self._layouts.get(key)) is not None:
            return known
        layout = self._parse(header, outputs, request_id)
        if rest and len(rest) <= _LAYOUT_KEY_BYTES_MAX:
            _keep(self._layouts, key, layout)
        return layout

    def _parse(self, header: bytes, outputs: tuple[str, ...] | None, request_id: str) -> _Layout:
        try:
            answer = json.loads(header)
        except (ValueError, RecursionError):
            raise self._broken("its header is not JSON") from None
        if not isinstance(answer, dict) or not isinstance(answer.get("outputs"), list):
            raise self._broken("its header has no list of outputs")
        echoed = answer.get("id", request_id)
        if request_id and echoed != request_id[:REQUEST_ID_CHARS_MAX]:
            raise self._broken(f"it carries the id {str(echoed)[:REQUEST_ID_CHARS_MAX]!r}, not {request_id!r}")
        found: dict[str, _Slot] = {}
        offset = 0
        for entry in answer["outputs"]:
            slot = self._parse_output(entry, offset)
            found[slot.name] = slot
            offset = slot.end
        return _Layout(tuple(self._pick(found, outputs)), offset)

    def _parse_output(self, entry: Any, start: int) -> _Slot:
        if not isinstance(entry, dict):
            raise self._broken("an output is not an object")
        name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
        if not isinstance(name, str) or not isinstance(datatype, str) or datatype not in DATATYPE_BYTES:
            raise self._broken(f"an output has the name {name!r:.80} and the datatype {datatype!r:.80}")
        if not isinstance(shape, list) or len(shape) > TENSOR_RANK_MAX or not all(map(_is_size, shape)):
            raise self._broken(f"output {name!r:.80} has the shape {shape!r:.80}")
        parameters = entry.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is None or not _is_size(size):
            raise self._broken(f"output {name!r:.80} has no binary_data_size")
        self._check_size(name, datatype, shape, size)
        return _Slot(name, datatype, tuple(shape), start, start + size)

    def _check_size(self, name: str, datatype: str, shape: list[int], size: int) -> None:
        count, each = math.prod(shape), DATATYPE_BYTES[datatype]
        fits = count * each == size if each else count * _LENGTH_BYTES <= size
        if not fits or (count == 0 and _is_vast(shape)):
            raise self._broken(f"output {name!r:.80} is {datatype}{shape} in {size} bytes")

    def _pick(self, found: dict[str, _Slot], outputs: tuple[str, ...] | None) -> list[_Slot]:
        """Choose the outputs that were asked for; each must be there, with the datatype the model announced."""
        picked = []
        for name in self._outputs if outputs is None else outputs:
            slot, spec = found.get(name), self._outputs[name]
            if slot is None:
                raise self._broken(f"output {name!r} is missing; it has {', '.join(sorted(found)) or 'none'}"[:400])
            if slot.datatype != spec.datatype:
                raise self._broken(f"output {name!r} is {slot.datatype}, announced as {spec.datatype}")
            picked.append(slot)
        return picked

    def _check_elements(self, tensor: Tensor) -> None:
        try:
            count = len(split_elements(tensor.data))
        except ValueError as error:
            raise self._broken(f"output {tensor.name!r}: {error}") from None
        if count != math.prod(tensor.shape):
            raise self._broken(f"output {tensor.name!r} has {count} elements for the shape {list(tensor.shape)}")

    def _make_tail(self, key: Any, sizes: Iterable[int]) -> str:
        shapes, outputs = key
        parts, rest = [], iter(sizes)
        for slot, shape in zip(self._inputs, shapes, strict=True):
            if shape is not None:
                slot.check_shape(shape)
                parts.append(_input_json(slot.spec, shape, next(rest)))
        tail = f'"inputs":[{",".join(parts)}]{self._outputs_json(outputs)}}}'
        if self._sized:
            _keep(self._tails, key, tail)
        return tail

    def _outputs_json(self, outputs: tuple[str, ...] | None) -> str:
        if not outputs:
            return ""
        for name in outputs:
            if name not in self._outputs:
                self._raise_unknown("output", name)
        asked = (f'{{"name":{quote(name)},"parameters":{{"binary_data":true}}}}' for name in outputs)
        return f',"outputs":[{",".join(asked)}]'

    def _input_names(self) -> list[str]:
        return [spec.name for spec in self.signature.inputs]

    def _check_missing(self, spec: TensorSpec, inputs: Mapping[str, Any]) -> None:
        for name in inputs:
            if name not in self._input_names():
                self._raise_unknown("input", name)
        if not spec.optional:
            raise ModelInputError(
                f"model {self.model} needs the input {spec}, which the call leaves out",
                hint=f"pass {spec.name}=…",
            )

    def _raise_unknown(self, what: str, name: str) -> None:
        import difflib

        known = self._input_names() if what == "input" else list(self._outputs)
        close = difflib.get_close_matches(name, known, n=1)
        raise ModelInputError(
            f"model {self.model} has no {what} {name!r}; it has {', '.join(known) or 'none'}",
            hint=f"did you mean {close[0]!r}?" if close else "",
        )

    def _broken(self, why: str) -> PoolProtocolError:
        return PoolProtocolError(f"the answer for model {self.model} is not the inference protocol: {why}")


def _nbytes(buffer: Buffer) -> int:
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)


def _input_json(spec: TensorSpec, shape: tuple[int, ...], nbytes: int) -> str:
    dims = ",".join(map(str, shape))
    return (
        f'{{"name":{quote(spec.name)},"datatype":"{spec.datatype}","shape":[{dims}],'
        f'"parameters":{{"binary_data_size":{nbytes}}}}}'
    )


def _is_vast(shape: list[int]) -> bool:
    """Whether an empty tensor has dimensions that would fill the memory with empty lists, or that numpy refuses."""
    before = shape[: shape.index(0)]
    return math.prod(before) > TENSOR_EMPTY_ROWS_MAX or math.prod(max(1, size) for size in shape) > 2**40


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _keep(cache: dict[Any, Any], key: Any, value: Any) -> None:
    """Remember, within the limit; past it start over, as the next calls refill what they use."""
    if len(cache) >= TENSOR_CALLS_CACHED_MAX:
        cache.clear()
    cache[key] = value
