"""The fake pool answers as the real Triton does: the same requests to both, the same answers from both."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from helpers_triton import IDENTITIES, UNLOADED, TritonAddress
from shoal.models.fake_pool import FakePool
from shoal.triton.control import GrpcControl
from shoal.triton.tensors import DATATYPE_BYTES

MODELS = {*IDENTITIES, "batching_identity", "slow", "failing", UNLOADED}
LENGTH = "Inference-Header-Content-Length"
pytestmark = pytest.mark.triton


@dataclass
class Case:
    """One request: method, path, JSON header (or body) and what follows it."""

    path: str
    header: Any = None
    binary: bytes = b""
    method: str = "POST"
    length: str | None = ""  # the header's length as sent; empty: what it is, None: not sent
    words: bool = True  # the error's text is the same too

    def send(self, address: str) -> tuple[int, Any, bytes]:
        """Give status, JSON (numbers of the request id and server names left out) and the bytes after it."""
        head = b"" if self.header is None else self._text()
        headers = {"Content-Type": "application/octet-stream"}
        if self.length is not None and self.header is not None:
            headers[LENGTH] = self.length or str(len(head))
        connection = http.client.HTTPConnection(address, timeout=60)
        try:
            connection.request(self.method, self.path, head + self.binary, headers)
            answer = connection.getresponse()
            body, size = answer.read(), answer.getheader(LENGTH)
        finally:
            connection.close()
        cut = len(body) if size is None else int(size)
        return answer.status, self._comparable(answer.status, body[:cut]), body[cut:]

    def _text(self) -> bytes:
        return self.header if isinstance(self.header, bytes) else json.dumps(self.header).encode()

    def _comparable(self, status: int, text: bytes) -> Any:
        said = json.loads(text) if text else {}
        if status >= 400:
            assert list(said) == ["error"]
            return re.sub(r" NOTE: .*", " ", said["error"]) if self.words else ""
        return {
            key: value for key, value in said.items() if key not in ("platform", "version", "extensions", "name")
        }


def x(shape: list[int], size: int, *, name: str = "x", datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


def infer(*inputs: dict[str, Any], binary: bool = True, **more: Any) -> dict[str, Any]:
    parameters = {"binary_data_output": binary, **more.pop("parameters", {})}
    return {"inputs": list(inputs), "parameters": parameters, **more}


FP32 = "/v2/models/identity_fp32"
BATCH = "/v2/models/batching_identity"
TWO = struct.pack("<2f", 1.5, -2.0)

CASES = {
    "live": Case("/v2/health/live", method="GET"),
    "ready": Case("/v2/health/ready", method="GET"),
    "server metadata": Case("/v2", method="GET"),
    "metadata": Case(FP32, method="GET"),
    "metadata of a batching model": Case(BATCH, method="GET"),
    "metadata of version 1": Case(f"{FP32}/versions/1", method="GET"),
    "metadata of version 2": Case(f"{FP32}/versions/2", method="GET"),
    "metadata of no model": Case("/v2/models/nope", method="GET"),
    "metadata of an unloaded model": Case("/v2/models/unloaded", method="GET"),
    "model ready": Case(f"{FP32}/ready", method="GET"),
    "model ready, version 1": Case(f"{FP32}/versions/1/ready", method="GET"),
    "no model ready": Case("/v2/models/nope/ready", method="GET"),
    "unloaded model ready": Case("/v2/models/unloaded/ready", method="GET"),
    "no such path": Case("/v2/nonsense", method="GET"),
    "infer by GET": Case(f"{FP32}/infer", method="GET"),
    "load over HTTP": Case("/v2/repository/models/slow/load", header={}, length=None),
    "index over HTTP": Case("/v2/repository/index", header={}, length=None),
    "answer": Case(f"{FP32}/infer", infer(x([2], 8)), TWO),
    "answer of version 1": Case(f"{FP32}/versions/1/infer", infer(x([2], 8)), TWO),
    "answer with an id": Case(f"{FP32}/infer", infer(x([2], 8), id="r-1"), TWO),
    "answer without elements": Case(f"{FP32}/infer", infer(x([0], 0)), b""),
    "answer in JSON": Case(f"{FP32}/infer", infer(x([2], 8), binary=False), TWO),
    "one output in binary": Case(
        f"{FP32}/infer",
        infer(x([2], 8), binary=False, outputs=[{"name": "y", "parameters": {"binary_data": True}}]),
        TWO,
    ),
    "input in JSON": Case(
        f"{FP32}/infer", infer({"name": "x", "datatype": "FP32", "shape": [2], "data": [1.5, -2]}), length=None
    ),
    "a batch": Case(f"{BATCH}/infer", infer(x([2, 256], 2048)), bytes(range(256)) * 8),
    "a batch too large": Case(f"{BATCH}/infer", infer(x([65, 256], 65 * 1024)), bytes(65 * 1024)),
    "a batch of other dims": Case(f"{BATCH}/infer", infer(x([1, 255], 1020)), bytes(1020)),
    "no batch dimension": Case(f"{BATCH}/infer", infer(x([256], 1024)), bytes(1024)),
    "no model": Case("/v2/models/nope/infer", infer(x([2], 8)), TWO),
    "version 2": Case(f"{FP32}/versions/2/infer", infer(x([2], 8)), TWO),
    "an unloaded model": Case("/v2/models/unloaded/infer", infer(x([2], 8)), TWO),
    "another input": Case(f"{FP32}/infer", infer(x([2], 8, name="q")), TWO),
    "no input": Case(f"{FP32}/infer", infer(), words=False),
    "two inputs": Case(f"{FP32}/infer", infer(x([2], 8), x([2], 8, name="q")), TWO + TWO, words=False),
    "another datatype": Case(f"{FP32}/infer", infer(x([2], 8, datatype="INT32")), TWO),
    "another rank": Case(f"{FP32}/infer", infer(x([1, 2], 8)), TWO),
    "more shape than bytes": Case(f"{FP32}/infer", infer(x([3], 8)), TWO),
    "fewer bytes than said": Case(f"{FP32}/infer", infer(x([3], 12)), TWO),
    "more bytes than said": Case(f"{FP32}/infer", infer(x([1], 4)), TWO, words=False),
    "another output": Case(f"{FP32}/infer", infer(x([2], 8), outputs=[{"name": "nope"}]), TWO),
    "no JSON": Case(f"{FP32}/infer", b"{nope", words=False),
    "a length past the end": Case(f"{FP32}/infer", b"{}", length="99"),
    "the backend refuses": Case("/v2/models/failing/infer", infer(x([1], 4)), struct.pack("<f", 0.0)),
}


@dataclass
class Both:
    """The address of the real server and the fake one, with the same models."""

    real: TritonAddress
    fake: FakePool


@pytest.fixture
async def both(triton_server: TritonAddress) -> AsyncIterator[Both]:
    async with FakePool(triton_server.repository) as fake:
        for path in triton_server.repository.iterdir():
            fake.models.load(path.name)
        fake.models.unload("unloaded")
        fake.models.turn("failing", fault="the model refused on purpose")
        yield Both(triton_server, fake)


@pytest.mark.parametrize("name", CASES)
async def test_both_answer_alike(name: str, both: Both) -> None:
    real = await asyncio.to_thread(CASES[name].send, both.real.http)
    fake = await asyncio.to_thread(CASES[name].send, both.fake.http)
    assert fake == real


@pytest.mark.parametrize("model", IDENTITIES)
async def test_every_datatype_comes_back_from_both(model: str, both: Both) -> None:
    datatype = IDENTITIES[model]
    binary = b"\x03\0\0\0abc\0\0\0\0" if datatype == "BYTES" else bytes([1, 0] * 12)
    count = 2 if datatype == "BYTES" else len(binary) // DATATYPE_BYTES[datatype]
    case = Case(f"/v2/models/{model}/infer", infer(x([count], len(binary), datatype=datatype)), binary)
    real = await asyncio.to_thread(case.send, both.real.http)
    fake = await asyncio.to_thread(case.send, both.fake.http)
    assert real[0] == 200
    assert real[2] == binary
    assert fake == real


async def test_control_sees_the_same_on_both(both: Both) -> None:
    def look(address: str) -> tuple[Any, ...]:
        control = GrpcControl(address)
        try:
            # Other tests add models of their own to the shared repository: they are not this one's subject.
            index = {name: state for name, (state, _) in control.index().items() if name in MODELS}
            return index, control.metadata("batching_identity"), control.server_ready(), control.server_live()
        finally:
            control.close()

    assert await asyncio.to_thread(look, both.fake.grpc) == await asyncio.to_thread(look, both.real.grpc)
