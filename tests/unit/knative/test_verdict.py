"""One reason for each way a revision fails, from what the API server really says about it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shoal.core import limits
from shoal.platform.knative.objects import Object
from shoal.platform.knative.verdict import Snapshot, judge, last_words

SERVICE: Object = {"metadata": {"name": "f", "generation": 1}, "status": {"observedGeneration": 1}}


def item(generation: int = 1, observed: int = 1, **conditions: tuple[str, str, str]) -> Object:
    listed = [
        {"type": kind, "status": status, "reason": reason, "message": message}
        for kind, (status, reason, message) in conditions.items()
    ]
    meta = {"name": "f-00001", "generation": generation}
    return {"metadata": meta, "status": {"observedGeneration": observed, "conditions": listed}}


def pod(
    state: dict[str, Any], *, last: dict[str, Any] | None = None, restarts: int = 0, **conditions: Any
) -> Object:
    container = {"name": "user-container", "state": state, "lastState": last or {}, "restartCount": restarts}
    found = item(**conditions)
    found["metadata"] = {"name": "f-00001-deployment-x"}
    found["status"]["containerStatuses"] = [{"name": "queue-proxy", "state": {"running": {}}}, container]
    return found


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def ended(code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "message": message, "reason": reason}}


def event(reason: str, message: str) -> Object:
    return {"reason": reason, "message": message, "involvedObject": {"name": "f-00001-deployment-x"}}


DEPLOYING = item(Ready=("Unknown", "Deploying", ""))
REPORT = json.dumps({"level": "error", "message": "boom", "last_line": "ValueError: boom", "where": "handler.py:3"})
NODES = "0/1 nodes are available: 1 Insufficient memory. preemption: 0/1 nodes are available."
QUOTA = 'pods "f-00001-deployment-x" is forbidden: exceeded quota: small, requested: cpu=110m, limited: cpu=0'
LATE = limits.CLUSTER_VERDICT_SECONDS
FAILURES: dict[str, tuple[Snapshot, str]] = {
    "image not in the registry, found by Knative": (
        Snapshot(SERVICE, item(ContainerHealthy=("False", "ContainerMissing", 'Unable to fetch image "r/x": 404'))),
        "the cluster cannot read the image: Unable to fetch image",
    ),
    "image not in the registry, found by the node": (
        Snapshot(SERVICE, DEPLOYING, [pod(waiting("ImagePullBackOff", "r/x: not found"))]),
        "the image cannot be pulled: it is not in the registry",
    ),
    "registry refuses": (
        Snapshot(SERVICE, DEPLOYING, [pod(waiting("ErrImagePull", "failed: 401 unauthorized"))]),
        "the registry refuses the nodes",
    ),
    "crash at import": (
        Snapshot(SERVICE, DEPLOYING, [pod(ended(3, f"noise\n{REPORT}\n"))]),
        "the container ended with code 3: ValueError: boom (handler.py:3)",
    ),
    "crash with a traceback": (
        Snapshot(
            SERVICE, DEPLOYING,
            [pod(waiting("CrashLoopBackOff"), last=ended(1, "Traceback\n  File x\nKeyError: 'a'\n"), restarts=1)],
        ),
        "the container ended with code 1: KeyError: 'a'",
    ),
    "crash without a word": (
        Snapshot(SERVICE, DEPLOYING, [pod(waiting("CrashLoopBackOff"), last=ended(9), restarts=2)]),
        "ended with code 9: it said nothing",
    ),
    "out of memory": (
        Snapshot(SERVICE, DEPLOYING, [pod(waiting("CrashLoopBackOff"), last=ended(137, reason="OOMKilled"))]),
        "needs more memory than its limit",
    ),
    "no such program": (
        Snapshot(SERVICE, DEPLOYING, [pod(waiting("RunContainerError", "exec: python9: not found"))]),
        "the container cannot be made: exec: python9: not found",
    ),
    "no such config map": (
        Snapshot(
            SERVICE, DEPLOYING, [pod(waiting("CreateContainerConfigError", 'configmap "settings" not found'))]
        ),
        "envFrom names the configmap 'settings', which is not there",
    ),
    "no node": (
        Snapshot(SERVICE, DEPLOYING, [pod({}, PodScheduled=("False", "Unschedulable", NODES))], waited_s=30.0),
        "no node takes the pod: 0/1 nodes are available: 1 Insufficient memory.",
    ),
    "quota, in Knative's words": (
        Snapshot(SERVICE, item(ResourcesAvailable=("False", "FailedCreate", QUOTA))),
        "the namespace's quota leaves no room: small, requested: cpu=110m, limited: cpu=0",
    ),
    "quota, in an event": (
        Snapshot(SERVICE, DEPLOYING, events=[event("FailedCreate", QUOTA)]),
        "the namespace's quota leaves no room",
    ),
    "quota that asks for a limit": (
        Snapshot(SERVICE, DEPLOYING, events=[event("FailedCreate", "failed quota: small: must specify cpu")]),
        "quota leaves no room: small: must specify cpu",
    ),
    "a deployment that is invalid": (
        Snapshot(
            SERVICE, DEPLOYING,
            events=[event("InternalError", 'cannot create deployment: Deployment.apps "f" is invalid: cpu: 2')],
        ),
        "the cluster refuses the revision: cpu: 2",
    ),
    "pod security": (
        Snapshot(SERVICE, DEPLOYING, events=[event("FailedCreate", 'violates PodSecurity "restricted:latest"')]),
        "Pod Security profile refuses the pod",
    ),
    "a webhook on pods": (
        Snapshot(
            SERVICE, DEPLOYING, events=[event("FailedCreate", 'admission webhook "p" denied the request: no team')]
        ),
        "the cluster refuses the pod: admission webhook",
    ),
    "name taken": (
        Snapshot(item(ConfigurationsReady=("False", "RevisionNameTaken", "f-00001 is taken")), None),
        "the name is taken: f-00001 is taken",
    ),
    "nothing listens": (
        Snapshot(
            SERVICE, DEPLOYING, [pod({"running": {}})],
            [event("Unhealthy", "Readiness probe failed: connection refused")], LATE,
        ),
        "does not get ready on its port: Readiness probe failed: connection refused",
    ),
    "an exit code Knative saw": (
        Snapshot(SERVICE, item(Ready=("False", "ExitCode3", f"Container failed with: {REPORT}"))),
        "the container ended (ExitCode3): ValueError: boom (handler.py:3)",
    ),
    "no progress": (
        Snapshot(SERVICE, item(Ready=("False", "ProgressDeadlineExceeded", "Initial scale was never achieved"))),
        "Initial scale was never achieved",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_has_one_reason(name: str) -> None:
    snapshot, text = FAILURES[name]
    verdict = judge(snapshot)
    assert verdict.state == "failed"
    assert text in verdict.text
    assert "\n" not in verdict.text


WAITS = {
    "no revision yet": Snapshot(SERVICE, None),
    "a status of before": Snapshot(SERVICE, item(2, 1, Ready=("True", "", ""))),
    "a name taken, in a status of before": Snapshot(
        {**item(2, 1, Ready=("False", "RevisionNameTaken", "old"))}, None
    ),
    "a pod being placed": Snapshot(SERVICE, DEPLOYING, [pod({})]),
    "a node may come": Snapshot(
        SERVICE, DEPLOYING, [pod({}, PodScheduled=("False", "Unschedulable", NODES))], waited_s=1.0
    ),
    "a container starting": Snapshot(SERVICE, DEPLOYING, [pod({"running": {}})], waited_s=LATE - 1),
    "an image being pulled": Snapshot(SERVICE, DEPLOYING, [pod(waiting("ContainerCreating"))], waited_s=LATE + 1),
    "one restart that worked": Snapshot(SERVICE, DEPLOYING, [pod({"running": {}}, last=ended(1), restarts=1)]),
    "an error of Knative's that passes": Snapshot(
        SERVICE,
        DEPLOYING,
        events=[event("InternalError", "the object has been modified; please apply your changes")],
    ),
    "a probe that failed once": Snapshot(SERVICE, item(Ready=("False", "Deploying", "")), waited_s=1.0),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_may_pass_is_waited_for(name: str) -> None:
    verdict = judge(WAITS[name])
    assert verdict.state == "waiting"
    assert verdict.text


def test_ready_is_ready_whatever_else_is_there() -> None:
    ready = item(Ready=("True", "", ""))
    assert judge(Snapshot(SERVICE, ready, [pod(waiting("CrashLoopBackOff"))], waited_s=1_000)).state == "ready"


def test_pods_on_their_way_out_say_nothing() -> None:
    gone = pod(waiting("ImagePullBackOff", "not found"))
    gone["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert judge(Snapshot(SERVICE, DEPLOYING, [gone])).state == "waiting"


def test_reasons_are_short() -> None:
    snapshot = Snapshot(SERVICE, DEPLOYING, [pod(ended(3, "x" * 5_000))])
    assert len(judge(snapshot).text) < 500


@pytest.mark.parametrize(
    ("text", "words"), [("", ""), ("\n \n", ""), ("a\nb\n", "b"), ('{"level":"info","message":"x"}\nlast', "last")]
)
def test_last_words(text: str, words: str) -> None:
    assert last_words(text) == words
