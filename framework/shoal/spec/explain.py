"""From what pydantic found wrong to what the author of the file should change, with the place in the file."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from shoal.core.errors import SpecError
from shoal.core.limits import SPEC_MISTAKES_MAX
from shoal.spec.document import Document, Mistake, Path, Place, dotted, shorten

_WANTED: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "dict_type": "a mapping of 'key: value'",
    "mapping_type": "a mapping of 'key: value'",
    "model_type": "a mapping of 'key: value'",
    "model_attributes_type": "a mapping of 'key: value'",
    "tuple_type": "a list, one '- …' for each",
    "list_type": "a list, one '- …' for each",
}
_NOWHERE: Final = Place((1, 1), (1, 1))


def explain(error: ValidationError, document: Document, model: type[BaseModel]) -> list[Mistake]:
    """Say each error in the file's words; leave out what lies at or below a mistake already told."""
    found = []
    for item in error.errors(include_url=False):
        path: Path = item["loc"]
        if any(path[:size] in document.wrong for size in range(1, len(path) + 1)):
            continue
        path = _known(path, document)
        at, text = _say(item, path, document, model)
        found.append(Mistake(*at, text))
    return found


def spec_error(file: str, mistakes: Iterable[Mistake], *, hint: str = "") -> SpecError:
    """One error for one file: each mistake a line ``file:line:column: text``, in the file's order, bounded."""
    ordered = sorted(set(mistakes))
    lines = [f"{file}:{one.line}:{one.column}: {one.text}" for one in ordered[:SPEC_MISTAKES_MAX]]
    if len(ordered) > SPEC_MISTAKES_MAX:
        lines.append(f"{file}: and {len(ordered) - SPEC_MISTAKES_MAX} more")
    where = f"{file}:{ordered[0].line}:{ordered[0].column}"
    return SpecError("\n".join(lines).removeprefix(f"{where}: "), where=where, hint=hint)


def _known(path: Path, document: Document) -> Path:
    """Cut what pydantic adds (union members, '[key]') until the path is one of the file's."""
    while path and path not in document.places:
        path = path[:-1]
    return path


def _say(item: Any, path: Path, document: Document, model: type[BaseModel]) -> tuple[tuple[int, int], str]:
    place = document.places.get(path, _NOWHERE)
    kind = item["type"]
    if kind == "extra_forbidden":
        return place.key, _unknown_key(path, model)
    name = f"{dotted(path)}: " if path else ""
    if kind == "missing":
        return place.key, f"{name}{item['loc'][-1]!r} is missing"
    if key := item.get("ctx", {}).get("key"):
        return document.places.get((*path, key), place).key, name + _rule(item)
    if kind in _WANTED:
        return place.value, name + _wrong_type(item["input"], place, _WANTED[kind])
    return place.value, name + _rule(item)


def _rule(item: Any) -> str:
    shown, context = shorten(str(item["input"])), item.get("ctx", {})
    match item["type"]:
        case "greater_than_equal":
            return f"{shown} is too small: at least {context['ge']}"
        case "less_than_equal":
            return f"{shown} is too large: at most {context['le']}"
        case "string_too_long":
            return f"{len(item['input'])} characters: {context['max_length']} at most"
        case "literal_error":
            return _literal(item["input"], context["expected"])
    return str(item["msg"])


def _literal(given: Any, expected: str) -> str:
    if expected == "1":
        return f"{shorten(str(given))} is not a format this shoal reads: write 1"
    close = closest(str(given), expected.replace("'", "").split(" or "))
    return f"{shorten(str(given))!r} is not one of {expected}{_meant(close)}"


def _wrong_type(value: Any, place: Place, wanted: str) -> str:
    if value is None:
        return f"no value: {wanted} is expected"
    if wanted == "text" and place.reads_as:
        return f'{place.plain} reads as {place.reads_as} in YAML: for text write "{place.plain}" in quotes'
    return f"{_show(value)} is not {wanted}"


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else shorten(repr(value))


def _unknown_key(path: Path, model: type[BaseModel]) -> str:
    key, parent = str(path[-1]), path[:-1]
    known = _keys(_model_at(parent, model))
    where = f" under {dotted(parent)}" if parent else ""
    elsewhere = [place for place in _all_keys(model) if place.rpartition(".")[2] == key]
    close = closest(key, known)
    if elsewhere and not close:
        return f"unknown key {shorten(key)!r}{where}: it belongs to {' or '.join(elsewhere)}"
    return f"unknown key {shorten(key)!r}{where}{_meant(close) or ': known are ' + ', '.join(known)}"


def closest(given: str, known: Iterable[str]) -> str:
    """Give the known word that looks most like ``given`` (case and '_' aside), or ''."""
    folded = {_fold(word): word for word in known}
    found = difflib.get_close_matches(_fold(given), folded, n=1, cutoff=0.7)
    return folded[found[0]] if found else ""


def _fold(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")


def _meant(close: str) -> str:
    return f"; did you mean {close!r}?" if close else ""


def _keys(model: type[BaseModel] | None) -> list[str]:
    return list(_fields(model)) if model else []


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """Map each key of the file to its field's annotation."""
    fields = model.model_fields.items()
    return {str(field.validation_alias or name): field.annotation for name, field in fields}


def _all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for key, annotation in _fields(model).items():
        found.append(prefix + key)
        if inner := _model_in(annotation):
            found.extend(_all_keys(inner, f"{prefix}{key}."))
    return found


def _model_at(path: Path, model: type[BaseModel] | None) -> type[BaseModel] | None:
    for part in path:
        if isinstance(part, str) and model is not None:
            model = _model_in(_fields(model).get(part))
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Find the model inside ``Model``, ``tuple[Model, ...]`` or ``tuple[Model, ...] | None``."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next(filter(None, map(_model_in, typing.get_args(annotation))), None)
