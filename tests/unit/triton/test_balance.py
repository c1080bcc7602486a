"""Choice of a replica and the retry budget: arithmetic, no sockets."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from shoal.triton.balance import RetryBudget, choose
from shoal.triton.replica import Replica


def replicas(*in_flight: int) -> list[Replica]:
    made = [Replica(f"127.0.0.1:{8000 + index}") for index in range(len(in_flight))]
    for replica, count in zip(made, in_flight, strict=True):
        replica.in_flight = count
    return made


def test_of_two_the_less_busy_is_chosen() -> None:
    busy, free = replicas(5, 1)
    assert {choose([busy, free], "m", 0.0, random.Random(seed), None) for seed in range(20)} == {free}


def test_the_busiest_of_many_is_never_chosen_and_the_rest_share() -> None:
    made = replicas(9, 1, 1, 1)
    chosen = [choose(made, "m", 0.0, random.Random(seed)) for seed in range(200)]
    assert made[0] not in chosen
    assert all(chosen.count(replica) > 20 for replica in made[1:])


def test_one_to_avoid_is_taken_only_when_alone() -> None:
    one, two = replicas(0, 9)
    rng = random.Random(1)
    assert choose([one, two], "m", 0.0, rng, avoid=one) is two
    assert choose([one], "m", 0.0, rng, avoid=one) is one


def test_passing_over_ends_by_itself_and_is_per_model() -> None:
    one, two = replicas(0, 9)
    one.pass_over(100.0, "m")
    rng = random.Random(1)
    assert choose([one, two], "m", 100.5, rng) is two
    assert choose([one, two], "other", 100.5, rng) is one
    assert choose([one, two], "m", 101.5, rng) is one
    one.pass_over(200.0)
    assert choose([one, two], "other", 200.5, rng) is two


def test_when_all_are_passed_over_one_is_asked_all_the_same() -> None:
    one, two = replicas(0, 9)
    one.pass_over(0.0)
    two.pass_over(0.0)
    assert choose([one, two], "m", 0.5, random.Random(1)) is one


@given(st.lists(st.booleans(), max_size=400))
def test_retries_are_a_tenth_of_requests_and_a_small_reserve(wishes: list[bool]) -> None:
    budget, granted = RetryBudget(), 0
    for wish in wishes:
        budget.earn()
        granted += wish and budget.spend()
    assert granted <= 10 + len(wishes) / 10


def test_an_empty_budget_fills_again() -> None:
    budget = RetryBudget(ratio=0.5, burst=1.0)
    assert budget.spend()
    assert not budget.spend()
    budget.earn()
    assert not budget.spend()
    budget.earn()
    assert budget.spend()
