"""The rules of delivery: what an answer means, how long to wait, which state follows."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core import limits
from shoal.core.errors import UsageError
from shoal.platform.local import delivery
from shoal.platform.local.delivery import TRANSITIONS, Answer, Trigger, Verdict, judge, within_retries
from shoal.runtime.events import CloudEvent

NOW = 1_700_000_000.0
EVENT = [(b"ce-specversion", b"1.0"), (b"ce-id", b"r"), (b"ce-source", b"/a"), (b"ce-type", b"z")]
STRUCTURED = b'{"specversion":"1.0","id":"r","source":"/a","type":"z"}'


class NoJitter(Random):
    def random(self) -> float:
        return 0.0


def answer(status: int | None, body: bytes = b"", **headers: str) -> Answer:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Answer(status, raw, body)


@pytest.mark.parametrize("status", range(100, 600))
def test_every_status_without_a_body_is_done_retried_or_final(status: int) -> None:
    verb = judge(answer(status), NOW).verb
    if 200 <= status < 300:
        assert verb == "done"
    elif status >= 500 or status in (404, 408, 409, 429):
        assert verb == "retry"
    else:
        assert verb == "dead"


@pytest.mark.parametrize(
    ("given_answer", "verb", "reply"),
    [
        (Answer(None, error="refused"), "retry", ""),
        (Answer(200, EVENT, b""), "done", "r"),
        (Answer(202, [*EVENT, (b"content-type", b"text/plain")], b"hi"), "done", "r"),
        (Answer(200, [(b"content-type", b"application/cloudevents+json")], STRUCTURED), "done", "r"),
        (Answer(200, [(b"content-type", b"application/cloudevents+json")], b"{}"), "retry", ""),
        (Answer(200, [(b"content-type", b"application/cloudevents+json")], b""), "retry", ""),
        (Answer(200, [(b"content-type", b"application/cloudevents-batch+json")], b"[]"), "retry", ""),
        (Answer(200, [(b"content-type", b"application/cloudevents+avro")], b"x"), "retry", ""),
        (Answer(200, EVENT[:2], b""), "retry", ""),
        (Answer(200, [(b"content-type", b"text/html")], b"OK"), "retry", ""),
        (Answer(204, [], b""), "done", ""),
        (Answer(500, EVENT, b""), "retry", ""),  # an event in a failure is no reply
    ],
)
def test_bodies(given_answer: Answer, verb: str, reply: str) -> None:
    verdict = judge(given_answer, NOW)
    assert verdict.verb == verb
    assert (verdict.reply.id if verdict.reply else "") == reply
    assert verdict.verb == "done" or verdict.reason


@given(
    st.integers(100, 599),
    st.binary(max_size=50),
    st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20))),
)
def test_any_answer_has_a_verdict(status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    verdict = judge(Answer(status, [(name.lower(), value) for name, value in headers], body), NOW)
    assert verdict.verb in ("done", "retry", "dead")
    assert 0 <= verdict.retry_after_s <= limits.RETRY_AFTER_SECONDS_MAX
    assert len(verdict.reason) <= limits.BROKER_REASON_CHARS_MAX


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("99999999", limits.RETRY_AFTER_SECONDS_MAX),
        ("-3", 0),
        ("soon", 0),
        ("", 0),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30),
        ("Tue, 14 Nov 2023 22:13:10 GMT", 0),
        ("Tue, 99 Nov 2023 22:13:10 GMT", 0),
    ],
)
def test_retry_after(value: str, seconds: float) -> None:
    assert judge(answer(503, retry_after=value), NOW).retry_after_s == seconds


def test_a_problem_documents_detail_becomes_the_reason() -> None:
    told = judge(answer(503, b'{"detail": "no room"}', content_type="application/problem+json"), NOW)
    assert told.reason == "answered 503: no room"
    for body in (b"", b"{", b"[]", b'{"title": "x"}', b"\xff"):
        assert judge(answer(503, body, content_type="application/problem+json"), NOW).reason == "answered 503"
    assert judge(answer(503, b"<html>secret", content_type="text/html"), NOW).reason == "answered 503"


@pytest.mark.parametrize(
    ("policy", "waits"),
    [("exponential", [0.2, 0.4, 0.8, 1.6, 3.2]), ("linear", [0.0, 0.2, 0.4, 0.6, 0.8])],
)
def test_backoff_counts_as_knative_does(policy: str, waits: list[float]) -> None:
    trigger = Trigger("t", "f", backoff_policy=policy, backoff_delay_s=0.2)
    assert [trigger.backoff(attempts, NoJitter()) for attempts in range(1, 6)] == pytest.approx(waits)


def test_backoff_is_bounded_and_spread() -> None:
    trigger = Trigger("t", "f", backoff_delay_s=30.0)
    waits = [trigger.backoff(limits.DELIVERY_ATTEMPTS_MAX, Random(seed)) for seed in range(50)]
    assert len(set(waits)) == 50
    assert all(limits.BACKOFF_SECONDS_MAX <= wait <= 1.1 * limits.BACKOFF_SECONDS_MAX for wait in waits)


@pytest.mark.parametrize(
    ("attempts", "retry", "verb"), [(1, 0, "dead"), (1, 1, "retry"), (2, 1, "dead"), (20, 99, "dead")]
)
def test_retries_end(attempts: int, retry: int, verb: str) -> None:
    verdict = within_retries(Verdict("retry", 503, "answered 503"), attempts, retry)
    assert verdict.verb == verb
    assert verdict.code == 503
    if verb == "dead":
        assert verdict.reason == f"{attempts} attempts failed; the last: answered 503"
    assert within_retries(Verdict("done", 204), attempts, retry).verb == "done"


def test_the_table_of_states_has_no_way_out_of_an_end_and_a_way_to_each() -> None:
    states, verbs = get_args(delivery.State), get_args(delivery.Verb)
    assert set(TRANSITIONS) <= set(itertools.product(states, verbs))
    assert not [key for key in TRANSITIONS if key[0] in ("done", "dropped")]
    assert {key[0] for key in TRANSITIONS if key[1] == "redrive"} == {"dead"}
    reached, before = {"pending"}, set[str]()
    while reached != before:
        before = set(reached)
        reached |= {after for (state, _), after in TRANSITIONS.items() if state in reached}
    assert reached == set(states)


@pytest.mark.parametrize(
    ("wanted", "attributes", "passes"),
    [
        ({}, {}, True),
        ({"type": "x"}, {"type": "x"}, True),
        ({"type": "x"}, {"type": "X"}, False),
        ({"type": "x", "subject": "s"}, {"type": "x"}, False),
        ({"subject": ""}, {"subject": "anything"}, True),
        ({"subject": ""}, {}, False),
    ],
)
def test_filters(wanted: dict[str, str], attributes: dict[str, str], passes: bool) -> None:
    assert Trigger("t", "f", filter=wanted).matches("default", attributes) is passes
    assert not Trigger("t", "f", filter=wanted).matches("other", attributes)


@pytest.mark.parametrize(
    ("value", "hops"), [("3", 3), ("0", 0), ("-1", 0), ("", 0), ("x", 0), ("99999", 0), (7, 7), (True, 0)]
)
def test_hops(value: Any, hops: int) -> None:
    assert delivery.hops_of(CloudEvent(type="t", extensions={"shoalhops": value})) == hops
    assert delivery.hops_of(CloudEvent(type="t")) == 0


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        [{}],
        [{"name": "t"}],
        [{"name": "t", "function": "f", "retry": -1}],
        [{"name": "t", "function": "f", "retry": "many"}],
        [{"name": "t", "function": "f", "backoff_policy": "none"}],
        [{"name": "t", "function": "f", "timeout_s": 0}],
        [{"name": "t", "function": "f", "filter": ["type"]}],
        [{"name": f"t{index}", "function": "f"} for index in range(limits.TRIGGERS_MAX + 1)],
    ],
)
def test_what_is_no_trigger_is_refused(value: Any) -> None:
    with pytest.raises(UsageError):
        delivery.parse_triggers(value)
