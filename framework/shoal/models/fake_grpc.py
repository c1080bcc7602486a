"""The fake pool's gRPC service: control of models, and inference, as Triton 2.51 speaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from shoal.models.fake import FakeError, FakeModels, FakeTensor
from shoal.models.fake_http import SERVER_METADATA
from shoal.triton.tensors import Signature, TensorSpec

_UNLIMITED: Final = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def server(models: FakeModels, host: str, port: int) -> tuple[grpc.aio.Server, int]:
    """Make a server bound to ``host:port`` (0: the kernel chooses) that is not started; give it and its port."""
    made = grpc.aio.server(options=_UNLIMITED)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(models), made)
    return made, int(made.add_insecure_port(f"{host}:{port}"))


class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """One method per call of the protocol; the names are the protocol's."""

    def __init__(self, models: FakeModels) -> None:
        self._models = models

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerMetadataResponse(**SERVER_METADATA)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=self._models.ready(request.name, request.version))

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        signature = await _told(context, lambda: self._models.signature(request.name, request.version))
        return service_pb2.ModelMetadataResponse(
            name=request.name,
            versions=["1"],
            platform="fake",
            inputs=_specs(signature.inputs),
            outputs=_specs(signature.outputs),
        )

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        signature: Signature = await _told(context, lambda: self._models.signature(request.name, request.version))
        message = self._models.message(request.name, request.version)
        if message is None:
            message = model_config_pb2.ModelConfig(name=request.name, max_batch_size=signature.max_batch_size)
        return service_pb2.ModelConfigResponse(config=message)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        rows = [service_pb2.RepositoryIndexResponse.ModelIndex(**row) for row in self._models.index()]
        return service_pb2.RepositoryIndexResponse(models=rows)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        await _told(context, lambda: self._models.load(request.model_name))
        return service_pb2.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        await _told(context, lambda: self._models.unload(request.model_name))
        return service_pb2.RepositoryModelUnloadResponse()

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        inputs = [
            FakeTensor(one.name, one.datatype, tuple(one.shape), data)
            for one, data in zip(request.inputs, request.raw_input_contents, strict=False)
        ]
        try:
            outputs = await self._models.infer(
                request.model_name,
                inputs,
                version=request.model_version,
                wanted=[one.name for one in request.outputs],
                timeout_us=request.parameters["timeout"].int64_param,
            )
        except FakeError as error:
            await context.abort(grpc.StatusCode[error.code], error.text)
        return _answer(request, outputs)


async def _told(context: Any, call: Callable[[], Any]) -> Any:
    """Give what the call gives; what it refuses ends the gRPC call."""
    try:
        return call()
    except FakeError as error:
        await context.abort(grpc.StatusCode[error.code], error.text)
        raise


def _specs(specs: tuple[TensorSpec, ...]) -> list[Any]:
    kind = service_pb2.ModelMetadataResponse.TensorMetadata
    return [kind(name=one.name, datatype=one.datatype, shape=one.shape) for one in specs]


def _answer(request: Any, outputs: list[FakeTensor]) -> Any:
    answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    for one in outputs:
        answer.outputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
        answer.raw_output_contents.append(one.data)
    return answer
