"""Errors as application/problem+json (RFC 9457), the one form in which the local platform's processes refuse."""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from shoal.core.errors import MethodError, ShoalError

SERVER_NAME: Final = "shoal"
MEDIA_TYPE: Final = "application/problem+json"


def document(error: ShoalError, component: str = "") -> dict[str, Any]:
    """Give the fields of a problem; ``component`` overrides the error's own."""
    fields: dict[str, Any] = {
        "type": f"urn:shoal:problem:{error.code}",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.message,
        "component": component or error.component,
    }
    if error.hint:
        fields["hint"] = error.hint
    if error.retry_after_s is not None:
        fields["retry_after_s"] = error.retry_after_s
    return fields


def response(error: ShoalError, component: str = "", *, close: bool = False) -> web.Response:
    """Answer with a problem; ``close`` ends the connection, for requests whose body was not read."""
    headers = {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store", "Server": SERVER_NAME}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, MethodError) and error.allowed:
        headers["Allow"] = ", ".join(error.allowed)
    answer = web.Response(
        status=error.status, headers=headers, body=json.dumps(document(error, component)).encode()
    )
    if close:
        answer.force_close()
    return answer
