"""From the API server's lists to the port's statuses: pure, given the objects of a namespace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from shoal.platform.knative import objects, split
from shoal.platform.knative.apply import newest_first
from shoal.platform.knative.objects import Object, annotation, condition, deleted, label, name_of, observed
from shoal.platform.knative.verdict import last_words
from shoal.platform.port import FunctionStatus, RevisionStatus, Target

_FAILING = frozenset({"CrashLoopBackOff", "ErrImagePull", "ImagePullBackOff", "CreateContainerConfigError"})


def functions(
    services: Sequence[Object], revisions: Sequence[Object], pods: Sequence[Object]
) -> list[FunctionStatus]:
    """Describe all functions, by name."""
    of_service: defaultdict[str, list[Object]] = defaultdict(list)
    for item in revisions:
        of_service[label(item, objects.SERVICE_LABEL)].append(item)
    instances = instance_counts(pods)
    alive = [service for service in services if not deleted(service)]
    return sorted(
        (function(service, of_service[name_of(service)], instances) for service in alive), key=lambda one: one.name
    )


def function(service: Object, revisions: Sequence[Object], instances: Mapping[str, int]) -> FunctionStatus:
    """Describe one function; revisions newest first."""
    targets = split.read(service).targets
    ready = condition(service)
    is_ready = observed(service) and ready.true
    known = newest_first([item for item in revisions if not deleted(item)])
    return FunctionStatus(
        name=name_of(service),
        url=str((service.get("status") or {}).get("url") or ""),
        ready=is_ready,
        reason="" if is_ready else (ready.message or ready.reason or "its status is not there yet"),
        traffic=targets,
        revisions=tuple(revision(item, targets, instances.get(name_of(item), 0)) for item in known),
    )


def revision(item: Object, targets: Sequence[Target], instances: int) -> RevisionStatus:
    """Describe one revision."""
    mine = [target for target in targets if target.revision == name_of(item)]
    ready = condition(item)
    models = objects.json_annotation(item, objects.MODELS, {})
    return RevisionStatus(
        name=name_of(item),
        created=objects.created(item),
        ready=ready.true,
        reason="" if ready.true else (last_words(ready.message) or ready.reason or "its status is not there yet"),
        instances=instances,
        percent=sum(target.percent for target in mine),
        tags=tuple(target.tag for target in mine if target.tag),
        models={str(alias): str(version) for alias, version in models.items()},
        digest=annotation(item, objects.DIGEST),
    )


def instance_counts(pods: Sequence[Object]) -> dict[str, int]:
    """Count each revision's instances: pods that are not on their way out, ended or failing to start."""
    counts: defaultdict[str, int] = defaultdict(int)
    for pod in pods:
        if not deleted(pod) and _runs(pod):
            counts[label(pod, objects.REVISION_LABEL)] += 1
    return dict(counts)


def _runs(pod: Object) -> bool:
    status = pod.get("status") or {}
    if status.get("phase") in ("Succeeded", "Failed"):
        return False
    states = [one.get("state") or {} for one in status.get("containerStatuses") or ()]
    return not any((state.get("waiting") or {}).get("reason") in _FAILING for state in states)
