"""Problem documents: one per error class, with nothing in them that is not the caller's to know."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from shoal.core.errors import (
    BodyError,
    HandlerError,
    MethodError,
    ModelOverloadError,
    NotFoundError,
    OverloadError,
    RequestError,
    ShoalError,
    UsageError,
)
from shoal.runtime import problems


def classes(kind: type[ShoalError] = ShoalError) -> Iterator[type[ShoalError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from classes(child)


@pytest.mark.parametrize("kind", list(classes()), ids=lambda kind: kind.__name__)
def test_every_error_of_the_tree_becomes_its_status(kind: type[ShoalError]) -> None:
    response = problems.response(kind("what, the value, the rule"), "r-1")
    assert isinstance(response.body, bytes)
    document = json.loads(response.body)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.status == document["status"] == kind.status
    assert (document["component"], document["request_id"]) == (kind.component, "r-1")
    assert document["detail"] == "what, the value, the rule"
    assert document["type"] == f"urn:shoal:problem:{document['code']}"
    assert document["title"]


def test_only_a_callers_own_mistake_comes_with_its_hint() -> None:
    assert problems.document(BodyError("x", hint="send JSON"), "r")["hint"] == "send JSON"
    assert "hint" not in problems.document(BodyError("x"), "r")
    assert "hint" not in problems.document(ModelOverloadError("x", hint="raise max_queue_size"), "r")


def test_the_time_to_wait_is_whole_seconds_and_never_zero() -> None:
    assert problems.response(OverloadError("x", retry_after_s=0.2), "r").headers["retry-after"] == "1"
    assert problems.response(OverloadError("x", retry_after_s=1.2), "r").headers["retry-after"] == "2"
    assert "retry-after" not in problems.response(OverloadError("x"), "r").headers


def test_a_wrong_method_names_the_right_ones() -> None:
    assert problems.response(MethodError("x", allowed=("GET", "PUT")), "r").headers["allow"] == "GET, PUT"
    assert "allow" not in problems.response(MethodError("x"), "r").headers


def test_the_trees_own_errors_pass_and_all_else_is_hidden() -> None:
    own = NotFoundError("no such pet")
    assert problems.from_exception(own) is own
    for hidden in (ValueError("secret"), UsageError("secret"), SystemExit("secret")):
        told = problems.from_exception(hidden)
        assert type(told) is HandlerError
        assert "secret" not in told.message


class TakenError(RequestError):
    status = 409


class OddError(RequestError):
    status = 499


class KindError(RequestError):
    status = 200


def test_a_handlers_own_request_errors_have_their_status_and_code() -> None:
    for error, status, code, title in [
        (RequestError("no such colour", hint="try red"), 400, "request", "Bad Request"),
        (TakenError("the name is taken"), 409, "taken", "Conflict"),
        (OddError("odd"), 499, "odd", "Client Error"),
    ]:
        assert problems.from_exception(error) is error
        document = problems.document(error, "r")
        assert (document["status"], document["code"], document["title"]) == (status, code, title)
        assert document["component"] == "caller"


def test_a_request_error_that_says_success_is_the_handlers_mistake() -> None:
    told = problems.from_exception(KindError("all is well"))
    assert isinstance(told, HandlerError)
    assert "400 to 499" in told.message
