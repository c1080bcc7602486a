"""The fake pool's inference protocol over HTTP, with binary tensors, as Triton 2.51 speaks it."""

from __future__ import annotations

import json
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import web

from shoal.core.limits import POOL_RESPONSE_BYTES_MAX
from shoal.models.fake import FakeError, FakeModels, FakeTensor
from shoal.triton.tensors import DATATYPE_FORMAT, Tensor, TensorSpec

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
SERVER_METADATA: Final = {"name": "shoal-fake", "version": "2.51.0", "extensions": ["binary_tensor_data"]}
_MODEL: Final = "/v2/models/{model}"
_RESTRICTED: Final = "This API is restricted, expecting header 'shoal'"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(models: FakeModels) -> web.Application:
    """Make the web application that answers for ``models``."""
    app = web.Application(client_max_size=POOL_RESPONSE_BYTES_MAX, middlewares=[_refusals])
    api = _Api(models)
    app.router.add_get("/v2", api.server)
    app.router.add_get("/v2/health/live", api.alive)
    app.router.add_get("/v2/health/ready", api.alive)
    for prefix in (_MODEL, f"{_MODEL}/versions/{{version}}"):
        app.router.add_get(prefix, api.metadata)
        app.router.add_get(f"{prefix}/ready", api.ready)
        app.router.add_get(f"{prefix}/config", api.config)
        app.router.add_post(f"{prefix}/infer", api.infer)
    app.router.add_post("/v2/repository/{rest:.*}", api.restricted)
    return app


class _Api:
    def __init__(self, models: FakeModels) -> None:
        self._models = models

    async def server(self, _request: web.Request) -> web.Response:
        return web.json_response(SERVER_METADATA)

    async def alive(self, _request: web.Request) -> web.Response:
        return web.Response(content_type="text/plain")

    async def restricted(self, _request: web.Request) -> web.Response:
        raise FakeError(403, "UNAVAILABLE", _RESTRICTED)

    async def metadata(self, request: web.Request) -> web.Response:
        name, version = _which(request)
        signature = self._models.signature(name, version)
        return web.json_response(
            {
                "name": name,
                "versions": ["1"],
                "platform": "fake",
                "inputs": [_spec(one) for one in signature.inputs],
                "outputs": [_spec(one) for one in signature.outputs],
            }
        )

    async def ready(self, request: web.Request) -> web.Response:
        if not self._models.ready(*_which(request)):
            raise FakeError(400, "", "Model version not ready")
        return web.Response(content_type="text/plain")

    async def config(self, request: web.Request) -> web.Response:
        from google.protobuf import json_format

        name, version = _which(request)
        signature, message = self._models.signature(name, version), self._models.message(name, version)
        said = json_format.MessageToDict(message, preserving_proto_field_name=True) if message is not None else {}
        return web.json_response({"name": name, "max_batch_size": signature.max_batch_size, **said})

    async def infer(self, request: web.Request) -> web.Response:
        name, version = _which(request)
        if self._models.resets(name) and request.transport is not None:
            request.transport.abort()
        self._models.signature(name, version)
        header, binary = _split(request.headers.get(HEADER_LENGTH), await request.read())
        outputs = await self._models.infer(
            name,
            _inputs(header, binary, name),
            version=version,
            wanted=[one["name"] for one in header.get("outputs", ())],
            timeout_us=int(header.get("parameters", {}).get("timeout", 0)),
        )
        return _answer(name, header, outputs)


@web.middleware
async def _refusals(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except FakeError as error:
        return web.json_response({"error": error.text}, status=error.status)
    except web.HTTPException as error:
        return web.json_response({"error": error.reason}, status=error.status)


def _which(request: web.Request) -> tuple[str, str]:
    return request.match_info["model"], request.match_info.get("version", "")


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _split(length: str | None, body: bytes) -> tuple[dict[str, Any], bytes]:
    size = len(body) if length is None else int(length)
    if not 0 < size <= len(body):
        text = f"inference header size should be in range (0, {len(body)}), got: {length}"
        raise FakeError(400, "INVALID_ARGUMENT", text)
    try:
        header: dict[str, Any] = json.loads(body[:size])
    except ValueError as error:
        raise FakeError(500, "INTERNAL", f"failed to parse the request JSON buffer: {error}") from None
    return header, body[size:]


def _inputs(header: Mapping[str, Any], binary: bytes, model: str) -> list[FakeTensor]:
    tensors, offset = [], 0
    for one in header.get("inputs", ()):
        size = one.get("parameters", {}).get("binary_data_size")
        data = _from_json(one) if size is None else binary[offset : offset + size]
        offset += size or 0
        tensors.append(FakeTensor(one["name"], one["datatype"], tuple(one["shape"]), data))
    if offset != len(binary):
        more = f"{abs(offset - len(binary))} additional bytes"
        last = tensors[-1].name if tensors else ""
        text = f"unexpected size for input '{last}', expecting {more} for model '{model}'"
        raise FakeError(400, "INVALID_ARGUMENT", text)
    return tensors


def _from_json(one: Mapping[str, Any]) -> bytes:
    flat = list(_flat(one.get("data", ())))
    if one["datatype"] == "BYTES":
        return b"".join(struct.pack("<I", len(item.encode())) + item.encode() for item in flat)
    try:
        return struct.pack(f"<{len(flat)}{DATATYPE_FORMAT[one['datatype']]}", *flat)
    except struct.error as error:
        raise FakeError(500, "INTERNAL", f"Unable to parse 'data': {error}") from None


def _flat(data: Any) -> list[Any]:
    return [leaf for item in data for leaf in _flat(item)] if isinstance(data, list | tuple) else [data]


def _answer(name: str, header: Mapping[str, Any], outputs: list[FakeTensor]) -> web.Response:
    all_binary = bool(header.get("parameters", {}).get("binary_data_output", False))
    asked = {one["name"]: one.get("parameters", {}) for one in header.get("outputs", ())}
    binary = {one.name: bool(asked.get(one.name, {}).get("binary_data", all_binary)) for one in outputs}
    head = {
        "model_name": name,
        "model_version": "1",
        "outputs": [_described(one, binary[one.name]) for one in outputs],
    }
    if "id" in header:
        head["id"] = header["id"]
    text = json.dumps(head).encode()
    body = b"".join(one.data for one in outputs if binary[one.name])
    if not any(binary.values()):
        return web.Response(body=text, content_type="application/json")
    headers = {HEADER_LENGTH: str(len(text))}
    return web.Response(body=text + body, content_type="application/octet-stream", headers=headers)


def _described(one: FakeTensor, binary: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)}
    if binary:
        return said | {"parameters": {"binary_data_size": len(one.data)}}
    values = list(Tensor(one.name, one.datatype, one.shape, memoryview(one.data)).values)
    return said | {"data": [item.decode() if isinstance(item, bytes) else item for item in values]}
