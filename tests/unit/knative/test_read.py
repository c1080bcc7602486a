"""Statuses from lists: which instances count, what is hidden, and that one list of each kind is enough."""

from __future__ import annotations

from typing import Any

from shoal.platform.knative import objects, read
from shoal.platform.knative.objects import Object
from shoal.platform.port import Target


def condition(status: str, reason: str = "", message: str = "") -> Object:
    return {"conditions": [{"type": "Ready", "status": status, "reason": reason, "message": message}]}


def service(name: str, *, ready: str = "True", generation: int = 1, **spec: Any) -> Object:
    return {
        "metadata": {"name": name, "generation": generation},
        "spec": spec,
        "status": {
            "observedGeneration": 1,
            "url": f"http://{name}.team.example.com",
            **condition(ready, "R", "why"),
        },
    }


def revision(name: str, *, created: str = "2026-01-01T00:00:00Z", ready: str = "True", **meta: Any) -> Object:
    labels = {"serving.knative.dev/service": name.rpartition("-")[0]}
    annotations = {"shoal.dev/models": '{"m":"m--0123456789ab"}', "shoal.dev/digest": "d"}
    about = {"name": name, "creationTimestamp": created, "labels": labels, "annotations": annotations, **meta}
    return {"metadata": about, "status": condition(ready, "ExitCode1", "Container failed with: x\nValueError: y")}


def pod(revision: str, **status: Any) -> Object:
    return {"metadata": {"labels": {"serving.knative.dev/revision": revision}}, "status": status}


def test_functions_come_by_name_with_their_own_revisions() -> None:
    found = read.functions(
        [service("b"), service("a")], [revision("a-00001"), revision("b-00001"), revision("b-00002")], []
    )
    assert [(one.name, [item.name for item in one.revisions]) for one in found] == [
        ("a", ["a-00001"]),
        ("b", ["b-00002", "b-00001"]),
    ]


def test_what_is_being_deleted_is_not_there() -> None:
    gone = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    leaving = service("a")
    leaving["metadata"] |= gone
    assert read.functions([leaving], [], []) == []
    assert read.function(service("b"), [revision("b-00001", **gone)], {}).revisions == ()


def test_newest_is_by_time_and_then_by_number() -> None:
    items = [
        revision("a-00010"), revision("a-00009"), revision("a-00011", created="2025-01-01T00:00:00Z"),
    ]  # fmt: skip
    assert [one.name for one in read.function(service("a"), items, {}).revisions] == [
        "a-00010",
        "a-00009",
        "a-00011",
    ]


def test_a_revision_tells_its_part_of_the_traffic_its_models_and_why_it_is_not_ready() -> None:
    traffic = [{"revisionName": "a-00001", "percent": 90}, {"revisionName": "a-00001", "percent": 10, "tag": "x"}]
    (one,) = read.function(
        service("a", traffic=traffic), [revision("a-00001", ready="False")], {"a-00001": 2}
    ).revisions
    assert (one.percent, one.tags, one.instances, one.digest) == (100, ("x",), 2, "d")
    assert one.models == {"m": "m--0123456789ab"}
    assert (one.ready, one.reason) == (False, "ValueError: y")


def test_a_status_about_something_older_is_not_ready() -> None:
    assert read.function(service("a"), [], {}).ready
    assert not read.function(service("a", generation=2), [], {}).ready
    assert read.function(service("a", ready="False"), [], {}).reason == "why"


def test_traffic_is_what_the_specification_says() -> None:
    traffic = [{"revisionName": "a-00001", "percent": 100, "latestRevision": False}]
    assert read.function(service("a", traffic=traffic), [], {}).traffic == (Target("a-00001", 100),)


def test_instances_are_pods_that_run_or_will() -> None:
    leaving = pod("a-00001", phase="Running")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    crash = [{"name": "user-container", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]
    pods = [
        pod("a-00001", phase="Running"),
        pod("a-00001", phase="Pending"),
        pod("a-00001", phase="Failed"),
        pod("a-00001", phase="Running", containerStatuses=crash),
        pod("a-00002", phase="Running"),
        leaving,
    ]
    assert read.instance_counts(pods) == {"a-00001": 2, "a-00002": 1}


def test_a_number_is_told_from_a_digest() -> None:
    assert [objects.number_of(name) for name in ("a-00002", "a-00123", "a-12345678", "a-3f2a9c1d", "a")] == [
        2, 123, 0, 0, 0,
    ]  # fmt: skip
