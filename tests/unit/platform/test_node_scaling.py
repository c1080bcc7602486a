"""The scaling rule, over virtual time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.platform.local.scaling import Policy, Sample, desired

POLICY = Policy(concurrency=10, window_s=20.0, minimum=0, maximum=5)


def load(*in_flight: int, held: int = 0, idle_s: float = 0.0) -> list[Sample]:
    return [Sample(float(at), count, held, idle_s) for at, count in enumerate(in_flight)]


def test_no_figures_change_nothing() -> None:
    assert desired([], POLICY, current=3) == 3


def test_one_instance_while_requests_fit_in_it() -> None:
    assert desired(load(1, 5, 7, 7), POLICY, current=1) == 1


def test_more_instances_when_the_average_passes_the_target() -> None:
    assert desired(load(20, 20, 20, 20), POLICY, current=1) == 3


def test_a_blip_of_one_sample_is_smoothed() -> None:
    assert desired(load(0, 0, 15), POLICY, current=1) == 1


def test_held_requests_count_as_load() -> None:
    assert desired(load(0, 0, 0, held=20), POLICY, current=0) == 3


def test_never_more_than_the_maximum() -> None:
    assert desired(load(1000, 1000), POLICY, current=1) == 5


def test_a_lull_shorter_than_the_window_keeps_the_instances() -> None:
    assert desired(load(20, 20, 20, 20, *[0] * 10), POLICY, current=3) == 3


def test_a_lull_longer_than_the_window_leaves_one() -> None:
    assert desired(load(20, 20, 20, 20, *[1] * 25), POLICY, current=3) == 1


def test_zero_after_an_idle_window() -> None:
    assert desired(load(0, 0, idle_s=20.0), POLICY, current=1) == 0


def test_not_zero_before_the_window_has_passed() -> None:
    assert desired(load(0, 0, idle_s=19.9), POLICY, current=1) == 1


def test_not_zero_with_a_request_in_flight_or_held() -> None:
    assert desired(load(1, idle_s=50.0), POLICY, current=1) == 1
    assert desired(load(0, held=1, idle_s=50.0), POLICY, current=1) == 1


def test_idle_goes_down_to_the_minimum_only() -> None:
    policy = Policy(10, 20.0, minimum=2, maximum=5)
    assert desired(load(0, idle_s=50.0), policy, current=4) == 2
    assert desired(load(0, idle_s=0.0), policy, current=0) == 2


@given(
    counts=st.lists(st.integers(0, 5000), min_size=1, max_size=50),
    held=st.integers(0, 10),
    idle_s=st.floats(0, 1000),
    current=st.integers(0, 5),
)
def test_always_within_bounds_and_never_zero_under_load(
    counts: list[int], held: int, idle_s: float, current: int
) -> None:
    wanted = desired(load(*counts, held=held, idle_s=idle_s), POLICY, current)
    assert POLICY.minimum <= wanted <= POLICY.maximum
    if counts[-1] or held:
        assert wanted >= 1
