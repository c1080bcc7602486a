"""The JSON Schema of function.yaml, for editors: ``python -m shoal.spec.schema`` prints it.

It is kept in ``docs/function.schema.json``; a line ``# yaml-language-server: $schema=…`` in a function.yaml makes
an editor complete keys and mark mistakes while typing. The models know more rules than a schema can say.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from shoal.spec import durations
from shoal.spec.function import FunctionSpec


def schema() -> dict[str, Any]:
    """Give the schema as plain data; ``name`` is not required, the folder's name stands in."""
    found = FunctionSpec.model_json_schema(by_alias=True, mode="validation")
    found.pop("required", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_tidy(found), "title": "function.yaml"}


def _tidy(node: Any) -> Any:
    """Drop generated titles, and write the defaults of durations as a file would."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("pattern") == durations.PATTERN and isinstance(node.get("default"), float):
        node = {**node, "default": durations.show(node["default"])}
    return {key: _tidy(value) for key, value in node.items() if key != "title" or not isinstance(value, str)}


def text() -> str:
    """Give the schema as the file holds it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
