"""Splits, leases, triggers and the way values travel: pure functions."""

from __future__ import annotations

import json

import pytest

from shoal.platform.local import documents, wire
from shoal.platform.local.records import Revision, RunSpec, TriggerSpec, leading, with_all_traffic
from shoal.platform.port import Component, PlatformStatus, Target


def revision(number: int, model: str = "", **spec: object) -> Revision:
    models = {"m": model} if model else {}
    return Revision(f"f-{number:05d}", "f", number, "d", RunSpec(**spec), models, 0.0, ready=True)  # type: ignore[arg-type]


def test_all_traffic_keeps_the_tags() -> None:
    before = [Target("f-00001", 100), Target("f-00002", 0, "next")]
    assert with_all_traffic(before, "f-00002") == (Target("f-00002", 100, "next"),)
    assert with_all_traffic(before, "f-00003") == (Target("f-00003", 100), Target("f-00002", 0, "next"))


def test_two_tags_of_one_revision_both_stay() -> None:
    before = [Target("f-00001", 100, "a"), Target("f-00001", 0, "b")]
    after = with_all_traffic(before, "f-00001")
    assert {target.tag for target in after} == {"a", "b"}
    assert sum(target.percent for target in after) == 100


@pytest.mark.parametrize(
    ("targets", "leader"),
    [
        ([], None),
        ([Target("f-00001", 0, "t")], None),
        ([Target("f-00001", 60), Target("f-00002", 40)], "f-00001"),
        ([Target("f-00001", 50), Target("f-00002", 50)], "f-00002"),
        ([Target("f-00001", 30), Target("f-00002", 40), Target("f-00001", 30, "x")], "f-00001"),
    ],
)
def test_the_revision_with_most_traffic_leads(targets: list[Target], leader: str | None) -> None:
    assert leading(targets) == leader


def test_leases_are_those_reachable_and_the_three_newest() -> None:
    revisions = [revision(number, f"m--{number}") for number in range(7, 0, -1)]
    targets = [Target("f-00001", 100), Target("f-00002", 0, "old")]
    assert documents.leased(revisions, targets) == {"m--7", "m--6", "m--5", "m--2", "m--1"}


def test_triggers_come_from_the_leading_revision() -> None:
    old = revision(1, triggers=(TriggerSpec(filter={"type": "a"}),))
    new = revision(2, triggers=(TriggerSpec(filter={"type": "b"}, retry=9),))
    assert documents.triggers("f", [Target("f-00001", 90), Target("f-00002", 10)], [new, old])[0]["filter"] == {
        "type": "a"
    }
    found = documents.triggers("f", [Target("f-00002", 100)], [new, old])
    assert [(item["function"], item["filter"], item["retry"]) for item in found] == [("f", {"type": "b"}, 9)]
    assert documents.triggers("f", [], [new, old]) == []


def test_a_trigger_keeps_its_name_whatever_becomes_of_the_others() -> None:
    def names(*triggers: TriggerSpec) -> list[str]:
        found = documents.triggers("f", [Target("f-00001", 100)], [revision(1, triggers=triggers)])
        return [item["name"] for item in found]

    a, b = TriggerSpec(filter={"type": "a"}), TriggerSpec(filter={"type": "b", "source": "s"})
    both = names(a, b)
    assert len(set(both)) == 2
    assert names(b) == both[1:]
    assert names(TriggerSpec(filter={"source": "s", "type": "b"}, retry=1), a) == both[::-1]
    assert not set(names(TriggerSpec(broker="other", filter={"type": "a"}))) & set(both)
    assert len(set(names(a, a))) == 2


def test_the_pool_holds_what_is_kept_leased_or_still_used() -> None:
    class Memory:
        def function_names(self) -> list[str]:
            return ["f"]

        def revisions(self, function: str) -> list[Revision]:
            return [revision(number, f"m--{number}") for number in range(5, 0, -1)]

        def traffic(self, function: str) -> tuple[Target, ...]:
            return (Target("f-00005", 100),)

    assert documents.models(Memory(), [], []) == ["m--3", "m--4", "m--5"]
    draining = [revision(1, "m--1"), revision(9, "gone--1")]
    assert documents.models(Memory(), draining, [{"new--1"}]) == sorted(
        ["gone--1", "m--1", "m--3", "m--4", "m--5", "new--1"]
    )


def test_old_revisions_are_disposable_unless_the_history_names_them() -> None:
    revisions = [revision(number) for number in range(25, 0, -1)]
    gone = documents.disposable(revisions, [Target("f-00003", 100)])
    assert [item.number for item in gone] == [5, 4, 2, 1]


def test_a_function_without_traffic_is_not_ready_and_says_why() -> None:
    status = documents.function_status("f", "http://f.localhost:1", [], [revision(1)], {}, {})
    assert (status.ready, status.reason) == (False, "no revision has traffic")


def test_a_broken_revision_without_traffic_leaves_the_function_ready() -> None:
    revisions, targets = [revision(2), revision(1)], [Target("f-00001", 100)]
    status = documents.function_status("f", "u", targets, revisions, {"f-00001": 1}, {"f-00002": "it died"})
    assert status.ready
    assert [(item.name, item.ready, item.reason, item.instances, item.percent) for item in status.revisions] == [
        ("f-00002", False, "it died", 0, 0),
        ("f-00001", True, "", 1, 100),
    ]


def test_values_survive_the_wire() -> None:
    revisions, targets = [revision(1, "m--1")], [Target("f-00001", 100, "t")]
    status = documents.function_status("f", "u", targets, revisions, {}, {})
    assert wire.function_status(json.loads(json.dumps(wire.encode(status)))) == status
    parts = PlatformStatus((Component("gateway", True, "", "http://x", 3, 1),), {"m--1": "READY"})
    assert wire.platform_status(json.loads(json.dumps(wire.encode(parts)))) == parts


def test_a_run_spec_survives_its_json() -> None:
    spec = RunSpec(env={"A": "1"}, triggers=(TriggerSpec(filter={"type": "x"}),), window_s=1.5)
    assert RunSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
