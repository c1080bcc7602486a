"""JSON as RFC 8259 has it: UTF-8, no NaN, no Infinity; and what of Python's values becomes JSON on the way out."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

JSON_TYPE: Final = "application/json"


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_decode = json.JSONDecoder(parse_constant=_refuse).decode


def loads(text: bytes | str) -> Any:
    """Parse JSON text; raises ValueError with the rule broken, also for text nested too deeply to parse."""
    try:
        return _decode(text.decode() if isinstance(text, bytes) else text)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dumps(value: Any) -> bytes:
    """Write a value as JSON; raises ValueError or TypeError naming what is not JSON."""
    try:
        return _encode(value).encode()
    except UnicodeEncodeError:  # half a surrogate pair has no UTF-8, but has an escape
        return _encode_ascii(value).encode()
    except RecursionError:
        raise ValueError("a value nested too deeply, or within itself, is not JSON") from None
    except TypeError as error:
        raise TypeError(f"{error}{_where(value)}") from None


def _where(value: Any) -> str:
    """Name the field that is not JSON, as `` (field items[2].when)``; nothing for the value itself."""
    try:
        path = next(_culprits(value, ""), "")
    except Exception:  # a value that cannot even be looked at
        path = ""
    return f" (field {path.removeprefix('.')})" if path else ""


def _culprits(value: Any, path: str) -> Iterator[str]:
    """Yield the paths of the values below ``value`` that have no JSON form."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield from _culprits(member, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, member in enumerate(value):
            yield from _culprits(member, f"{path}[{index}]")
    elif not isinstance(value, str | int | float | None):
        try:
            converted = plain(value)
        except TypeError:
            yield path
        else:
            yield from _culprits(converted, path)


def plain(value: Any) -> Any:
    """Give the JSON value a Python object stands for; raises TypeError for one that stands for none."""
    for kind in type(value).__mro__:
        if (convert := _PLAIN.get(kind)) is not None:
            return convert(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return _foreign(value)


def _foreign(value: Any) -> Any:
    """Convert what a library makes, without importing the library: it is loaded if the value exists."""
    if is_pydantic(type(value)):
        return value.model_dump(mode="json", by_alias=True)
    if is_struct(type(value)):
        return sys.modules["msgspec"].to_builtins(value)
    if callable(tolist := getattr(value, "tolist", None)):  # numpy's arrays and numbers, and a model's tensors
        return tolist()
    raise TypeError(f"{a_kind(value)} is not JSON")


def a_kind(value: Any) -> str:
    """Name a value's type with its article: ``a dict``, ``an object``."""
    name = type(value).__qualname__
    return f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"


def is_pydantic(kind: Any) -> bool:
    """Tell whether a class is a pydantic model."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def is_struct(kind: Any) -> bool:
    """Tell whether a class is a msgspec Struct."""
    msgspec = sys.modules.get("msgspec")
    return msgspec is not None and isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _sequence(value: Iterable[Any]) -> list[Any]:
    return list(value)


_PLAIN: Final[dict[type, Callable[[Any], Any]]] = {
    enum.Enum: lambda value: value.value,
    datetime.datetime: lambda value: value.isoformat(),
    datetime.date: lambda value: value.isoformat(),
    datetime.time: lambda value: value.isoformat(),
    uuid.UUID: str,
    decimal.Decimal: str,
    pathlib.PurePath: str,
    bytes: lambda value: base64.b64encode(value).decode(),
    bytearray: lambda value: base64.b64encode(value).decode(),
    set: _sequence,
    frozenset: _sequence,
}
_encode: Final = json.JSONEncoder(default=plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_encode_ascii: Final = json.JSONEncoder(default=plain, allow_nan=False, separators=(",", ":")).encode
