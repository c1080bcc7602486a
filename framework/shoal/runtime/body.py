"""A request's body, whole and within its limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from shoal.core.errors import BodyTooLargeError, OverloadError
from shoal.core.limits import DISCARD_BYTES_MAX, DISCARD_SECONDS_MAX, RETRY_AFTER_SECONDS
from shoal.runtime.function import Function

Receive = Callable[[], Awaitable[dict[str, Any]]]


class HungUp(Exception):  # noqa: N818  not an error: the caller left
    """The caller closed the connection before its request was complete."""


async def read(function: Function, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
    """Give the body; BodyTooLargeError past the limit, OverloadError when too many are on their way, or HungUp."""
    limit = function.settings.body_bytes_max
    if (declared := headers.get(b"content-length")) is not None and int(declared) > limit:
        await _refuse(receive, headers, limit)
    message = await _next(receive)
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False) and len(body) <= limit:
        return body
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
    body = bytearray(message.get("body", b""))
    while len(body) <= limit:
        if not message.get("more_body", False):
            return bytes(body)
        message = await _next(receive)
        body += message.get("body", b"")
    if message.get("more_body", False):
        body.clear()
        await _refuse(receive, headers, limit)
    raise _too_large(limit)


async def _next(receive: Receive) -> dict[str, Any]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise HungUp
    return message


async def _refuse(receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> None:
    """Drop what is still coming, within bounds: a sender cut off in the middle sees a reset, not the answer."""
    seen = 0
    if b"expect" not in headers:  # a sender that asks first has sent nothing yet
        try:
            async with asyncio.timeout(DISCARD_SECONDS_MAX):
                while seen < DISCARD_BYTES_MAX:
                    message = await _next(receive)
                    seen += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            pass
    raise _too_large(limit)


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body passes {limit} bytes, the most this function takes")
