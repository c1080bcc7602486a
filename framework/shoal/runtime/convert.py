"""JSON values into what a handler's annotation says, compiled once per handler, checked at each call.

Own code so that dataclasses need no library; pydantic and msgspec are used where a handler brings them. JSON types
are taken strictly (true is no int, "3" is no int); unknown members are ignored: a client may be newer than
the revision that serves it.
"""

from __future__ import annotations

import base64
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import math
import sys
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Union, get_args, get_origin

from shoal.core.errors import BodyError, UsageError
from shoal.runtime.jsontext import is_pydantic, is_struct

Convert = Callable[
    [Any, str], Any
]  # (value, where it stands in the body) -> what the handler gets; raises BodyError

_UNIONS: Final = (Union, types.UnionType)
_LISTS: Final = (list, collections.abc.Sequence, collections.abc.Iterable, set, frozenset)
_DICTS: Final = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_MISSING: Final = dataclasses.MISSING


def converter(kind: Any) -> Convert:
    """Compile the conversion of a JSON value to ``kind``; raises UsageError for a type JSON has no form for."""
    return _Compiler().of(kind)


def text_converter(kind: Any) -> Convert:
    """Compile the conversion of a query parameter's texts (a list of str) to ``kind``."""
    if get_origin(kind) in _UNIONS:
        kind = next((member for member in get_args(kind) if member is not types.NoneType), kind)
    convert = converter(kind)
    if (get_origin(kind) or kind) in _LISTS:
        parse = _TEXT.get((get_args(kind) or (str,))[0], _as_is)
        return lambda texts, path: convert([parse(text, path) for text in texts], path)
    parse = _TEXT.get(kind, _as_is)
    return lambda texts, path: convert(parse(texts[-1], path), path)


def wrong(value: Any, path: str, rule: str) -> BodyError:
    """Make the error for a value that breaks a rule; it names the value's type and not the value."""
    return BodyError(f"{place(path)} is {describe(value)}: it must be {rule}")


def place(path: str) -> str:
    """Name a place in the body."""
    return f"field {path}" if path else "the body"


def describe(value: Any) -> str:
    """Name a JSON value's type as JSON does."""
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        dict: "an object",
        list: "an array",
    }
    return names.get(type(value), f"a {type(value).__name__}")


class _Compiler:
    """Compiles one annotation; knows the classes seen, so that a class may hold itself."""

    def __init__(self) -> None:
        self._seen: dict[Any, Convert] = {}

    def of(self, kind: Any) -> Convert:
        """Compile the conversion to ``kind``."""
        kind = bare(kind)
        if (scalar := _SCALARS.get(kind) if isinstance(kind, collections.abc.Hashable) else None) is not None:
            return scalar
        origin, arguments = get_origin(kind) or kind, get_args(kind)
        if origin in _UNIONS:
            return self._union(arguments)
        if origin is Literal:
            return _one_of(arguments, " or ".join(map(repr, arguments)))
        if origin in _LISTS:
            return self._list(origin, arguments)
        if origin in _DICTS:
            return self._dict(arguments)
        if origin is tuple:
            return self._tuple(arguments)
        return self._class(kind)

    def _class(self, kind: Any) -> Convert:
        if kind in self._seen:
            return lambda value, path: self._seen[kind](value, path)
        self._seen[kind] = _as_is  # replaced below; a class that holds itself looks it up at the call
        self._seen[kind] = self._class_now(kind)
        return self._seen[kind]

    def _class_now(self, kind: Any) -> Convert:
        if is_pydantic(kind):
            return lambda value, path: pydantic_checked(kind.model_validate, value, path)
        if is_struct(kind):
            return lambda value, path: struct_checked(sys.modules["msgspec"].convert, value, kind, path=path)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self._dataclass(kind)
        if typing.is_typeddict(kind):
            return self._typed_dict(kind)
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return _enum(kind)
        raise UsageError(f"{type_name(kind)} has no JSON form")

    def _dataclass(self, kind: type[Any]) -> Convert:
        hints = hints_of(kind)
        members = [
            (item.name, self.of(hints[item.name]), item.default is _MISSING and item.default_factory is _MISSING)
            for item in dataclasses.fields(kind)
            if item.init
        ]

        def convert(value: Any, path: str) -> Any:
            if not isinstance(value, dict):
                raise wrong(value, path, f"an object ({kind.__name__})")
            return built(kind, _members(value, members, path), path)

        return convert

    def _typed_dict(self, kind: Any) -> Convert:
        marks = typing.get_type_hints(kind, include_extras=True)  # __required_keys__ misses postponed NotRequired
        optional = {name for name, mark in marks.items() if get_origin(mark) is typing.NotRequired}
        required = kind.__required_keys__ - optional
        members = [(name, self.of(hint), name in required) for name, hint in hints_of(kind).items()]

        def convert(value: Any, path: str) -> Any:
            if not isinstance(value, dict):
                raise wrong(value, path, f"an object ({kind.__name__})")
            return value | _members(value, members, path)

        return convert

    def _list(self, origin: Any, arguments: tuple[Any, ...]) -> Convert:
        item = self.of(arguments[0]) if arguments else _as_is
        make = origin if origin in (set, frozenset) else list

        def convert(value: Any, path: str) -> Any:
            if not isinstance(value, list):
                raise wrong(value, path, "an array")
            return make(value if item is _as_is else [item(each, f"{path}[{i}]") for i, each in enumerate(value)])

        return convert

    def _tuple(self, arguments: tuple[Any, ...]) -> Convert:
        if len(arguments) != 2 or arguments[1] is not Ellipsis:
            return self._fixed_tuple([self.of(argument) for argument in arguments])
        items = self._list(list, arguments[:1])
        return lambda value, path: tuple(items(value, path))

    def _fixed_tuple(self, items: list[Convert]) -> Convert:
        def convert(value: Any, path: str) -> Any:
            if not isinstance(value, list) or len(value) != len(items):
                raise wrong(value, path, f"an array of {len(items)}")
            return tuple(
                item(each, f"{path}[{i}]") for i, (item, each) in enumerate(zip(items, value, strict=True))
            )

        return convert

    def _dict(self, arguments: tuple[Any, ...]) -> Convert:
        if arguments and arguments[0] not in (str, Any):
            raise UsageError(f"a dict of {type_name(arguments[0])} keys has no JSON form: keys are str")
        item = self.of(arguments[1]) if arguments else _as_is

        def convert(value: Any, path: str) -> Any:
            if not isinstance(value, dict):
                raise wrong(value, path, "an object")
            return value if item is _as_is else {key: item(each, under(path, key)) for key, each in value.items()}

        return convert

    def _union(self, members: tuple[Any, ...]) -> Convert:
        options = [self.of(member) for member in members if member is not types.NoneType]
        nullable = types.NoneType in members
        rule = " or ".join(type_name(member) for member in members if member is not types.NoneType)

        def convert(value: Any, path: str) -> Any:
            if value is None and nullable:
                return None
            return _first_fit(options, value, path, rule + (" or null" if nullable else ""))

        return convert


def _first_fit(options: list[Convert], value: Any, path: str, rule: str) -> Any:
    """Convert by the first option that takes the value; with one option its own error is the precise one."""
    if len(options) == 1:
        return options[0](value, path)
    for option in options:
        try:
            return option(value, path)
        except BodyError:
            continue
    raise wrong(value, path, rule)


def _members(value: Mapping[str, Any], members: list[tuple[str, Convert, bool]], path: str) -> dict[str, Any]:
    """Convert an object's known members."""
    found: dict[str, Any] = {}
    for name, convert, required in members:
        if name in value:
            found[name] = convert(value[name], under(path, name))
        elif required:
            raise BodyError(f"field {under(path, name)} is missing")
    return found


def built(kind: Callable[..., Any], members: dict[str, Any], path: str) -> Any:
    """Make the object; a ValueError of its own checks is the caller's mistake."""
    try:
        return kind(**members)
    except ValueError as error:
        raise BodyError(f"{place(path)} is not taken: {error}") from error


def under(path: str, name: str) -> str:
    """Give the path of a member."""
    return f"{path}.{name}" if path else name


def bare(kind: Any) -> Any:
    """Strip ``Annotated`` and ``NewType``."""
    while get_origin(kind) is typing.Annotated or isinstance(kind, typing.NewType):
        kind = kind.__supertype__ if isinstance(kind, typing.NewType) else get_args(kind)[0]
    return kind


def hints_of(thing: Any) -> dict[str, Any]:
    """Resolve annotations; raises UsageError naming the name that is not there."""
    try:
        return typing.get_type_hints(thing)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise UsageError(f"an annotation of {thing.__qualname__} cannot be read: {error}") from error


def type_name(kind: Any) -> str:
    """Write a type as in source."""
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


def pydantic_checked(validate: Callable[[Any], Any], value: Any, path: str) -> Any:
    """Validate by pydantic; its first complaint becomes a BodyError without the value."""
    try:
        return validate(value)
    except sys.modules["pydantic"].ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        where = path + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in found[0]["loc"])
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise BodyError(f"{place(where.removeprefix('.'))}: {found[0]['msg']}{more}") from None


def struct_checked(validate: Callable[..., Any], *arguments: Any, path: str = "") -> Any:
    """Validate by msgspec; its complaint becomes a BodyError."""
    try:
        return validate(*arguments)
    except sys.modules["msgspec"].MsgspecError as error:
        raise BodyError(f"{place(path)} is not taken: {error}") from None


def _as_is(value: Any, path: str) -> Any:
    return value


def _exactly(kind: type, rule: str) -> Convert:
    def convert(value: Any, path: str) -> Any:
        if type(value) is not kind:
            raise wrong(value, path, rule)
        return value

    return convert


def _float(value: Any, path: str) -> float:
    if type(value) not in (int, float):
        raise wrong(value, path, "a number")
    try:
        return float(value)
    except OverflowError:
        raise wrong(value, path, "a number of 64 bits") from None


def _parsed(parse: Callable[[str], Any], rule: str) -> Convert:
    """Take a string that ``parse`` takes."""

    def convert(value: Any, path: str) -> Any:
        if isinstance(value, str):
            try:
                return parse(value)
            except (ValueError, ArithmeticError):
                pass
        raise wrong(value, path, rule)

    return convert


def _decimal(value: Any, path: str) -> decimal.Decimal:
    if type(value) in (int, float):
        return decimal.Decimal(str(value))
    return _parsed(decimal.Decimal, "a number, or a string with one")(value, path)  # type: ignore[no-any-return]


def _one_of(options: tuple[Any, ...], rule: str) -> Convert:
    def convert(value: Any, path: str) -> Any:
        if not any(value == option and type(value) is type(option) for option in options):
            raise wrong(value, path, rule)
        return value

    return convert


def _enum(kind: type[enum.Enum]) -> Convert:
    rule = "one of " + ", ".join(repr(member.value) for member in kind)

    def convert(value: Any, path: str) -> Any:
        try:
            return kind(value)
        except ValueError:
            raise wrong(value, path, rule) from None

    return convert


def _text_int(text: str) -> int:
    if not text.removeprefix("-").isdecimal():  # int() also takes spaces and underscores
        raise ValueError
    return int(text)


def _text_float(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError
    return number


def _text_bool(value: Any, path: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
    except KeyError:
        raise wrong(value, path, "true or false") from None


_SCALARS: Final[dict[Any, Convert]] = {
    Any: _as_is,
    object: _as_is,
    str: _exactly(str, "a string"),
    int: _exactly(int, "an integer"),
    bool: _exactly(bool, "true or false"),
    types.NoneType: _exactly(types.NoneType, "null"),
    float: _float,
    bytes: _parsed(lambda text: base64.b64decode(text, validate=True), "a string of standard base64"),
    datetime.datetime: _parsed(datetime.datetime.fromisoformat, "a date and time, as 2025-01-31T12:00:00Z"),
    datetime.date: _parsed(datetime.date.fromisoformat, "a date, as 2025-01-31"),
    datetime.time: _parsed(datetime.time.fromisoformat, "a time, as 12:00:00"),
    uuid.UUID: _parsed(uuid.UUID, "a UUID"),
    decimal.Decimal: _decimal,
}
_TEXT: Final[dict[Any, Convert]] = {
    int: _parsed(_text_int, "an integer"),
    float: _parsed(_text_float, "a number"),
    bool: _text_bool,
}
