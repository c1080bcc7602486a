"""CloudEvents 1.0.2: the event a handler sees, and the rules its attributes obey.

A broker drops or repeats what breaks a rule, so every rule is checked on the way in and again on the way out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from shoal.core.errors import EventError
from shoal.core.limits import EVENT_ATTRIBUTE_BYTES_MAX, EVENT_EXTENSIONS_MAX

Extension = str | int | bool

SPECVERSION: Final = "1.0"
REQUIRED: Final = ("specversion", "id", "source", "type")
OPTIONAL: Final = ("subject", "time", "datacontenttype", "dataschema")
RESERVED: Final = frozenset((*REQUIRED, *OPTIONAL, "data"))
NO_EXTENSIONS: Final[Mapping[str, Extension]] = MappingProxyType({})

_INT32: Final = range(-(2**31), 2**31)
_NAME: Final = re.compile(r"[a-z0-9]+")
# Core specification, "Type System", String: no control characters, no half surrogate pairs, no noncharacters.
_ILLEGAL: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
)
_MEDIA_TYPE: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*(;.*)?")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:(\d\d)(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """One event. ``id``, ``source`` and ``time`` left empty are filled in when a handler's reply is sent.

    ``data`` is what ``datacontenttype`` says: a JSON value, a str for ``text/*``, else bytes; None without data.
    ``extensions`` hold str, and from structured mode also int and bool.
    """

    type: str
    source: str = ""
    id: str = ""
    specversion: str = SPECVERSION
    subject: str | None = None
    time: datetime | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    extensions: Mapping[str, Extension] = field(default_factory=lambda: NO_EXTENSIONS)
    data: Any = None

    @property
    def attributes(self) -> dict[str, Any]:
        """All context attributes that are set, extensions among them; ``time`` as a datetime."""
        return dict(iter_attributes(self))

    def __hash__(self) -> int:
        return hash((self.source, self.id))  # what identifies an event by the specification


def iter_attributes(event: CloudEvent) -> Iterator[tuple[str, Any]]:
    """Yield the context attributes that are set, the required ones first."""
    for name in (*REQUIRED, *OPTIONAL):
        if value := getattr(event, name):
            yield name, value
    yield from event.extensions.items()


def checked(event: CloudEvent) -> CloudEvent:
    """Return the event if it may be sent, else raise EventError with the rule."""
    check_required(event.specversion, event.id, event.source, event.type)
    for name, value in iter_attributes(event):
        if name == "time":
            if not isinstance(value, datetime) or value.tzinfo is None:
                raise EventError(f"attribute time is {value!r}: it must be a datetime with a time zone")
        else:
            check_value(name, value)
    if event.datacontenttype:
        check_media_type(event.datacontenttype)
    check_extensions(event.extensions)
    return event


def completed(event: CloudEvent, *, source: str, now: float, new_id: Callable[[], str]) -> CloudEvent:
    """Fill in what is left empty of ``id``, ``source`` and ``time`` (``now``: seconds since the epoch)."""
    return replace(
        event,
        id=event.id or new_id(),
        source=event.source or source,
        time=event.time or datetime.fromtimestamp(now, UTC),
    )


def check_required(specversion: str, identity: str, source: str, kind: str) -> None:
    """Raise EventError unless the four required attributes are set and the version is ours."""
    if specversion == SPECVERSION and identity and source and kind:
        return
    for name, value in zip(REQUIRED, (specversion, identity, source, kind), strict=True):
        if not value:
            raise EventError(f"attribute {name} is missing: an event needs {', '.join(REQUIRED)}, each not empty")
    raise EventError(f"attribute specversion is {specversion!r}: only {SPECVERSION!r} is understood")


def check_value(name: str, value: Any) -> None:
    """Raise EventError unless the value is a legal Boolean, Integer (32 bits) or String of limited size."""
    if isinstance(value, str):
        check_text(name, value)
    elif not isinstance(value, int):
        raise EventError(f"attribute {name} is {_named(value)}: it must be a string, an integer or a boolean")
    elif name in RESERVED:
        raise EventError(f"attribute {name} is {_named(value)}: it must be a string")
    elif value not in _INT32:
        raise EventError(f"attribute {name} is {value}: an integer attribute has 32 bits")


def check_text(name: str, text: str) -> None:
    """Raise EventError unless the text is a legal String of limited size."""
    if len(text) > EVENT_ATTRIBUTE_BYTES_MAX or not (text.isascii() and text.isprintable()):
        if found := _ILLEGAL.search(text):
            raise EventError(f"attribute {name} holds U+{ord(found[0]):04X}: control characters are not allowed")
        if (size := len(text.encode())) > EVENT_ATTRIBUTE_BYTES_MAX:
            raise EventError(f"attribute {name} has {size} bytes: {EVENT_ATTRIBUTE_BYTES_MAX} at most")


def check_extensions(extensions: Mapping[str, Any]) -> None:
    """Raise EventError unless the extensions' names and number are legal."""
    if len(extensions) > EVENT_EXTENSIONS_MAX:
        raise EventError(f"the event has {len(extensions)} extension attributes: {EVENT_EXTENSIONS_MAX} at most")
    for name in extensions:
        if not is_name(name) or name in RESERVED:
            raise EventError(
                f"extension name {name[:64]!r} is not usable: only a-z and 0-9, and none of the core's names"
            )


def is_name(name: str) -> bool:
    """Tell whether an attribute may have this name: lower-case letters and digits of ASCII."""
    return _NAME.fullmatch(name) is not None


def check_media_type(value: str) -> None:
    """Raise EventError unless the value is a media type, ``type/subtype`` with optional parameters."""
    if _MEDIA_TYPE.fullmatch(value) is None:
        raise EventError(
            f"attribute datacontenttype is {value[:64]!r}: it must be a media type, as application/json"
        )


def parse_time(value: str) -> datetime:
    """Parse an RFC 3339 timestamp (past microseconds truncated); raises EventError with the rule."""
    if (found := _TIME.fullmatch(value)) is not None:
        try:
            return datetime.fromisoformat(value.upper()) if found[1] != "60" else _leap(value.upper(), found)
        except (ValueError, OverflowError):
            pass  # 30 February has the form, but is no day
    raise EventError(f"attribute time is {value[:64]!r}: it must be RFC 3339, as 2025-01-31T12:00:00Z")


def _leap(value: str, found: re.Match[str]) -> datetime:
    """Read a leap second, which RFC 3339 has and datetime has not, as the second after it: what POSIX does."""
    return datetime.fromisoformat(f"{value[: found.start(1)]}59{value[found.end(1) :]}") + timedelta(seconds=1)


def format_time(value: datetime) -> str:
    """Write a timestamp as RFC 3339; in UTC where its offset is not of whole minutes, which RFC 3339 cannot say."""
    offset = value.utcoffset()
    if offset is not None and offset % timedelta(minutes=1):
        value = value.astimezone(UTC)
    return value.isoformat().replace("+00:00", "Z")


def _named(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
