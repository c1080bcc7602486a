"""Trace context and request id: the W3C rules, what is kept and what is made."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.runtime.trace import identify

TRACE = b"0af7651916cd43dd8448eb211c80319c"
SPAN = b"b7ad6b7169203331"


def bits() -> Random:
    return Random(7)


def test_the_callers_trace_goes_on_with_a_span_of_our_own() -> None:
    trace_id, header, request_id = identify(b"00-" + TRACE + b"-" + SPAN + b"-01", None, bits().getrandbits)
    assert trace_id == request_id == TRACE.decode()
    version, trace, span, flags = header.split("-")
    assert (version, trace, flags) == ("00", TRACE.decode(), "01")
    assert span != SPAN.decode()
    assert len(span) == 16


def test_only_the_sampled_flag_is_passed_on() -> None:
    assert identify(b"00-" + TRACE + b"-" + SPAN + b"-fe", None, bits().getrandbits)[1].endswith("-00")
    assert identify(b"00-" + TRACE + b"-" + SPAN + b"-03", None, bits().getrandbits)[1].endswith("-01")


def test_a_later_version_may_append_fields() -> None:
    assert identify(b"01-" + TRACE + b"-" + SPAN + b"-01-more", None, bits().getrandbits)[0] == TRACE.decode()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"00",
        b"00-" + TRACE + b"-" + SPAN,
        b"00-" + TRACE.upper() + b"-" + SPAN + b"-01",
        b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"ff-" + TRACE + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + SPAN + b"-01-more",
        b"00-" + TRACE + b"-" + SPAN + b"-01\n",
    ],
)
def test_what_is_no_trace_context_starts_a_new_trace(header: bytes) -> None:
    trace_id, made, _ = identify(header, None, bits().getrandbits)
    assert trace_id != TRACE.decode()
    assert made == f"00-{trace_id}-{made.split('-')[2]}-00"


@pytest.mark.parametrize("value", [b"abc-1", b'"\\', b"x" * 128])
def test_a_usable_request_id_is_kept(value: bytes) -> None:
    assert identify(None, value, bits().getrandbits)[2] == value.decode()


@pytest.mark.parametrize("value", [b"", b"a b", b"x" * 129, b"\xe9", b"a\n"])
def test_any_other_is_replaced_by_the_trace(value: bytes) -> None:
    trace_id, _, request_id = identify(None, value, bits().getrandbits)
    assert request_id == trace_id


def test_ids_are_never_zero() -> None:
    trace_id, header, _ = identify(None, None, lambda _: 0)
    assert int(trace_id, 16) > 0
    assert int(header.split("-")[2], 16) > 0


@given(st.binary(max_size=80), st.binary(max_size=200), st.integers(0, 2**192 - 1))
def test_whatever_comes_in_what_goes_out_is_well_formed(traceparent: bytes, request_id: bytes, number: int) -> None:
    trace_id, header, name = identify(traceparent, request_id, lambda _: number)
    again, _, _ = identify(header.encode(), None, lambda _: 1)
    assert again == trace_id
    assert name.isprintable()
    assert 1 <= len(name) <= 128
