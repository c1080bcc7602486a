"""What a handler declares, as the process that imported it wrote it down.

The handler's own code runs in that process and may write, or end, what it likes: nothing of its output is taken
for a description that does not have a description's shape.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shoal.core import limits
from shoal.core.errors import DeployError, UsageError
from shoal.core.problems import from_problem
from shoal.core.text import bounded
from shoal.platform.local.processes import describe_end

_REASON_LINES: Final = 5
_HANDLER_KEYS: Final = frozenset({"name", "kind", "path", "methods", "type", "source"})
_PROBLEM_CHARS_MAX: Final = 4 * limits.ERROR_TEXT_CHARS_MAX  # a handler's text, and the path of the line it is from


@dataclass(frozen=True, slots=True)
class Described:
    """What a handler file declares."""

    handlers: Sequence[Mapping[str, Any]] = ()
    models: Sequence[Mapping[str, Any]] = ()
    modules: Sequence[str] = ()


def read(code: int, lines: Sequence[str], handler: str) -> Described:
    """Find the description in what the process wrote before it ended with ``code``.

    Raises the UsageError it names, else DeployError with its reason, or with the last lines when it gives none.
    """
    for found in _objects(lines):
        if code == 0 and (described := _described(found)):
            return described
        if code and isinstance(found.get("detail"), str):
            told = {
                key: bounded(str(found.get(key) or ""), _PROBLEM_CHARS_MAX) for key in ("type", "detail", "hint")
            }
            error = from_problem(told)
            raise error if isinstance(error, UsageError) else DeployError(error.message, hint=error.hint)
    said = "".join(f"\n  | {bounded(line)}" for line in lines[-_REASON_LINES:])
    if code == 0:
        reason = f"{handler} ended the check: importing it ended the process before it could say what it declares"
        raise DeployError(f"{reason}{said}", hint=f"no os._exit() where {handler} is imported")
    raise DeployError(f"{handler} cannot be imported ({describe_end(code)}){said}")


def _objects(lines: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Give the JSON objects among the lines, the newest first: the description is written last."""
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found


def _described(found: Mapping[str, Any]) -> Described | None:
    handlers, models, modules = (found.get(key) for key in ("handlers", "models", "modules"))
    if _list_of(handlers, _is_handler) and _list_of(models, _is_model) and _list_of(modules, _is_text):
        return Described(handlers or (), models or (), modules or ())
    return None


def _is_handler(item: Any) -> bool:
    if not isinstance(item, dict) or not _list_of(item.get("methods", []), _is_text):
        return False
    texts = [value for key, value in item.items() if key != "methods"]
    return {"name", "kind"} <= item.keys() <= _HANDLER_KEYS and all(map(_is_text, texts))


def _is_model(item: Any) -> bool:
    if not isinstance(item, dict) or not _is_text(item.get("name")):
        return False
    tensors = (item.get(key) or {} for key in ("inputs", "outputs"))
    uses = (item.get(key) or [] for key in ("called_inputs", "used_outputs"))
    return all(_is_texts(part) for part in tensors) and all(_list_of(part, _is_text) for part in uses)


def _is_texts(item: Any) -> bool:
    return isinstance(item, dict) and all(map(_is_text, item.values()))


def _is_text(item: Any) -> bool:
    return isinstance(item, str)


def _list_of(items: Any, rule: Callable[[Any], bool]) -> bool:
    return isinstance(items, list) and all(map(rule, items))
