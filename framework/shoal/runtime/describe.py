"""``python -m shoal.runtime.describe <folder> [handler.py]``: import a handler and print what it declares, as JSON.

A process of its own: what a handler does when imported stays out of the one that asks. Exit code 0, or 1 with a
problem document that names the exception and its line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from shoal.core.errors import HandlerError, ShoalError, UsageError
from shoal.runtime import handlers, problems
from shoal.runtime.failures import failure_of, hint_of
from shoal.runtime.model import declared
from shoal.runtime.scan import Uses, scan

# What the runtime itself never imports: a handler that does pays for it at each cold start.
HEAVY: Final = (
    "aiohttp", "click", "kubernetes", "numpy", "prometheus_client", "pydantic", "rich", "tritonclient", "yaml",
)  # fmt: skip
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
_USAGE: Final = "usage: python -m shoal.runtime.describe FOLDER [FILE]"
_EXIT_USAGE: Final = 2


def describe(folder: Path, filename: str = "handler.py", env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Import the handler and give its handlers, models and heavy modules; raises what its import raises."""
    before = {name for name in HEAVY if name in sys.modules}
    registry = handlers.load(folder, filename, env)
    uses = scan(folder)
    found: list[dict[str, Any]] = [
        {"name": route.name, "kind": "http", **_declared(route, "path", "methods")} for route in registry.http
    ]
    found += [
        {"name": route.name, "kind": "event", **_declared(route, "type", "source")} for route in registry.events
    ]
    if registry.sole is not None and not found:
        found = [{"name": registry.sole.name, "kind": "functions-framework"}]
    return {
        "handlers": found,
        "models": [
            {
                "name": model.name,
                "inputs": declared(model.inputs),
                "outputs": declared(model.outputs),
                **_uses(uses.get(model.name)),
            }
            for model in registry.models
        ],
        "modules": [name for name in HEAVY if name in sys.modules and name not in before],
    }


def problem(error: BaseException, folder: Path) -> dict[str, Any]:
    """Describe why the import failed: a problem document with the exception's type, message and line."""
    failure = failure_of(error, folder)
    place = f" ({failure.where})" if failure.where else ""
    told: ShoalError = HandlerError(f"the handler cannot be imported: {failure.last_line}{place}")
    if isinstance(error, UsageError):  # a rule of ours: what was written is wrong, not what the import did
        told = UsageError(f"{failure.message}{place}")
    about = {"type": failure.type, "message": failure.message, "where": failure.where}
    return {**problems.document(told, ""), "exception": about, "hint": hint_of(error, folder)}


def main(arguments: list[str]) -> int:
    """Run the command; what the handler prints goes to standard error: the JSON is alone on standard output."""
    if not 1 <= len(arguments) <= 2:
        print(_USAGE, file=sys.stderr)
        return _EXIT_USAGE
    folder, filename = Path(arguments[0]), arguments[1] if len(arguments) > 1 else "handler.py"
    out = os.dup(1)
    os.dup2(2, 1)
    code, answer = EXIT_OK, {}
    try:
        answer = describe(folder, filename)
    except BaseException as error:
        code, answer = EXIT_FAILED, problem(error, folder)
    sys.stdout.flush()
    with os.fdopen(out, "w") as file:
        file.write(json.dumps(answer) + "\n")
    return code


def _declared(route: Any, *names: str) -> dict[str, Any]:
    """Give what a decorator says, without what it leaves open; methods as a sorted list."""
    found = {name: value for name in names if (value := getattr(route, name, None))}
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in found.items()}


def _uses(uses: Uses | None) -> dict[str, Any]:
    seen = uses or Uses(complete=False)
    return {
        "called_inputs": sorted(seen.called_inputs),
        "used_outputs": sorted(seen.used_outputs),
        "complete": seen.complete,
    }


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # threads that the handler's import started do not hold up the answer
