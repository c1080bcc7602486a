"""The rules of CloudEvents 1.0.2, on the way in and on the way out."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_events import events, wire
from shoal.core.errors import EventError, MediaTypeError
from shoal.core.limits import EVENT_ATTRIBUTE_BYTES_MAX, EVENT_BATCH_MAX, EVENT_EXTENSIONS_MAX
from shoal.runtime import event_codec as codec
from shoal.runtime.events import CloudEvent, checked, completed, format_time, parse_time
from shoal.runtime.messages import Headers

LEAST = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
HEADERS = {f"ce-{name}": value for name, value in LEAST.items()}


def binary(body: bytes = b"", **changes: str | None) -> CloudEvent:
    """Read a binary event with some headers changed; None leaves one out."""
    headers = HEADERS | {name.replace("_", "-"): value for name, value in changes.items()}
    return codec.from_binary(wire({name: value for name, value in headers.items() if value is not None}), body)


def structured(**members: Any) -> CloudEvent:
    """Read a structured event with some members changed."""
    return codec.from_structured(json.dumps(LEAST | members))


def canonical(event: CloudEvent) -> CloudEvent:
    """Give the event as binary mode has it: every extension a string, JSON said where it was implied."""
    headers, _ = codec.to_binary(event)
    extensions = {name: codec._canonical(value) for name, value in event.extensions.items()}
    return CloudEvent(
        **{
            name: getattr(event, name) for name in ("type", "source", "id", "subject", "time", "dataschema", "data")
        },
        datacontenttype=headers.get("content-type"),
        extensions=extensions,
    )


@given(events())
def test_binary_mode_returns_what_it_was_given(event: CloudEvent) -> None:
    headers, body = codec.to_binary(event)
    assert codec.from_binary(wire(headers), body) == canonical(event)


@given(events())
def test_structured_mode_returns_what_it_was_given(event: CloudEvent) -> None:
    headers, body = codec.to_structured(event)
    assert codec.mode(wire(headers)) == "structured"
    assert codec.from_structured(body) == event


@given(st.lists(events(), max_size=4))
def test_a_batch_returns_what_it_was_given(batch: list[CloudEvent]) -> None:
    headers, body = codec.to_batch(batch)
    assert codec.mode(wire(headers)) == "batch"
    assert codec.from_batch(body) == batch


@given(events())
def test_http_uses_binary_mode_only_where_nothing_needs_encoding(event: CloudEvent) -> None:
    headers, body = codec.to_http(event)
    if codec.mode(wire(headers)) == "structured":
        assert codec.from_structured(body) == event
    else:
        assert not [value for name, value in headers.items() if name.startswith("ce-") and set('"% ') & set(value)]
        assert codec.from_binary(wire(headers), body) == canonical(event)


HEADER_NAMES = st.sampled_from([*(name.encode() for name in HEADERS), b"ce-x", b"ce-time", b"content-type"])
CONTENT_TYPES = [b"application/json", b"text/plain", b"application/cloudevents+json", b"text/x; charset=utf-16"]
HEADER_VALUES = st.sampled_from([b"1.0", b"a", b"2020-01-01T00:00:00Z", *CONTENT_TYPES]) | st.binary(max_size=20)


@given(st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=9), st.binary(max_size=60))
def test_any_headers_and_body_give_an_event_or_an_event_error(headers: Headers, body: bytes) -> None:
    with contextlib.suppress(EventError):
        codec.to_structured(codec.from_binary(headers, body))  # what was read can be written


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*LEAST, "x", "data"]), inner),
    max_leaves=12,
)


@given(st.binary(max_size=60) | JUNK.map(lambda value: json.dumps(value).encode()))
def test_any_body_gives_events_or_an_event_error(body: bytes) -> None:
    for read in (codec.from_structured, codec.from_batch):
        with contextlib.suppress(EventError):
            read(body)


@given(st.dictionaries(st.text(max_size=12) | st.sampled_from([*LEAST, "time", "data", "data_base64"]), JUNK))
def test_any_members_beside_the_required_give_an_event_or_an_event_error(members: dict[str, Any]) -> None:
    with contextlib.suppress(EventError):
        structured(**members)


@pytest.mark.parametrize("name", list(LEAST))
def test_a_required_attribute_left_out_is_named(name: str) -> None:
    with pytest.raises(EventError, match=f"attribute {name} is missing"):
        binary(**{f"ce_{name}": None})
    with pytest.raises(EventError, match=f"attribute {name} is missing"):
        structured(**{name: ""})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ce_specversion": "0.3"}, "specversion is '0.3'"),
        ({"ce_time": "yesterday"}, "time is 'yesterday': it must be RFC 3339"),
        ({"ce_time": "2025-02-30T00:00:00Z"}, "time is '2025-02-30"),
        ({"ce_subject": ""}, "subject is empty"),
        ({"ce_source": "/%C0%A0"}, "source is not UTF-8"),
        ({"ce_source": "/%00"}, "source holds U\\+0000"),
        ({"ce_datacontenttype": "text/plain"}, "ce-datacontenttype is not allowed"),
        ({"content_type": "json"}, "datacontenttype is 'json'"),
        ({"content_type": "text/plain; charset=klingon"}, "charset 'klingon'"),
        ({"content_type": "text/plain; charset=punycode"}, "charset 'punycode'"),
        ({"content_type": "text/plain; charset=unicode_escape"}, "charset 'unicode_escape'"),
        ({"content_type": "text/plain; charset=base64"}, "charset 'base64'"),
        ({"ce_id": "x" * (EVENT_ATTRIBUTE_BYTES_MAX + 1)}, "id has 4097 bytes: 4096 at most"),
    ],
)
def test_a_mistake_in_headers_is_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(EventError, match=message):
        binary(b"x", **changes)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"type": 5}, "type is a int: it must be a string"),
        ({"x": 1.5}, "x is a float"),
        ({"x": 2**31}, "x is 2147483648: an integer attribute has 32 bits"),
        ({"x": {}}, "x is a dict"),
        ({"Foo": "x"}, "extension name 'Foo'"),
        ({"data": 1, "data_base64": "AA=="}, "both data and data_base64"),
        ({"data_base64": "A"}, "standard base64"),
        ({"data_base64": 7}, "standard base64"),
        ({"data": {}, "datacontenttype": "text/plain"}, "data is a dict"),
        ({"datacontenttype": "json"}, "must be a media type"),
        ({f"x{n}": 1 for n in range(EVENT_EXTENSIONS_MAX + 1)}, "65 extension attributes"),
    ],
)
def test_a_mistake_in_members_is_named(members: dict[str, Any], message: str) -> None:
    with pytest.raises(EventError, match=message):
        structured(**members)


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[NaN]", b"[" * 100_000, b'"' + b"9" * 10], ids=range(5))
def test_data_that_claim_to_be_json_and_are_not_are_refused(body: bytes) -> None:
    with pytest.raises(EventError, match="the data is not JSON"):
        binary(body, content_type="application/json")


def test_an_attribute_given_twice_is_refused() -> None:
    with pytest.raises(EventError, match="id is given twice"):
        codec.from_binary([*wire(HEADERS), (b"ce-id", b"2")], b"")


def test_a_header_of_a_proxy_is_no_extension() -> None:
    assert binary(ce_foo_bar="x").extensions == {}


def test_null_is_the_same_as_left_out() -> None:
    assert structured(subject=None, x=None) == structured()


def test_a_batch_has_a_limit() -> None:
    one = json.dumps(LEAST)
    assert codec.from_batch("[]") == []
    assert len(codec.from_batch(f"[{','.join([one] * EVENT_BATCH_MAX)}]")) == EVENT_BATCH_MAX
    with pytest.raises(EventError, match="the batch has 101 events: 100 at most"):
        codec.from_batch(f"[{','.join([one] * (EVENT_BATCH_MAX + 1))}]")


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),  # the binding's own example
        ("%41%4a", "AJ"),
        ("100%", "100%"),  # Go's SDK does not encode
        ("5%zz", "5%zz"),
        ('"a \\"b\\" c"', 'a "b" c'),
        ('say "x"', 'say "x"'),
        ("a b", "a b"),
        ("%2541", "%41"),  # one round
    ],
)
def test_a_header_value_is_unescaped_once(sent: str, read: str) -> None:
    assert binary(ce_subject=sent).subject == read


def test_a_header_of_raw_utf8_is_read_as_go_sends_it() -> None:
    headers = [*wire(HEADERS), (b"ce-subject", "grün".encode())]
    assert codec.from_binary(headers, b"").subject == "grün"


def test_percent_encoding_is_upper_case_utf8() -> None:
    headers, _ = codec.to_binary(CloudEvent(**LEAST, subject='Euro € "%"'))
    assert headers["ce-subject"] == "Euro%20%E2%82%AC%20%22%25%22"


@pytest.mark.parametrize(
    ("content_type", "body", "data"),
    [
        (None, b"{}", b"{}"),
        ("application/json", b"[1]", [1]),
        ("application/x+JSON ; v=1", b"[1]", [1]),
        ("text/plain", "ä".encode(), "ä"),
        ('text/plain; charset="latin-1"', b"\xe4", "ä"),
        ("image/png", b"\x89", b"\x89"),
        ("application/json", b"", None),
    ],
)
def test_data_are_what_the_content_type_says(content_type: str | None, body: bytes, data: Any) -> None:
    assert binary(body, content_type=content_type).data == data


def test_base64_data_are_read_as_in_binary_mode() -> None:
    assert structured(data_base64="WzFd", datacontenttype="application/json").data == [1]
    assert structured(data_base64="WzFd").data == b"[1]"


@pytest.mark.parametrize(
    ("headers", "how"),
    [
        ([], ""),
        ([(b"content-type", b"application/json")], ""),
        ([(b"ce-id", b"1")], "binary"),
        ([(b"ce-specversion", b"1.0")], "binary"),
        ([(b"ce-foo", b"1")], ""),
        ([(b"content-type", b"Application/CloudEvents+JSON; charset=utf-8")], "structured"),
        ([(b"ce-id", b"1"), (b"content-type", b"application/cloudevents+json")], "structured"),
        ([(b"content-type", b"application/cloudevents-batch+json")], "batch"),
    ],
)
def test_the_mode_is_told_by_the_headers(headers: Headers, how: str) -> None:
    assert codec.mode(headers) == how


def test_an_event_format_other_than_json_is_refused() -> None:
    with pytest.raises(MediaTypeError, match=r"cloudevents\+avro"):
        codec.mode([(b"content-type", b"application/cloudevents+avro")])


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2018-04-05T17:31:00Z", datetime(2018, 4, 5, 17, 31, tzinfo=UTC)),
        ("2018-04-05t17:31:00.123456789z", datetime(2018, 4, 5, 17, 31, 0, 123456, UTC)),
        (
            "2018-04-05T17:31:00+05:30",
            datetime(2018, 4, 5, 17, 31, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        ),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),  # a leap second
    ],
)
def test_time_is_rfc_3339(text: str, moment: datetime) -> None:
    assert parse_time(text) == moment


@pytest.mark.parametrize(
    "text",
    ["", "2018-04-05", "2018-04-05T17:31:00", "20180405T173100Z", "2018-W14-4T17:31:00Z", "٢018-04-05T17:31:00Z"],
)
def test_time_is_nothing_else(text: str) -> None:
    with pytest.raises(EventError, match="must be RFC 3339"):
        parse_time(text)


def test_an_offset_of_seconds_is_written_in_utc() -> None:
    moment = datetime(2020, 1, 1, tzinfo=timezone(timedelta(seconds=30)))
    assert format_time(moment) == "2019-12-31T23:59:30Z"


def test_what_is_left_empty_is_filled_in_and_the_rest_kept() -> None:
    filled = completed(CloudEvent(type="t"), source="/functions/f", now=0.0, new_id=lambda: "42")
    assert (filled.id, filled.source, filled.time) == ("42", "/functions/f", datetime(1970, 1, 1, tzinfo=UTC))
    assert completed(filled, source="/other", now=1.0, new_id=lambda: "43") == filled


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": datetime(2020, 1, 1)}, "time zone"),
        ({"id": ""}, "id is missing"),
        ({"subject": "a\nb"}, "U\\+000A"),
        ({"extensions": {"data": "x"}}, "extension name 'data'"),
        ({"extensions": {"x": None}}, "x is null"),
        ({"datacontenttype": "png"}, "media type"),
        ({"data": {"a": {1, object}}}, "cannot be written as JSON"),
        ({"data": float("nan")}, "cannot be written as JSON"),
        ({"data": {}, "datacontenttype": "image/png"}, "must be str or bytes"),
    ],
)
def test_an_illegal_event_is_not_sent(changes: dict[str, Any], message: str) -> None:
    event = CloudEvent(**(LEAST | changes))
    for write in (codec.to_binary, codec.to_structured, codec.to_http):
        with pytest.raises(EventError, match=message):
            write(event)


def test_a_checked_event_is_the_same_event() -> None:
    event = CloudEvent(**LEAST, extensions={"x": True})
    assert checked(event) is event
    assert event.attributes == LEAST | {"x": True}
    assert len({event, CloudEvent(**LEAST)}) == 2  # same identity, another content
