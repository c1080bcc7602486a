"""A request's body, whole and within its limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from shoal.core.errors import BodyTooLargeError, OverloadError
from shoal.core.limits import DISCARD_BYTES_MAX, DISCARD_SECONDS_MAX, RETRY_AFTER_SECONDS
from shoal.runtime.asgi import Receive
from shoal.runtime.function import Function


class HungUp(Exception):  # noqa: N818  not an error: the caller left
    """The caller closed the connection before its request was complete."""


async def read(
    function: Function, receive: Receive, headers: Mapping[bytes, bytes], first: dict[str, Any] | None
) -> bytes:
    """Give a body of which ``first`` has been received, None for nothing.

    BodyTooLargeError past the limit, OverloadError when too many are on their way, HungUp when the caller leaves.
    """
    limit = function.settings.body_bytes_max
    if first is not None and first["type"] == "http.disconnect":
        raise HungUp
    if (declared := headers.get(b"content-length")) is not None and int(declared) > limit:
        await _discard(receive, headers, first)
        raise _too_large(limit)
    message = first or await _next(receive)
    if function.uploads >= function.admission.slots + function.admission.queue_max:
        raise OverloadError(f"{function.uploads} requests are being received", retry_after_s=RETRY_AFTER_SECONDS)
    function.uploads += 1
    try:
        return await _read_rest(receive, headers, message, limit)
    finally:
        function.uploads -= 1


async def _read_rest(
    receive: Receive, headers: Mapping[bytes, bytes], message: dict[str, Any], limit: int
) -> bytes:
    body = bytearray(message["body"])
    while len(body) <= limit:
        if not message["more_body"]:
            return bytes(body)
        message = await _next(receive)
        body += message["body"]
    body.clear()
    await _discard(receive, headers, message)
    raise _too_large(limit)


async def _next(receive: Receive) -> dict[str, Any]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise HungUp
    return message


async def _discard(receive: Receive, headers: Mapping[bytes, bytes], message: dict[str, Any] | None) -> None:
    """Drop what is still coming, within bounds: a sender cut off in the middle sees a reset, not the answer."""
    seen = 0
    if message is not None or b"expect" not in headers:  # a sender that asks first has sent nothing yet
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS_MAX):
                while seen < DISCARD_BYTES_MAX and (message is None or message["more_body"]):
                    message = await _next(receive)
                    seen += len(message["body"])


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body passes {limit} bytes, the most this function takes")
