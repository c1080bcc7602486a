"""The same call in the form users write today: tritonclient's asyncio gRPC client."""

import os

import numpy as np
from tritonclient.grpc import aio as triton

from shoal import http

client = None


@http
async def call(body: bytes) -> bytes:
    """Send 256 floats through the model."""
    global client
    if client is None:
        client = triton.InferenceServerClient(os.environ["BENCH_TRITON_GRPC"])
    x = triton.InferInput("x", [1, 256], "FP32")
    x.set_data_from_numpy(np.frombuffer(body, dtype=np.float32).reshape(1, 256))
    result = await client.infer("batching_identity", [x], client_timeout=10.0)
    return result.as_numpy("y").tobytes()
