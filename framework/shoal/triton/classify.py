"""Which error a replica's answer is: status and text together, as the status alone does not say.

503 (gRPC UNAVAILABLE) is a full queue, an expired request, a missing key, a draining server or a model that loads;
500 is a caller's mistake, a model that raised, or a dead backend process. The texts are those of Triton 2.51.
"""

from __future__ import annotations

import json
import re
from typing import Final, NamedTuple

from shoal.core.errors import (
    ModelDeadlineError,
    ModelError,
    ModelFaultError,
    ModelInputError,
    ModelNotLoadedError,
    ModelOverloadError,
    PoolForbiddenError,
    PoolProtocolError,
    PoolUnreachableError,
    ShoalError,
)
from shoal.core.limits import ERROR_TEXT_CHARS_MAX, RETRY_AFTER_SECONDS


class Failure(NamedTuple):
    """An error, and whether another replica may be asked: True only when the request surely did not run."""

    error: ShoalError
    elsewhere: bool


class Rule(NamedTuple):
    """One line of the table: an answer with ``status`` or ``code`` whose text holds ``text`` is ``error``."""

    status: int
    code: str
    text: str
    error: type[ShoalError]
    elsewhere: bool = False
    hint: str = ""


_SEE_POOL: Final = "see the pool's log: shoal logs pool"
_SEE_MODELS: Final = "see what the pool holds: shoal status"

# First match wins; an empty text matches any.
RULES: Final = (
    Rule(503, "UNAVAILABLE", "Exceeds maximum queue size", ModelOverloadError, elsewhere=True),
    Rule(503, "UNAVAILABLE", "Request timeout expired", ModelDeadlineError),
    Rule(503, "UNAVAILABLE", "is not at ready state", ModelNotLoadedError, elsewhere=True, hint=_SEE_MODELS),
    Rule(503, "UNAVAILABLE", "protocol is restricted", PoolForbiddenError),
    Rule(503, "UNAVAILABLE", "stopp", PoolUnreachableError, elsewhere=True),
    Rule(503, "UNAVAILABLE", "Server not ready", PoolUnreachableError, elsewhere=True),
    Rule(503, "UNAVAILABLE", "", PoolUnreachableError),
    Rule(502, "", "", PoolUnreachableError),
    Rule(504, "DEADLINE_EXCEEDED", "", ModelDeadlineError),
    Rule(404, "NOT_FOUND", "unknown model", ModelNotLoadedError, elsewhere=True, hint=_SEE_MODELS),
    Rule(403, "PERMISSION_DENIED", "", PoolForbiddenError),
    Rule(401, "UNAUTHENTICATED", "", PoolForbiddenError),
    Rule(
        501, "UNIMPLEMENTED", "", ModelError, hint="a decoupled model answers in a stream; call one that does not"
    ),
    Rule(500, "INTERNAL", "failed to poll from model repository", ModelFaultError, hint=_SEE_POOL),
    Rule(500, "INTERNAL", "failed to parse the request JSON", ModelInputError),
    Rule(500, "INTERNAL", "Unable to parse", ModelInputError),
    Rule(
        500,
        "INTERNAL",
        "Stub process",
        ModelFaultError,
        hint="its process died: unload the model and load it again",
    ),
    Rule(500, "INTERNAL", "", ModelFaultError, hint=_SEE_POOL),
    Rule(400, "INVALID_ARGUMENT", "load failed", ModelFaultError, hint=_SEE_POOL),
    Rule(400, "INVALID_ARGUMENT", "not ready", ModelNotLoadedError, elsewhere=True, hint=_SEE_MODELS),
    Rule(400, "INVALID_ARGUMENT", "", ModelInputError),
    Rule(413, "OUT_OF_RANGE", "", ModelInputError),
    Rule(499, "CANCELLED", "", PoolUnreachableError),
)

_REQUEST_ID: Final = re.compile(r"^\[request id: [^]]*\] ")
_TRACEBACK: Final = re.compile(
    r"\s*\n\s*At:\n.*", re.DOTALL
)  # a python model's error ends with paths of the server


def from_http(model: str, status: int, body: bytes) -> Failure:
    """Classify an HTTP answer that is not 200; its body holds ``{"error": "..."}``."""
    text = _error_text(body)
    for rule in RULES:
        if rule.status == status and rule.text in text:
            return _failure(model, rule, str(status), text)
    text = f"model {model}: status {status} is none of Triton's ({_clean(text) or 'no text'})"
    return Failure(PoolProtocolError(text, hint="is the pool's address that of a Triton server?"), elsewhere=False)


def from_grpc(model: str, code: str, text: str) -> Failure:
    """Classify a gRPC error; ``code`` is the status code's name, as in ``UNAVAILABLE``."""
    for rule in RULES:
        if rule.code == code and rule.text in text:
            return _failure(model, rule, code, text)
    return Failure(
        PoolProtocolError(f"model {model}: {code} is none of Triton's ({_clean(text)})"), elsewhere=False
    )


def _failure(model: str, rule: Rule, status: str, text: str) -> Failure:
    retry_after = RETRY_AFTER_SECONDS if rule.error.temporary else None
    message = f"model {model}: the pool answered {status}: {_clean(text) or 'no text'}"
    return Failure(rule.error(message, hint=rule.hint, retry_after_s=retry_after), rule.elsewhere)


def _error_text(body: bytes) -> str:
    try:
        answer = json.loads(body[: 64 * 1024])
    except (ValueError, RecursionError):
        return body[:ERROR_TEXT_CHARS_MAX].decode(errors="replace")
    text = answer.get("error") if isinstance(answer, dict) else None
    return text if isinstance(text, str) else ""


def _clean(text: str) -> str:
    """One line, without the id the caller knows and the traceback the caller must not see."""
    text = _TRACEBACK.sub("", _REQUEST_ID.sub("", text))
    return " ".join(text.split())[:ERROR_TEXT_CHARS_MAX]
