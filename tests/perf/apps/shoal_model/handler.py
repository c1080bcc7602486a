"""One call to a model on the pool, through shoal's client."""

from shoal import Model, http

model = Model("batching_identity")


@http
async def call(body: bytes) -> bytes:
    """Send 256 floats through the model."""
    out = await model(x=body)
    return bytes(out["y"].data)
