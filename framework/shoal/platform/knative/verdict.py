"""How a revision stands, judged from what the API server says: ready, waiting, or failed for one reason.

``judge`` is pure: a snapshot in, a verdict out. The rules are a table, asked in order; the first that knows wins.
What may pass by itself (no node with room, a probe that fails) is final only after some time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from shoal.core import limits
from shoal.platform.knative.objects import (
    USER_CONTAINER,
    Object,
    condition,
    deleted,
    name_of,
    observed,
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of one revision at one moment; ``waited_s`` since it was first asked for."""

    service: Object
    revision: Object | None
    pods: Sequence[Object] = ()
    events: Sequence[Object] = ()
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement: its text is the progress while waiting, and the one reason when failed."""

    state: Literal["ready", "waiting", "failed"]
    text: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class _Container:
    """The user's container in one pod."""

    pod: str
    ready: bool = False
    restarts: int = 0
    running: bool = False
    waiting: Mapping[str, Any] = field(default_factory=dict)
    ended: Mapping[str, Any] = field(default_factory=dict)  # its newest end

    @property
    def why(self) -> str:
        """Why it waits, in Kubernetes' word; empty when it does not."""
        return str(self.waiting.get("reason", ""))


Rule = Callable[[Snapshot], Verdict | None]
_STARTUP_EXIT: Final = 3  # the runtime could not start and said why
_PULL: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CREATE: Final = frozenset(
    {"CreateContainerError", "RunContainerError", "StartError", "CreateContainerConfigError"}
)
_REFUSALS: Final = frozenset(
    {"FailedCreate", "InternalError"}
)  # of a pod, and of what Knative makes for a revision
_QUOTA: Final = re.compile(r"(?:exceeded|failed) quota: (.*)", re.DOTALL)
_TERMINAL: Final = frozenset({"ProgressDeadlineExceeded", "RevisionFailed"})


def judge(snapshot: Snapshot) -> Verdict:
    """Say how the revision stands: the first rule that knows decides, else it is waited for."""
    for rule in RULES:
        if (verdict := rule(snapshot)) is not None:
            return verdict
    return Verdict("waiting", _progress(snapshot))


def user_container(pod: Object) -> _Container:
    """Read the state of the user's container in a pod."""
    for one in (pod.get("status") or {}).get("containerStatuses") or ():
        if one.get("name") == USER_CONTAINER:
            state, last = one.get("state") or {}, one.get("lastState") or {}
            return _Container(
                name_of(pod),
                bool(one.get("ready")),
                int(one.get("restartCount") or 0),
                "running" in state,
                state.get("waiting") or {},
                state.get("terminated") or last.get("terminated") or {},
            )
    return _Container(name_of(pod))


def last_words(text: str) -> str:
    """Give the reason a container left behind: what the runtime reported, else the last line (of a traceback)."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, Mapping) and said.get("level") == "error" and "message" in said:
            return _reported(said)
    return lines[-1] if lines else ""


# The rules.


def _ready(snapshot: Snapshot) -> Verdict | None:
    revision = snapshot.revision
    if revision is not None and observed(revision) and condition(revision).true:
        return Verdict("ready")
    return None


def _name_taken(snapshot: Snapshot) -> Verdict | None:
    if not observed(snapshot.service):
        return None
    for kind in ("Ready", "ConfigurationsReady", "RoutesReady"):
        found = condition(snapshot.service, kind)
        if found.reason in ("RevisionNameTaken", "NotOwned"):
            return _failed(f"the name is taken: {found.message}", "kubectl get revisions,configurations,routes")
    return None


def _image_unknown(snapshot: Snapshot) -> Verdict | None:
    if snapshot.revision is None:
        return None
    for kind in ("ContainerHealthy", "ResourcesAvailable", "Ready"):
        found = condition(snapshot.revision, kind)
        if found.reason == "ContainerMissing":
            return _failed(f"the cluster cannot read the image: {_short(found.message)}", _REGISTRY_HINT)
    return None


def _image_pull(snapshot: Snapshot) -> Verdict | None:
    for one in _containers(snapshot):
        if one.why in _PULL:
            return _failed(f"the image cannot be pulled: {_pull_reason(one)}", _REGISTRY_HINT)
    return None


def _not_created(snapshot: Snapshot) -> Verdict | None:
    for one in _containers(snapshot):
        said = _short(str(one.waiting.get("message", "")))
        if one.why in _CREATE:
            missing = re.fullmatch(r"(configmap|secret) \"([^\"]+)\" not found", said)
            if missing:
                return _failed(
                    f"envFrom names the {missing[1]} {missing[2]!r}, which is not there", "kubectl get cm,secret"
                )
            return _failed(f"the container cannot be made: {said}")
    return None


def _crashed(snapshot: Snapshot) -> Verdict | None:
    for one in _containers(snapshot):
        code = one.ended.get("exitCode")
        if code is None or one.running:
            continue
        if one.ended.get("reason") == "OOMKilled":
            return _failed(
                "the container was killed: it needs more memory than its limit", "resources: {memoryMax: 2Gi}"
            )
        if code == _STARTUP_EXIT or one.restarts > 0:
            return _failed(_crash_reason(one, int(code)), "shoal logs NAME")
    return None


def _not_admitted(snapshot: Snapshot) -> Verdict | None:
    """Find what refuses the pod itself: a quota, a policy, a webhook; said by the replica set, not by a pod."""
    if snapshot.pods:
        return None
    said = [condition(snapshot.revision, "ResourcesAvailable").message] if snapshot.revision else []
    said += [str(event.get("message", "")) for event in snapshot.events if event.get("reason") in _REFUSALS]
    for text in said:
        if quota := _QUOTA.search(text):
            return _failed(f"the namespace's quota leaves no room: {_short(quota[1])}", "kubectl describe quota")
        if "violates PodSecurity" in text:
            return _failed(f"the namespace's Pod Security profile refuses the pod: {_short(text)}")
        if "denied the request" in text or "forbidden" in text:
            return _failed(f"the cluster refuses the pod: {_short(text)}")
        if " is invalid: " in text:
            return _failed(f"the cluster refuses the revision: {_short(text.partition(' is invalid: ')[2])}")
    return None


def _not_scheduled(snapshot: Snapshot) -> Verdict | None:
    for pod in _alive(snapshot):
        found = condition(pod, "PodScheduled")
        if found.status != "False" or found.reason != "Unschedulable":
            continue
        text = f"no node takes the pod: {_short(found.message.partition(' preemption:')[0])}"
        if snapshot.waited_s < limits.CLUSTER_SCHEDULE_SECONDS_MAX:
            return Verdict("waiting", text)
        return _failed(text, "kubectl describe nodes")
    return None


def _said_failed(snapshot: Snapshot) -> Verdict | None:
    """Take Knative's own word where no pod told more: an exit code, or the deadline for progress."""
    if snapshot.revision is None or not observed(snapshot.revision):
        return None
    found = condition(snapshot.revision)
    if found.status == "False" and (found.reason in _TERMINAL or found.reason.startswith("ExitCode")):
        words = last_words(found.message.partition("failed with: ")[2] or found.message)
        return _failed(f"the container ended ({found.reason}): {_short(words)}", "shoal logs NAME")
    if found.status == "False" and snapshot.waited_s >= limits.CLUSTER_VERDICT_SECONDS:
        return _failed(f"{found.reason}: {_short(found.message)}")
    return None


def _silent(snapshot: Snapshot) -> Verdict | None:
    """Find a container that runs and does not answer: it listens elsewhere, or is not ready for long."""
    if snapshot.waited_s < limits.CLUSTER_VERDICT_SECONDS:
        return None
    for one in _containers(snapshot):
        if one.running:
            probes = [
                str(event.get("message", "")) for event in snapshot.events if event.get("reason") == "Unhealthy"
            ]
            said = f": {_short(probes[-1])}" if probes else ""
            return _failed(f"the container runs but does not get ready on its port{said}", "shoal logs NAME")
    return None


RULES: Final[tuple[Rule, ...]] = (
    _ready,
    _name_taken,
    _image_unknown,
    _image_pull,
    _not_created,
    _crashed,
    _not_admitted,
    _not_scheduled,
    _said_failed,
    _silent,
)

# Parts.

_REGISTRY_HINT: Final = "is it pushed, and can the cluster's nodes reach and read the registry?"
_CHARS_MAX: Final = 400


def _failed(text: str, hint: str = "") -> Verdict:
    return Verdict("failed", text, hint)


def _alive(snapshot: Snapshot) -> Iterator[Object]:
    return (pod for pod in snapshot.pods if not deleted(pod))


def _containers(snapshot: Snapshot) -> Iterator[_Container]:
    return map(user_container, _alive(snapshot))


def _pull_reason(one: _Container) -> str:
    said = str(one.waiting.get("message", ""))
    if "not found" in said:
        return "it is not in the registry"
    if "unauthorized" in said or "authorization failed" in said or "forbidden" in said.lower():
        return "the registry refuses the nodes (imagePullSecrets?)"
    return _short(said)


def _crash_reason(one: _Container, code: int) -> str:
    words = last_words(str(one.ended.get("message", "")))
    return f"the container ended with code {code}: {_short(words) or 'it said nothing'}"


def _reported(said: Mapping[str, Any]) -> str:
    where = str(said.get("where") or "")
    text = str(said.get("last_line") or said["message"])
    return f"{text} ({where})" if where else text


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CHARS_MAX else f"{line[: _CHARS_MAX - 1]}…"


def _progress(snapshot: Snapshot) -> str:
    if snapshot.revision is None:
        return "the revision is not there yet"
    for one in _containers(snapshot):
        if one.running:
            return "the container starts"
        return one.why or "the pod is placed"
    return condition(snapshot.revision, "ResourcesAvailable").reason or "no pod yet"
