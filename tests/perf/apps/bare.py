"""The least a JSON echo can be: a hand-written ASGI application on uvicorn, with no metrics, logs or limits."""

from __future__ import annotations

import json
import os
from typing import Any

import uvicorn

HEADERS = [(b"content-type", b"application/json")]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Read the body, parse it, send it back."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = json.dumps(json.loads(body or b"{}")).encode()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(os.environ["PORT"]), loop="uvloop", http="httptools", ws="none",
        lifespan="off", access_log=False, log_level="warning",
    )  # fmt: skip
