"""Answers that look alike, told apart; the texts are those a Triton 2.51 gave."""

from __future__ import annotations

import json

import pytest

from shoal.core import errors
from shoal.core.errors import ShoalError
from shoal.triton.classify import from_grpc, from_http

BOTH = [
    (503, "UNAVAILABLE", "[request id: s] Exceeds maximum queue size", errors.ModelOverloadError, True),
    (503, "UNAVAILABLE", "Request timeout expired", errors.ModelDeadlineError, False),
    (503, "UNAVAILABLE", "Request for 'm' version 1 is not at ready state", errors.ModelNotLoadedError, True),
    (503, "UNAVAILABLE", "Server is stopping, scheduler for model has stopped", errors.PoolUnreachableError, True),
    (503, "UNAVAILABLE", "failed to connect to all addresses", errors.PoolUnreachableError, False),
    (404, "NOT_FOUND", "Request for unknown model: 'm' is not found", errors.ModelNotLoadedError, True),
    (
        404,
        "NOT_FOUND",
        "Request for unknown model: 'm' has no available version",
        errors.ModelNotLoadedError,
        True,
    ),
    (404, "NOT_FOUND", "Not Found", errors.PoolProtocolError, False),
    (400, "INVALID_ARGUMENT", "unexpected inference input 'z' for model 'm'", errors.ModelInputError, False),
    (400, "INVALID_ARGUMENT", "load failed for model 'm'", errors.ModelFaultError, False),
    (500, "INTERNAL", "Unable to parse 'data': Shape does not match", errors.ModelInputError, False),
    (500, "INTERNAL", "Failed to process the request(s): boom", errors.ModelFaultError, False),
    (500, "INTERNAL", "Stub process 'm_0_0' is not healthy.", errors.ModelFaultError, False),
    (500, "INTERNAL", "failed to poll from model repository", errors.ModelFaultError, False),
    (501, "UNIMPLEMENTED", "doesn't support models with decoupled transaction", errors.ModelError, False),
]
HTTP = [
    (403, "This API is restricted, expecting header 'key'", errors.PoolForbiddenError, False),
    (400, "Model version not ready", errors.ModelNotLoadedError, True),
    (502, "bad gateway", errors.PoolUnreachableError, False),
    (302, "", errors.PoolProtocolError, False),
    (200, "an error with a good status", errors.PoolProtocolError, False),
]
GRPC = [
    ("UNAVAILABLE", "This protocol is restricted, expecting header 'k'", errors.PoolForbiddenError, False),
    ("DEADLINE_EXCEEDED", "Deadline Exceeded", errors.ModelDeadlineError, False),
    ("CANCELLED", "Locally cancelled", errors.PoolUnreachableError, False),
    ("DATA_LOSS", "", errors.PoolProtocolError, False),
]


@pytest.mark.parametrize(("status", "code", "text", "error", "elsewhere"), BOTH)
def test_both_protocols_agree(status: int, code: str, text: str, error: type[ShoalError], elsewhere: bool) -> None:
    for failure in (from_http("m", status, json.dumps({"error": text}).encode()), from_grpc("m", code, text)):
        assert (type(failure.error), failure.elsewhere) == (error, elsewhere)


@pytest.mark.parametrize(("status", "text", "error", "elsewhere"), HTTP)
def test_http(status: int, text: str, error: type[ShoalError], elsewhere: bool) -> None:
    failure = from_http("m", status, json.dumps({"error": text}).encode())
    assert (type(failure.error), failure.elsewhere) == (error, elsewhere)


@pytest.mark.parametrize(("code", "text", "error", "elsewhere"), GRPC)
def test_grpc(code: str, text: str, error: type[ShoalError], elsewhere: bool) -> None:
    failure = from_grpc("m", code, text)
    assert (type(failure.error), failure.elsewhere) == (error, elsewhere)


def test_no_traceback_and_no_path_of_the_server_gets_out() -> None:
    text = "[request id: a b] Failed to process, message: RuntimeError: boom\n\nAt:\n  /models/m/1/model.py(5): x\n"
    message = from_http("m", 500, json.dumps({"error": text}).encode()).error.message
    assert message == "model m: the pool answered 500: Failed to process, message: RuntimeError: boom"


@pytest.mark.parametrize("body", [b"", b"\xff\xfe{", b'{"error": 5}', b"[1]", b"[" * 100_000, b"<html>" * 50_000])
def test_any_body_becomes_a_short_message(body: bytes) -> None:
    error = from_http("m", 503, body).error
    assert isinstance(error, errors.PoolUnreachableError)
    assert len(error.message) < 600
    assert error.retry_after_s == 1.0
