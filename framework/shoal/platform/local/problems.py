"""Errors as application/problem+json (RFC 9457), the one form in which the local platform's processes refuse."""

from __future__ import annotations

import json
from typing import Final

from aiohttp import web

from shoal.core.errors import ShoalError
from shoal.core.problems import headers
from shoal.core.problems import to_problem as document

__all__ = ["SERVER_NAME", "document", "response"]

SERVER_NAME: Final = "shoal"


def response(error: ShoalError, component: str = "", *, close: bool = False) -> web.Response:
    """Answer with a problem; ``close`` ends the connection, for requests whose body was not read."""
    answer = web.Response(
        status=error.status,
        headers={**headers(error), "Server": SERVER_NAME},
        body=json.dumps(document(error, component)).encode(),
    )
    if close:
        answer.force_close()
    return answer
