"""docs/function.schema.json is what the models say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from shoal.spec import schema
from shoal.spec.function import Delivery, EnvFrom, FunctionSpec, Resources, Scale, Trigger

KEPT = Path(__file__).parents[3] / "docs" / "function.schema.json"


def test_the_kept_schema_is_current() -> None:
    command = "python -m shoal.spec.schema > docs/function.schema.json"
    assert KEPT.read_text() == schema.text(), f"out of date: {command}"


def test_the_module_prints_it() -> None:
    out = subprocess.run([sys.executable, "-m", "shoal.spec.schema"], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == schema.schema()


def test_it_knows_the_keys_of_the_file_and_no_others() -> None:
    found = schema.schema()
    keys = "shoal name description handler models timeout concurrency threads scale env envFrom resources triggers"
    assert set(found["properties"]) == set(keys.split())
    for model in (FunctionSpec, Delivery, EnvFrom, Resources, Scale, Trigger):
        part: dict[str, Any] = found if model is FunctionSpec else found["$defs"][model.__name__]
        assert part["additionalProperties"] is False


def test_defaults_of_durations_are_durations() -> None:
    timeout = schema.schema()["properties"]["timeout"]
    assert re.fullmatch(timeout["pattern"], timeout["default"])
