"""Leases and reports: what stands in the two ConfigMaps, and the refusal of what would not fit."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.errors import ConflictError, UsageError
from shoal.core.limits import STATUS_REASON_CHARS_MAX
from shoal.pool.cluster_leases import (
    Budget,
    check_fits,
    field_manager,
    lease,
    model_states,
    read_reports,
    report,
    wanted,
)

OLD, NEW, OTHER = "magika--0123456789ab", "magika--ba9876543210", "other--0123456789ab"


def test_a_version_is_wanted_while_any_function_names_it() -> None:
    found, wrong = wanted({"one": f"{OLD}\n{NEW}", "two": f"{NEW}\n"})
    assert (found, wrong) == ({OLD, NEW}, {})
    assert wanted({"one": OLD})[0] == {OLD}
    assert wanted({})[0] == frozenset()


@pytest.mark.parametrize(
    "line", ["magika", "../magika--0123456789ab", "magika--xyz", "a--0123456789abc", "--0123456789ab"]
)
def test_a_line_that_is_no_version_is_left_out_and_told(line: str) -> None:
    assert wanted({"one": f"{line}\n{OLD}"}) == ({OLD}, {"one": line})


def test_each_function_applies_its_own_key() -> None:
    one = lease("one", [NEW, OLD, NEW])
    assert one["data"] == {"one": f"{OLD}\n{NEW}"}
    assert wanted(one["data"])[0] == {OLD, NEW}
    assert "data" not in lease("one", [])  # applied, this removes the key that its manager owns
    assert field_manager("one") != field_manager("two")


@given(st.text(), st.text())
def test_any_text_is_read_without_raising(function: str, text: str) -> None:
    found, _ = wanted({function: text})
    assert all("--" in name for name in found)


def test_reports_of_pods_that_are_gone_do_not_count() -> None:
    status = {
        "pod-a": report({OLD: {"state": "READY", "reason": ""}}),
        "pod-b": report(
            {OLD: {"state": "READY", "reason": ""}, NEW: {"state": "FAILED", "reason": "no such file"}}
        ),
        "dead": report({OLD: {"state": "FAILED", "reason": "long ago"}}),
    }
    reports = read_reports(status, ["pod-a", "pod-b"])
    assert model_states(reports) == {OLD: "READY", NEW: "pod-b: no such file"}


@pytest.mark.parametrize("status", [{}, {"pod-b": "not json"}, {"pod-b": "{}"}])
def test_a_pod_that_has_not_reported_a_model_is_still_loading_it(status: dict[str, str]) -> None:
    status |= {"pod-a": report({OLD: {"state": "READY", "reason": ""}})}
    assert model_states(read_reports(status, ["pod-a", "pod-b"])) == {OLD: "LOADING"}


def test_a_long_reason_is_cut() -> None:
    text = json.loads(report({OLD: {"state": "FAILED", "reason": "x" * 10_000}}))[OLD]["reason"]
    assert text == "x" * STATUS_REASON_CHARS_MAX


def test_what_fits_gives_its_size() -> None:
    budget = Budget(memory_bytes=100 * 2**20, size_factor=2.0)
    assert check_fits([OLD, NEW], {OLD: 10 * 2**20, NEW: 20 * 2**20}, budget) == 60 * 2**20
    assert check_fits([OLD], {OLD: 10**15}, Budget(0)) == 2 * 10**15  # no budget is no limit


def test_the_budget_is_read_from_the_pools_settings() -> None:
    budget = Budget.of({"memory-bytes": "1000", "size-factor": "1.5", "model-bytes": "10"})
    assert budget == Budget(1000, 1.5, 10)
    assert budget.guess(100) == 160
    assert Budget.of({}).memory_bytes == 0
    with pytest.raises(UsageError, match="memory-bytes"):
        Budget.of({"memory-bytes": "20Gi"})


def test_both_versions_of_a_rollout_are_counted_and_refused_with_figures() -> None:
    budget = Budget(memory_bytes=100 * 2**20, size_factor=2.0)
    with pytest.raises(ConflictError) as raised:
        check_fits([OLD, NEW, OTHER], {OLD: 30 * 2**20, NEW: 30 * 2**20, OTHER: 1 * 2**20}, budget)
    assert "would take 122 MiB on each replica, its budget is 100 MiB" in raised.value.message
    assert f"{OLD} 60 MiB" in raised.value.message
    assert "two versions of magika" in raised.value.hint


def test_what_was_measured_counts_instead_of_the_guess() -> None:
    budget = Budget(memory_bytes=100 * 2**20)
    assert check_fits([OLD], {OLD: 90 * 2**20}, budget, {OLD: 95 * 2**20}) == 95 * 2**20
    with pytest.raises(ConflictError, match="101 MiB") as raised:
        check_fits([OTHER], {OTHER: 1}, budget, {OTHER: 101 * 2**20})
    assert "memory-bytes" in raised.value.hint
