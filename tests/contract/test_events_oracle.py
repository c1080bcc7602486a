"""Our CloudEvents codec beside both lines of the official SDK, in both directions.

Left out are the SDK's own departures from the specification: 2.x writes list and string data with a JSON content
type as Python text, and reads non-JSON data as text where it can; 1.x does not percent-encode all it should, and
parses any body that looks like JSON. Neither line tells what it defaults (``id``, ``time``) from what was sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cloudevents.conversion import to_binary as sdk1_to_binary
from cloudevents.conversion import to_structured as sdk1_to_structured
from cloudevents.http import CloudEvent as Sdk1Event
from cloudevents.http import from_http as sdk1_from_http
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers_events import ASCII, JSON_VALUES, TEXT, Sdk2, events, sdk2_folder, wire
from shoal.runtime import event_codec as codec
from shoal.runtime.events import CloudEvent, format_time, parse_time
from shoal.runtime.messages import Request
from shoal.runtime.sdk_events import from_sdk, is_sdk_class, is_sdk_event, to_sdk

OBJECTS = st.dictionaries(st.text(), JSON_VALUES, max_size=3)
ALL = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def sdk2() -> Iterator[Sdk2]:
    cache = Path(os.environ.get("SHOAL_CACHE") or Path.home() / ".cache" / "shoal")
    sdk = Sdk2(sdk2_folder(cache))
    yield sdk
    sdk.close()


def parse(headers: dict[str, str], body: bytes) -> CloudEvent:
    return codec.parse(Request("POST", "/", b"", wire(headers), body))[0]


def told(event: CloudEvent, how: str) -> dict[str, Any]:
    """Give an event's attributes as a mode tells them: in binary mode every extension is a string."""
    attributes = {name: value for name, value in event.attributes.items() if name != "time"}
    if how == "binary":
        attributes |= {name: codec._canonical(value) for name, value in event.extensions.items()}
    return attributes


def time_of(attributes: dict[str, Any]) -> datetime | None:
    time = attributes.get("time")
    return datetime.fromisoformat(time) if isinstance(time, str) else time


def without(attributes: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name not in names and value is not None}


def write(event: CloudEvent, how: str) -> tuple[dict[str, str], bytes]:
    return codec.to_binary(event) if how == "binary" else codec.to_structured(event)


@pytest.mark.parametrize("how", ["binary", "structured"])
@ALL
@given(event=events(), data=OBJECTS | st.binary(min_size=1).map(lambda data: b"\xff" + data))
def test_sdk2_reads_what_we_write(sdk2: Sdk2, how: str, event: CloudEvent, data: Any) -> None:
    kind = "application/json" if isinstance(data, dict) else "image/png"
    event = changed(event, data=data, datacontenttype=kind)
    attributes, read = sdk2.read(*write(event, how))
    assert without(attributes, "time", "data_base64") == told(event, how)
    assert event.time is None or time_of(attributes) == event.time
    assert read == data


@pytest.mark.parametrize("how", ["binary", "structured"])
@ALL
@given(event=events(), data=OBJECTS | st.binary(min_size=1))
def test_we_read_what_sdk2_writes(sdk2: Sdk2, how: str, event: CloudEvent, data: Any) -> None:
    kind = "application/json" if isinstance(data, dict) else "image/png"
    event = changed(
        event, data=data, datacontenttype=kind, extensions={k: str(v) for k, v in event.extensions.items()}
    )
    attributes = event.attributes | ({"time": event.time.isoformat()} if event.time else {})
    read = parse(*sdk2.write(how, attributes, data))
    assert told(read, how) == told(event, how)
    assert event.time is None or read.time == event.time
    assert read.data == data


@pytest.mark.parametrize("how", ["binary", "structured"])
@ALL
@given(event=events(ASCII), data=OBJECTS | st.binary(min_size=1).map(lambda data: b"\xff" + data))
def test_sdk1_reads_what_we_write(how: str, event: CloudEvent, data: Any) -> None:
    kind = "application/json" if isinstance(data, dict) else "image/png"
    event = changed(event, data=data, datacontenttype=kind)
    read = sdk1_from_http(*write(event, how))
    assert without(dict(read.get_attributes()), "time") == told(event, how)
    assert event.time is None or parse_time(read["time"]) == event.time
    assert read.get_data() == data


@pytest.mark.parametrize("how", ["binary", "structured"])
@ALL
@given(event=events(ASCII), data=JSON_VALUES | st.binary(min_size=1))
def test_we_read_what_sdk1_writes(how: str, event: CloudEvent, data: Any) -> None:
    kind = "image/png" if isinstance(data, bytes) else "application/json"
    event = changed(event, data=data, datacontenttype=kind)
    write_sdk = sdk1_to_binary if how == "binary" else sdk1_to_structured
    read = parse(*write_sdk(to_sdk(event, Sdk1Event)))
    assert told(read, how) == told(event, how)
    assert event.time is None or read.time == event.time
    assert read.data == data


@ALL
@given(events(TEXT))
def test_sdk1_events_convert_both_ways(event: CloudEvent) -> None:
    converted = to_sdk(event, Sdk1Event)
    assert is_sdk_class(Sdk1Event)
    assert is_sdk_event(converted)
    back = from_sdk(converted)
    assert (told(back, "structured"), back.data) == (told(event, "structured"), event.data)
    assert event.time is None or (back.time == event.time and converted["time"] == format_time(event.time))


def test_data_that_are_not_json_are_refused_where_both_sdks_let_them_through(sdk2: Sdk2) -> None:
    headers = {
        f"ce-{name}": value
        for name, value in {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}.items()
    }
    headers["content-type"] = "application/json"
    assert sdk1_from_http(headers, b"{oops").get_data() == b"{oops"
    assert sdk2.read(headers, b"{oops")[1] == "{oops"
    with pytest.raises(codec.EventError, match="the data is not JSON"):
        parse(headers, b"{oops")


def changed(event: CloudEvent, **changes: Any) -> CloudEvent:
    """Give the event with some fields changed."""
    names = ("type", "source", "id", "subject", "time", "dataschema", "extensions", "data", "datacontenttype")
    return CloudEvent(**({name: getattr(event, name) for name in names} | changes))
