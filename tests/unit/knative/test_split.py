"""Splits, their history, and what of a Service's traffic is in effect."""

from __future__ import annotations

import pytest

from shoal.core import limits
from shoal.core.errors import ConflictError, NotFoundError, UsageError
from shoal.platform.knative import split
from shoal.platform.knative.objects import Object
from shoal.platform.knative.split import Split
from shoal.platform.port import Target

A, B, C = "f-00001", "f-00002", "f-00003"


def as_service(wanted: Split) -> Object:
    found = split.manifest("f", wanted)
    return {
        **found,
        "status": {"traffic": [{"revisionName": t.revision, "percent": t.percent} for t in wanted.targets]},
    }


def test_what_is_written_reads_back() -> None:
    wanted = Split((Target(A, 90), Target(B, 10, "next"), Target(C, 0, "old")), ({A: 100},))
    assert split.read(as_service(wanted)) == wanted


def test_a_split_is_in_effect_when_revisions_percents_and_tags_are() -> None:
    service = as_service(Split((Target(A, 90), Target(B, 10))))
    assert split.in_effect(service, [Target(B, 10), Target(A, 90)])
    assert not split.in_effect(service, [Target(B, 90), Target(A, 10)])
    assert not split.in_effect(service, [Target(A, 90), Target(B, 10, "next")])


def test_a_service_without_traffic_follows_its_newest_revision() -> None:
    assert split.follows_latest({"spec": {}})
    assert split.follows_latest({"spec": {"traffic": [{"latestRevision": True, "percent": 100}]}})
    assert not split.follows_latest(as_service(Split((Target(A, 100),))))


def test_what_follows_the_newest_counts_as_what_it_is_now() -> None:
    service: Object = {
        "spec": {"traffic": [{"latestRevision": True, "percent": 100}]}, "status": {"latestReadyRevisionName": B},
    }  # fmt: skip
    assert split.read(service).targets == (Target(B, 100),)


def test_going_back_goes_further_back_each_time() -> None:
    first = Split((Target(A, 100),))
    now = first.then([Target(A, 70), Target(B, 30, "next")]).then([Target(B, 100)])
    now = now.back("f", [A, B])
    assert split.shares(now.targets) == {A: 70, B: 30}
    now = now.back("f", [A, B])
    assert now.targets == (Target(A, 100),)
    with pytest.raises(ConflictError, match="nothing before"):
        now.back("f", [A, B])


def test_going_back_passes_over_what_is_gone_and_keeps_tags() -> None:
    now = Split((Target(A, 100),)).then([Target(B, 100)]).then([Target(C, 100, "new")])
    assert now.back("f", [A, C]).targets == (Target(A, 100), Target(C, 0, "new"))


def test_a_change_of_tags_is_no_change_of_percents() -> None:
    assert Split((Target(A, 100),)).then([Target(A, 100, "stable")]).history == ()


def test_the_history_is_bounded() -> None:
    now = Split((Target(A, 100),))
    for _ in range(limits.CLUSTER_HISTORY_MAX):
        now = now.then([Target(B, 100)]).then([Target(A, 100)])
    assert len(now.history) == limits.CLUSTER_HISTORY_MAX


@pytest.mark.parametrize("history", ["", "null", "{", '["x"]', "{}"])
def test_a_history_somebody_broke_is_no_history(history: str) -> None:
    service: Object = {"metadata": {"annotations": {"shoal.dev/traffic-history": history}}, "spec": {"traffic": []}}
    assert all(one == {} for one in split.read(service).history)


@pytest.mark.parametrize(
    ("targets", "error", "text"),
    [
        ([Target(A, 90)], UsageError, "sum to 90"),
        ([Target(A, 150), Target(B, -50)], UsageError, "between 0 and 100"),
        ([Target(A, 100, "No")], UsageError, "tag name"),
        ([Target(A, 50, "x"), Target(B, 50, "x")], UsageError, "each tag"),
        ([Target(C, 100)], NotFoundError, "no revision"),
    ],
)
def test_a_wrong_split_is_refused(targets: list[Target], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        split.check("f", [A, B], targets)


def test_the_revision_with_most_traffic_leads_the_newest_of_equals() -> None:
    assert split.leading([Target(A, 50), Target(B, 50)]) == B
    assert split.leading([Target(A, 60), Target(B, 40)]) == A
    assert split.leading([Target(A, 0, "x")]) == ""
