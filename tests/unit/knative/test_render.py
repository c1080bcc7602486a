"""Manifests: reviewed as files, the same bytes each time, within the restricted profile, no feature flag needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.core.errors import SpecError, UsageError
from shoal.platform.knative import render
from shoal.platform.knative.objects import Object
from shoal.spec.function import parse

GOLDEN = Path(__file__).parents[2] / "golden" / "knative"
ACCEPT = "SHOAL_ACCEPT_GOLDEN"
IMAGE = f"registry.example.com/team/function@sha256:{'3f2a' * 16}"
CASES = {
    "plain": ("name: plain\n", {}, []),
    "models": ("name: filetype\nconcurrency: 32\ntimeout: 90s\n", {"magika": "magika--3f2a9c1d22e0"}, []),
    "events": ("name: events\ntimeout: 30s\n", {}, ["com.example.file.uploaded", "", "com.example.file.uploaded"]),
    "everything": (
        """
name: everything
handler: src/handler.py
timeout: 10m
threads: 2
concurrency: 1
scale: {min: 1, max: 3, window: 1s}
env: {GREETING: "yes", NUMBER: "1"}
envFrom: [{configMap: settings}, {secret: token}]
resources: {cpu: 250m, memory: 256Mi, cpuMax: "1", memoryMax: 512Mi}
triggers:
  - broker: orders
    filter: {type: com.example.order, subject: ""}
    delivery: {retry: 3, backoffPolicy: linear, backoffDelay: 50ms, timeout: 1m}
""",
        {"a": "a--000000000000", "b": "b--111111111111"},
        [],
    ),
}


def documents(case: str, namespace: str = "") -> list[Object]:
    config, models, types = CASES[case]
    spec = parse(config.encode(), file="function.yaml", name=case)
    return render.documents(render.plan(spec, IMAGE, models, types), namespace)


def container(case: str) -> dict[str, Any]:
    found: dict[str, Any] = documents(case)[0]["spec"]["template"]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize("case", CASES)
def test_manifests_are_as_reviewed(case: str) -> None:
    path, text = GOLDEN / f"{case}.yaml", render.text(documents(case))
    if os.environ.get(ACCEPT):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"not as kept; if it should be: {ACCEPT}=1 pytest {__file__}"


@pytest.mark.parametrize("case", CASES)
def test_what_is_printed_reads_back_as_what_was_meant(case: str) -> None:
    assert list(yaml.safe_load_all(render.text(documents(case)))) == documents(case)


def test_the_order_of_what_is_written_by_hand_does_not_matter() -> None:
    one = parse(b"env: {A: '1', B: '2'}\ntimeout: 5s\n", file="f", name="x")
    other = parse(b"timeout: 5s\nenv: {B: '2', A: '1'}\n", file="f", name="x")
    plans = [render.plan(spec, IMAGE, {}, []) for spec in (one, other)]
    assert render.text(render.documents(plans[0])) == render.text(render.documents(plans[1]))


@pytest.mark.parametrize(
    "change",
    ["timeout: 61s", "concurrency: 17", "threads: 9", "env: {A: b}", "scale: {min: 1}", "resources: {cpu: 1m}"],
)
def test_any_change_is_another_revision(change: str) -> None:
    plain = render.plan(parse(b"name: x\n", file="f", name="x"), IMAGE, {})
    changed = render.plan(parse(f"name: x\n{change}\n".encode(), file="f", name="x"), IMAGE, {})
    assert plain.digest != changed.digest
    assert render.content_name(plain) != render.content_name(changed)


def test_the_image_and_the_models_are_part_of_a_revision() -> None:
    spec = parse(b"name: x\n", file="f", name="x")
    plans = [
        render.plan(spec, IMAGE, {}),
        render.plan(spec, IMAGE.replace("3f2a", "0000"), {}),
        render.plan(spec, IMAGE, {"m": "m--000000000000"}),
        render.plan(spec, IMAGE, {"m": "m--000000000001"}),
    ]
    assert len({plan.digest for plan in plans}) == 4


def test_an_image_without_a_digest_is_refused() -> None:
    with pytest.raises(UsageError, match="no digest"):
        render.plan(parse(b"name: x\n", file="f", name="x"), "registry.example.com/x:latest", {})


def test_the_first_apply_leaves_traffic_to_the_other_manager() -> None:
    plan = render.plan(parse(b"name: x\n", file="f", name="x"), IMAGE, {})
    assert set(render.service(plan, "x-00001")["spec"]) == {"template"}


@pytest.mark.parametrize(
    ("timeout", "seconds"), [("1s", 60), ("58s", 60), ("58.5s", 61), ("90s", 92), ("10m", 600)]
)
def test_a_revision_outlives_its_function_and_its_drain(timeout: str, seconds: int) -> None:
    spec = parse(f"timeout: {timeout}\n".encode(), file="f", name="x")
    template = render.service(render.plan(spec, IMAGE, {}), "x-00001")["spec"]["template"]
    assert template["spec"]["timeoutSeconds"] == template["spec"]["responseStartTimeoutSeconds"] == seconds


def test_secrets_are_named_and_never_written() -> None:
    assert container("everything")["envFrom"] == [
        {"configMapRef": {"name": "settings"}},
        {"secretRef": {"name": "token"}},
    ]


@pytest.mark.parametrize("wrong", ["{}", "{configMap: a, secret: b}", "{configMap: A_b}", "{map: a}"])
def test_a_reference_is_one_name(wrong: str) -> None:
    with pytest.raises(SpecError):
        parse(f"envFrom: [{wrong}]\n".encode(), file="f", name="x")


@pytest.mark.parametrize(
    "wrong", ["cpu: '3'", "memory: 2Gi", "cpu: 2100m", "cpu: 1x", "memory: 1G", "cpu: 100m, cpuMax: 50m"]
)
def test_what_is_promised_is_within_what_is_allowed(wrong: str) -> None:
    with pytest.raises(SpecError):
        parse(f"resources: {{{wrong}}}\n".encode(), file="f", name="x")


def test_a_trigger_has_its_whole_delivery() -> None:
    (trigger,) = documents("everything")[1:]
    assert trigger["spec"]["delivery"] == {
        "retry": 3, "backoffPolicy": "linear", "backoffDelay": "PT0.05S", "timeout": "PT60S",
    }  # fmt: skip
    assert trigger["spec"]["broker"] == "orders"


def test_each_event_type_has_one_trigger() -> None:
    found = documents("events")[1:]
    assert [one["spec"].get("filter") for one in found] == [
        {"attributes": {"type": "com.example.file.uploaded"}},
        None,
    ]
    assert len({one["metadata"]["name"] for one in found}) == 2


def test_a_trigger_keeps_its_name_when_only_its_delivery_changes() -> None:
    rule = render.TriggerRule("default", {"type": "a"}, retry=1)
    other = render.TriggerRule("default", {"type": "a"}, retry=2)
    third = render.TriggerRule("other", {"type": "a"}, retry=1)
    names = [render.triggers("f", [one])[0]["metadata"]["name"] for one in (rule, other, third)]
    assert names[0] == names[1] != names[2]


def test_a_trigger_keeps_its_brokers_dead_letter_sink() -> None:
    rules = [render.TriggerRule("with", {"type": "a"}), render.TriggerRule("without", {"type": "a"})]
    with_sink, without = render.triggers("f", rules, {"with": {"uri": "http://dead"}})
    assert with_sink["spec"]["delivery"]["deadLetterSink"] == {"uri": "http://dead"}
    assert "deadLetterSink" not in without["spec"]["delivery"]


def test_a_revision_remembers_its_triggers() -> None:
    config, models, types = CASES["everything"]
    plan = render.plan(parse(config.encode(), file="f", name="x"), IMAGE, models, types)
    assert render.rules_of({"metadata": render.service(plan, "x")["spec"]["template"]["metadata"]}) == plan.triggers


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "PT0.2S"), (60, "PT60S"), (0.001, "PT0.001S"), (10, "PT10S")])
def test_durations_are_iso(seconds: float, text: str) -> None:
    assert render.iso_duration(seconds) == text


# The restricted Pod Security profile, and what needs a feature flag of Knative.

FLAGGED = {
    "affinity", "nodeSelector", "tolerations", "topologySpreadConstraints", "runtimeClassName", "securityContext",
    "priorityClassName", "schedulerName", "initContainers", "hostAliases", "dnsPolicy", "dnsConfig", "hostIPC",
    "hostPID", "hostNetwork", "shareProcessNamespace",
}  # fmt: skip
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(service: Object) -> Iterator[str]:
    """Yield what a Service breaks of the restricted profile, of Knative's defaults, and of shoal's own rules."""
    spec = service["spec"]["template"]["spec"]
    yield from (f"{name} needs a feature flag" for name in sorted(FLAGGED & set(spec)))
    for volume in spec.get("volumes", ()):
        if not (set(volume) - {"name"}) <= VOLUMES:
            yield f"volume {volume['name']}"
    for one in spec["containers"]:
        yield from _container_violations(one)


def _container_violations(one: dict[str, Any]) -> Iterator[str]:
    security = one.get("securityContext", {})
    wanted = {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "readOnlyRootFilesystem": True}
    yield from (
        f"{name} is {security.get(name)}" for name, value in wanted.items() if security.get(name) is not value
    )
    if security.get("privileged"):
        yield "privileged"
    if "ALL" not in security.get("capabilities", {}).get("drop", ()):
        yield "capabilities are kept"
    if set(security.get("capabilities", {}).get("add", ())) - {"NET_BIND_SERVICE"}:
        yield "capabilities are added"
    if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "no seccomp profile"
    if "@sha256:" not in one["image"]:
        yield "no digest"
    if not one.get("readinessProbe") or not one.get("livenessProbe"):
        yield "a probe is missing"
    for part in ("requests", "limits"):
        if set(one.get("resources", {}).get(part, {})) < {"cpu", "memory"}:
            yield f"{part} are missing"


@pytest.mark.parametrize("case", CASES)
def test_every_manifest_keeps_the_rules(case: str) -> None:
    assert list(violations(documents(case)[0])) == []


BREAKS: dict[str, tuple[tuple[str, ...], Any]] = {
    "root": (("securityContext", "runAsNonRoot"), False),
    "escalation": (("securityContext", "allowPrivilegeEscalation"), True),
    "writable": (("securityContext", "readOnlyRootFilesystem"), False),
    "kept": (("securityContext", "capabilities"), {}),
    "added": (("securityContext", "capabilities"), {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    "seccomp": (("securityContext", "seccompProfile"), {"type": "Unconfined"}),
    "tag": (("image",), "x:latest"),
    "probe": (("readinessProbe",), None),
    "limits": (("resources", "limits"), {"cpu": "1"}),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_check_finds_one_violation(name: str) -> None:
    service = documents("plain")[0]
    path, value = BREAKS[name]
    place = service["spec"]["template"]["spec"]["containers"][0]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert len(list(violations(service))) == 1


def test_the_check_finds_a_flagged_field_and_a_host_path() -> None:
    service = documents("plain")[0]
    service["spec"]["template"]["spec"] |= {"nodeSelector": {"a": "b"}, "volumes": [{"name": "h", "hostPath": {}}]}
    assert len(list(violations(service))) == 2
