"""From an HTTP message to what the store keeps: the event checked, its attributes as text, its data as it came."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import unquote

from shoal.core import limits
from shoal.core.errors import BodyTooLargeError, MediaTypeError
from shoal.platform.local.delivery import HOPS_EXTENSION, hops_of
from shoal.platform.local.events_store import NewEvent
from shoal.runtime import event_codec
from shoal.runtime.events import CloudEvent
from shoal.runtime.messages import Headers

BATCH_BYTES_MAX = 8 * limits.EVENT_BYTES_MAX


def bytes_max(headers: Headers) -> int:
    """Give the limit of a message's body; MediaTypeError when the message carries no event."""
    return BATCH_BYTES_MAX if _mode(headers) == "batch" else limits.EVENT_BYTES_MAX


def read_events(headers: Headers, body: bytes, broker: str) -> list[NewEvent]:
    """Read the events of a message; EventError, MediaTypeError or BodyTooLargeError with the rule broken."""
    how = _mode(headers)
    if how == "binary":
        return [_kept(event_codec.from_binary(headers, body), broker, body)]
    events = event_codec.from_batch(body) if how == "batch" else [event_codec.from_structured(body)]
    return [_kept(event, broker) for event in events]


def to_new_event(event: CloudEvent, broker: str, *, hops: int) -> NewEvent:
    """Prepare an event for the store; ``hops`` counts the replies that lie behind it."""
    return _kept(replace(event, extensions={**event.extensions, HOPS_EXTENSION: str(hops)}), broker)


def _kept(event: CloudEvent, broker: str, body: bytes | None = None) -> NewEvent:
    """Take binary data over byte for byte; other data as the codec writes it."""
    headers, data = event_codec.to_binary(event)
    kept = data if body is None else body
    if len(kept) > limits.EVENT_BYTES_MAX:
        raise BodyTooLargeError(f"the event's data has {len(kept)} bytes; the limit is {limits.EVENT_BYTES_MAX}")
    return NewEvent(broker, _attributes(headers), headers, kept, hops_of(event))


def _attributes(headers: dict[str, str]) -> dict[str, str]:
    """Give the attributes' canonical text, which filters compare."""
    texts = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
    if "content-type" in headers:
        texts["datacontenttype"] = headers["content-type"]
    return texts


def _mode(headers: Headers) -> str:
    how = event_codec.mode(headers)
    if how:
        return how
    raise MediaTypeError(
        "the message carries no CloudEvent",
        hint="send ce-id, ce-source, ce-type and ce-specversion headers, or application/cloudevents+json",
    )
