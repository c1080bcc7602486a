"""The CloudEvents SDK's own event classes, of its 1.x and 2.x lines, for handlers that ask for them.

Nothing here imports the SDK: a handler that mentions its class has.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from shoal.core.errors import EventError
from shoal.runtime.events import OPTIONAL, REQUIRED, CloudEvent, format_time, parse_time

_CORE: Final = frozenset((*REQUIRED, *OPTIONAL))


def is_sdk_class(kind: Any) -> bool:
    """Tell whether a class is one of the SDK's event classes."""
    return isinstance(kind, type) and kind.__name__ == "CloudEvent" and kind.__module__.startswith("cloudevents.")


def is_sdk_event(value: Any) -> bool:
    """Tell whether a value is an event of the SDK, or of a class derived from its."""
    return any(is_sdk_class(kind) for kind in type(value).__mro__)


def to_sdk(event: CloudEvent, kind: Any) -> Any:
    """Make the SDK's event: ``time`` is a str in its 1.x line and a datetime in 2.x.

    Raises EventError for what the SDK is stricter about than the specification, as the length of names.
    """
    attributes = event.attributes
    if event.time is not None and not kind.__module__.startswith("cloudevents.core."):
        attributes["time"] = format_time(event.time)
    try:
        return getattr(kind, "create", kind)(attributes, event.data)
    except Exception as error:
        raise EventError(f"the CloudEvents SDK does not take the event: {error}") from error


def from_sdk(value: Any) -> CloudEvent:
    """Read the SDK's event; raises EventError for attributes of types it may not have."""
    attributes: Mapping[str, Any] = value.get_attributes()
    core = {name: attributes[name] for name in _CORE if attributes.get(name) is not None}
    extensions = {name: each for name, each in attributes.items() if name not in _CORE and each is not None}
    if isinstance(moment := core.get("time"), str):
        core["time"] = parse_time(moment)
    elif moment is not None and not isinstance(moment, datetime):
        raise EventError(f"attribute time is a {type(moment).__name__}: it must be a datetime or a string")
    return CloudEvent(**core, extensions=extensions, data=value.get_data())
