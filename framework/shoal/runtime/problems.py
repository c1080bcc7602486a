"""Errors as a caller of the function sees them: a problem document that names the failing component.

No traceback, no text of a foreign exception, nothing a secret could hide in.
"""

from __future__ import annotations

import json
from typing import Final

from shoal.core.errors import HandlerError, RequestError, ShoalError, UsageError
from shoal.core.problems import headers, to_problem
from shoal.runtime.messages import Response

_CALLERS: Final = range(400, 500)


def from_exception(error: BaseException) -> ShoalError:
    """Give the error a caller may see: the tree's own, and a HandlerError without detail for all else.

    A UsageError inside a handler is the handler's mistake, not its caller's; so is a RequestError of its own with
    a status that does not say so.
    """
    if isinstance(error, RequestError) and error.status not in _CALLERS:
        return HandlerError(f"the handler raised {type(error).__name__} with a status that is not 400 to 499")
    if isinstance(error, ShoalError) and not isinstance(error, UsageError):
        return error
    return HandlerError("the handler raised an exception; the function's log has it under this request id")


def document(error: ShoalError, request_id: str) -> dict[str, object]:
    """Describe ``error`` with its code and the request's id; only a caller's own mistake comes with its hint."""
    problem: dict[str, object] = {**to_problem(error), "code": error.code, "request_id": request_id}
    if not isinstance(error, RequestError):
        problem.pop("hint", None)
    return problem


def response(error: ShoalError, request_id: str) -> Response:
    """Answer with ``error``."""
    return Response(json.dumps(document(error, request_id)).encode(), error.status, headers(error))
