"""What a handler declares, found by importing it in a process of its own, as the runtime would."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.core.errors import DeployError, SpecError, UsageError
from shoal.core.limits import DESCRIBE_SECONDS_MAX
from shoal.core.problems import from_problem
from shoal.platform.local import environment
from shoal.spec.function import FunctionSpec


@dataclass(frozen=True, slots=True)
class Described:
    """What a handler file declares."""

    handlers: Sequence[Mapping[str, Any]] = ()
    models: Sequence[Mapping[str, Any]] = ()

    @property
    def event_types(self) -> list[str]:
        """The types of its event handlers; "" takes any."""
        return [str(item.get("type") or "") for item in self.handlers if item["kind"] == "event"]

    def wanted(self, spec: FunctionSpec) -> dict[str, str]:
        """Map each alias to a model in the repository: as function.yaml says, else the same name."""
        return {str(model["name"]): str(model["name"]) for model in self.models} | dict(spec.models or {})

    @property
    def summary(self) -> str:
        """Handlers and models, for people."""
        handlers = ", ".join(f"{item['name']} ({item['kind']})" for item in self.handlers)
        models = ", ".join(str(model["name"]) for model in self.models)
        return handlers + (f"; models: {models}" if models else "")


def describe(folder: Path, spec: FunctionSpec) -> Described:
    """Import the handler and give what it declares; raises the problem it has, SpecError for a file without any."""
    found = _imported(folder, spec)
    if not found.handlers:
        hint = "decorate a function with @http or @event"
        raise SpecError("no handler in it", where=str(folder / spec.handler), hint=hint)
    return found


def _imported(folder: Path, spec: FunctionSpec) -> Described:
    argv = environment.describe_command(folder, spec.handler)
    with tempfile.TemporaryDirectory(prefix="shoal-") as scratch:
        env = {**environment.base(Path(scratch)), **spec.env, "K_SERVICE": spec.name}
        try:
            ended = subprocess.run(
                argv, env=env, cwd=folder, capture_output=True, timeout=DESCRIBE_SECONDS_MAX, check=False
            )
        except subprocess.TimeoutExpired:
            raise DeployError(f"importing {spec.handler} took over {DESCRIBE_SECONDS_MAX:g} s") from None
    for line in reversed(ended.stdout.decode("utf-8", "replace").splitlines()):
        if (said := _object(line)) is not None:
            return _read(said)
    last = ended.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    raise DeployError(f"{spec.handler} cannot be imported: {''.join(last) or f'exit code {ended.returncode}'}")


def _read(said: Mapping[str, Any]) -> Described:
    if "handlers" in said:
        return Described(said["handlers"], said.get("models", ()))
    error = from_problem(said)
    raise error if isinstance(error, UsageError) else DeployError(error.message, hint=error.hint)


def _object(line: str) -> Mapping[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and ("handlers" in found or "detail" in found) else None
