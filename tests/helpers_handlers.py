"""Handlers in tests: write a file, load it, call it as the server does."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shoal.runtime import handlers
from shoal.runtime.handlers import Registry
from shoal.runtime.messages import Context, Request, Response

EVENT = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "com.example.x"}
JSON = {"content-type": "application/json"}


@contextmanager
def clean_imports() -> Iterator[None]:
    """Forget what a test imported and put on the path."""
    path, modules = list(sys.path), set(sys.modules)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if name.partition(".")[0] in ("handler", "main") or name.startswith("beside_"):
                del sys.modules[name]


def load(
    folder: Path, text: str, *, filename: str = "handler.py", env: Mapping[str, str] | None = None
) -> Registry:
    """Write a handler file and load it."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / filename).write_text(textwrap.dedent(text))
    return handlers.load(folder, filename, env or {})


def request(
    method: str = "POST", path: str = "/", headers: Mapping[str, str] = {}, body: bytes = b"", query: str = ""
) -> Request:
    """Make a request."""
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request(method, path, query.encode(), pairs, body)


async def on_thread(work: Callable[[], Any]) -> Any:
    """Run synchronous work as the server does: off the loop."""
    return await asyncio.to_thread(work)


async def call(registry: Registry, asked: Request) -> Response:
    """Answer a request; errors pass."""
    context = Context("rid", "", 0.0, "filetype", "filetype-00001", asked)
    return await registry.dispatch(asked)(asked, context, on_thread)


async def body_of(response: Response) -> bytes:
    """Give a response's whole body."""
    if isinstance(response.body, bytes):
        return response.body
    return b"".join([chunk async for chunk in response.body])
