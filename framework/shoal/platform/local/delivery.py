"""What becomes of a delivery: pure rules, after Knative's broker, so that a function behaves the same on both.

A delivery's states and what moves it between them are the table ``TRANSITIONS``; the store applies it. A function's
answer is judged by ``judge``:

- no answer, >= 500, 404, 408, 409, 429, or 2xx with a body that is no event: tried again, until the trigger's
  retries are used up; then it is a dead letter.
- any other status: final, a dead letter at once.
- 2xx without a body: done. 2xx with one event: done, and that event is published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from random import Random
from typing import Any, Final, Literal

from shoal.core import limits
from shoal.core.errors import ShoalError, UsageError
from shoal.runtime import event_codec
from shoal.runtime.events import CloudEvent
from shoal.runtime.messages import Headers

State = Literal["pending", "retrying", "done", "dead", "dropped"]
Verb = Literal["done", "retry", "dead", "drop", "redrive"]

TRANSITIONS: Final[Mapping[tuple[State, Verb], State]] = {
    ("pending", "done"): "done",
    ("pending", "retry"): "retrying",
    ("pending", "dead"): "dead",
    ("pending", "drop"): "dropped",
    ("retrying", "done"): "done",
    ("retrying", "retry"): "retrying",
    ("retrying", "dead"): "dead",
    ("retrying", "drop"): "dropped",
    ("dead", "redrive"): "pending",
    ("dead", "drop"): "dropped",
}
OPEN_STATES: Final = ("pending", "retrying")  # still to be delivered
HOPS_EXTENSION: Final = "shoalhops"  # how many replies an event is away from one that came from outside
_RETRIED: Final = frozenset({404, 408, 409, 429})
_JITTER: Final = 0.1  # of a wait, on top, so that what failed together does not come back together


@dataclass(frozen=True, slots=True)
class Trigger:
    """Who gets which events of a broker, and how often it is tried."""

    name: str
    function: str
    broker: str = "default"
    filter: Mapping[str, str] = field(default_factory=dict)
    retry: int = 5
    backoff_policy: str = "exponential"
    backoff_delay_s: float = 0.2
    timeout_s: float = limits.TIMEOUT_SECONDS_DEFAULT

    def matches(self, broker: str, attributes: Mapping[str, str]) -> bool:
        """Say whether an event passes: every filter attribute present, and equal unless the filter's is ""."""
        return broker == self.broker and all(
            name in attributes and wanted in ("", attributes[name]) for name, wanted in self.filter.items()
        )

    def backoff(self, attempts: int, rng: Random) -> float:
        """Seconds to wait after ``attempts`` failures: delay x 2^n or delay x n, n from 0, as Knative counts."""
        step = attempts - 1
        factor = float(2**step) if self.backoff_policy == "exponential" else float(step)
        wait = min(self.backoff_delay_s * factor, limits.BACKOFF_SECONDS_MAX)
        return wait * (1 + _JITTER * rng.random())


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from a function; ``status`` None: nothing did, and ``error`` says why."""

    status: int | None
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt means: done, retry or dead; with its code and reason, the reply, the wait asked for."""

    verb: Verb
    code: int | None = None
    reason: str = ""
    reply: CloudEvent | None = None
    retry_after_s: float = 0.0


def parse_triggers(value: Any) -> dict[str, Trigger]:
    """Read the node's list; UsageError when it is not one."""
    try:
        triggers = {item["name"]: _trigger(item) for item in value}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"not a list of triggers: {type(error).__name__}: {error}") from error
    if len(triggers) > limits.TRIGGERS_MAX:
        raise UsageError(f"{len(triggers)} triggers; the broker takes {limits.TRIGGERS_MAX} at most")
    return triggers


def judge(answer: Answer, now: float) -> Verdict:
    """Say what a function's answer means for its delivery; ``now`` (epoch seconds) reads a dated Retry-After."""
    status = answer.status
    if status is None:
        return Verdict("retry", None, answer.error or "no answer")
    if 200 <= status < 300:
        return _judge_success(status, answer)
    if status >= 500 or status in _RETRIED:
        return Verdict("retry", status, _reason(answer), retry_after_s=_retry_after(answer.headers, now))
    return Verdict("dead", status, _reason(answer))


def within_retries(verdict: Verdict, attempts: int, retry: int) -> Verdict:
    """Turn a retry into a dead letter once ``attempts`` have used the trigger's retries up."""
    if verdict.verb != "retry" or attempts <= min(retry, limits.DELIVERY_ATTEMPTS_MAX - 1):
        return verdict
    return Verdict("dead", verdict.code, f"{attempts} attempts failed; the last: {verdict.reason}")


def hops_of(event: CloudEvent) -> int:
    """Read an event's hop count; anything that is not a small number counts as none."""
    value = str(event.extensions.get(HOPS_EXTENSION, ""))
    return int(value) if value.isdecimal() and len(value) <= 4 else 0


def _judge_success(status: int, answer: Answer) -> Verdict:
    try:
        how = event_codec.mode(answer.headers)
        if how in ("binary", "structured"):
            read = event_codec.from_binary(answer.headers, answer.body) if how == "binary" else None
            return Verdict("done", status, reply=read or event_codec.from_structured(answer.body))
    except ShoalError as error:
        return Verdict("retry", status, f"the answer {status} carries an illegal event: {error.message}")
    if how == "batch":
        return Verdict("retry", status, f"the answer {status} carries a batch; a reply is one event")
    if answer.body:
        return Verdict(
            "retry", status, f"the answer {status} has a body that is no CloudEvent; answer 204 or an event"
        )
    return Verdict("done", status)


def _reason(answer: Answer) -> str:
    """Give the status and, where the function explains itself in a problem document, its explanation."""
    detail = ""
    if _header(answer.headers, b"content-type").startswith("application/problem+json"):
        try:
            detail = str(json.loads(answer.body)["detail"])
        except (ValueError, KeyError, TypeError):
            detail = ""
    text = f"answered {answer.status}" + (f": {detail}" if detail else "")
    return text[: limits.BROKER_REASON_CHARS_MAX]


def _retry_after(headers: Headers, now: float) -> float:
    """Read Retry-After, seconds or a date; 0 when there is none or it cannot be read."""
    value = _header(headers, b"retry-after").strip()
    if value.isdecimal() and len(value) <= 9:
        seconds = float(value)
    else:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now
    return min(max(0.0, seconds), limits.RETRY_AFTER_SECONDS_MAX)


def _header(headers: Headers, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in headers if key == name), "")


def _trigger(item: Mapping[str, Any]) -> Trigger:
    trigger = Trigger(
        name=str(item["name"]),
        function=str(item["function"]),
        broker=str(item.get("broker", "default")),
        filter={str(name): str(value) for name, value in item.get("filter", {}).items()},
        retry=int(item.get("retry", 5)),
        backoff_policy=str(item.get("backoff_policy", "exponential")),
        backoff_delay_s=float(item.get("backoff_delay_s", 0.2)),
        timeout_s=float(item.get("timeout_s", limits.TIMEOUT_SECONDS_DEFAULT)),
    )
    if trigger.backoff_policy not in ("exponential", "linear"):
        raise ValueError(f"backoff policy {trigger.backoff_policy!r} is neither exponential nor linear")
    if trigger.retry < 0 or trigger.backoff_delay_s < 0 or not 0 < trigger.timeout_s <= limits.TIMEOUT_SECONDS_MAX:
        raise ValueError(f"trigger {trigger.name} has a negative retry or delay, or a timeout out of range")
    return trigger
