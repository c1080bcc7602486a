"""Nothing a handler writes is taken for what it declares unless it looks so, and none of it floods a terminal."""

from __future__ import annotations

import json

import pytest

from shoal.core.errors import DeployError, UsageError
from shoal.platform.local import descriptions

GOOD = {
    "handlers": [{"name": "h", "kind": "http", "methods": ["POST"]}],
    "models": [
        {"name": "m", "inputs": {"a": "FP32[1]"}, "outputs": None, "called_inputs": ["a"], "complete": True}
    ],
    "modules": [],
}


def test_a_description_is_read_from_among_other_lines() -> None:
    found = descriptions.read(0, ["noise", '{"handlers": 5}', json.dumps(GOOD), "[]"], "handler.py")
    assert [item["name"] for item in found.handlers] == ["h"]
    assert found.models[0]["inputs"] == {"a": "FP32[1]"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"handlers": 5},
        {"handlers": 5, "models": [], "modules": []},
        {**GOOD, "handlers": [{"name": "h"}]},
        {**GOOD, "handlers": [{"name": "h", "kind": "http", "more": "x"}]},
        {**GOOD, "handlers": [{"name": "h", "kind": "http", "methods": "POST"}]},
        {**GOOD, "models": [{"name": 5}]},
        {**GOOD, "models": [{"name": "m", "inputs": {"a": 5}}]},
        {**GOOD, "models": {}},
    ],
)
def test_what_has_another_shape_is_no_description(wrong: object) -> None:
    with pytest.raises(DeployError, match=r"handler\.py ended the check"):
        descriptions.read(0, [json.dumps(wrong)], "handler.py")


def test_a_problem_is_raised_as_its_kind() -> None:
    usage = {"type": "urn:shoal:problem:usage", "detail": "a rule", "hint": "do this", "retry_after_s": "x"}
    with pytest.raises(UsageError, match="a rule") as raised:
        descriptions.read(1, [json.dumps(usage)], "handler.py")
    assert raised.value.hint == "do this"
    with pytest.raises(DeployError, match="boom"):
        descriptions.read(1, [json.dumps({"detail": "boom"})], "handler.py")


def test_texts_of_a_handler_are_bounded() -> None:
    long = "x" * 100_000
    for code, line in ((1, json.dumps({"detail": long, "hint": long})), (-9, long), (0, long), (0, "[" * 100_000)):
        with pytest.raises(DeployError) as raised:
            descriptions.read(code, [line], "handler.py")
        assert len(raised.value.message) + len(raised.value.hint) < 5_000
