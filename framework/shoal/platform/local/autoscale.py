"""How many instances a revision should have: a pure function of recent load samples.

Up at once, down slowly: the largest need seen within the revision's window counts, so a short lull ends nothing.
Zero only after a whole window without a request, with nothing in flight and nothing held.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

TARGET_UTILISATION: Final = 0.7  # of the concurrency, as Knative's default
SMOOTHING_SECONDS: Final = 3.0  # a need is an average this long, so that a blip starts no process
STABLE_SECONDS_MAX: Final = 60.0  # how long a past need keeps more than one instance


@dataclass(frozen=True, slots=True)
class Sample:
    """What the gateway saw of one revision at one moment."""

    at: float  # monotonic seconds
    in_flight: int
    held: int  # waiting for an instance
    idle_s: float  # since the last request ended, or since the newest instance became ready if that is later


@dataclass(frozen=True, slots=True)
class Policy:
    """What a revision asks for."""

    concurrency: int  # requests one instance takes at once
    window_s: float
    minimum: int
    maximum: int


def desired(samples: Sequence[Sample], policy: Policy, current: int) -> int:
    """Give the number of instances to have; ``samples`` oldest first, ``current`` kept when there are none."""
    if not samples:
        return _clamp(current, policy)
    newest = samples[-1]
    if _idle(newest, policy):
        return policy.minimum
    since = newest.at - min(policy.window_s, STABLE_SECONDS_MAX)
    need = max(_need(samples, index, policy) for index in range(len(samples)) if samples[index].at >= since)
    kept = 1 if current or newest.held or newest.in_flight else 0
    return _clamp(max(need, kept), policy)


def _idle(sample: Sample, policy: Policy) -> bool:
    return not sample.in_flight and not sample.held and sample.idle_s >= policy.window_s


def _need(samples: Sequence[Sample], index: int, policy: Policy) -> int:
    first = index
    while first and samples[first - 1].at > samples[index].at - SMOOTHING_SECONDS:
        first -= 1
    recent = samples[first : index + 1]
    load = sum(sample.in_flight + sample.held for sample in recent) / len(recent)
    return math.ceil(load / (policy.concurrency * TARGET_UTILISATION))


def _clamp(count: int, policy: Policy) -> int:
    return max(policy.minimum, min(count, policy.maximum))
