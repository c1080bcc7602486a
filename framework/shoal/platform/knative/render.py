"""From a function to the manifests that run it: pure, so that the same inputs give the same bytes.

No field here is behind a Knative feature flag; the container passes the restricted Pod Security profile.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

from shoal.core import limits
from shoal.core.errors import UsageError
from shoal.platform.knative import objects, split
from shoal.platform.knative.objects import NAME_DIGEST_CHARS, Object
from shoal.platform.port import Target
from shoal.spec.function import EnvFrom, FunctionSpec, Resources, Trigger

SOURCE: Final = "/app"  # where an image has the function's folder
READY_PATH: Final = "/_shoal/ready"
LIVE_PATH: Final = "/_shoal/live"
_SCRATCH: Final = "64Mi"
_LIVE_PERIOD_SECONDS: Final = 10
_LIVE_FAILURES: Final = 6  # a slow machine does not restart what is only slow
_MARGIN_SECONDS: Final = 2  # past a function's own timeout, so that its own answer comes first


@dataclass(frozen=True, slots=True)
class TriggerRule:
    """One trigger of a function as its manifest needs it; times in seconds."""

    broker: str
    filter: Mapping[str, str] = field(default_factory=dict)
    retry: int = 5
    backoff_policy: str = "exponential"
    backoff_delay_s: float = 0.2
    timeout_s: float = limits.TIMEOUT_SECONDS_DEFAULT


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a revision is made of; two equal plans are one revision."""

    name: str
    image: str  # with its digest
    handler: str
    models: Mapping[str, str] = field(default_factory=dict)  # alias -> exact version
    env: Mapping[str, str] = field(default_factory=dict)
    env_from: tuple[EnvFrom, ...] = ()
    concurrency: int = limits.CONCURRENCY_DEFAULT
    timeout_s: float = limits.TIMEOUT_SECONDS_DEFAULT
    threads: int = limits.THREADS_DEFAULT
    scale_min: int = 0
    scale_max: int = 5
    window_s: float = 60.0
    resources: Resources = field(default_factory=Resources)
    triggers: tuple[TriggerRule, ...] = ()

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of what the revision is: the template without its name."""
        text = json.dumps(_template(self, "", ""), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def plan(spec: FunctionSpec, image: str, models: Mapping[str, str], event_types: Sequence[str] = ()) -> Plan:
    """Reduce a specification to a plan; ``event_types`` are the handler's, for triggers the file does not name.

    Raises UsageError for an image without a digest: a tag may mean other bytes tomorrow.
    """
    if "@sha256:" not in image:
        raise UsageError(f"the image {image!r} has no digest; it must be NAME@sha256:…")
    triggers = spec.triggers
    if triggers is None:
        triggers = tuple(spec.trigger_for(kind) for kind in dict.fromkeys(event_types))
    return Plan(
        name=spec.name,
        image=image,
        handler=spec.handler,
        models=dict(models),
        env=dict(spec.env),
        env_from=spec.env_from,
        concurrency=spec.concurrency,
        timeout_s=spec.timeout_s,
        threads=spec.threads,
        scale_min=spec.scale.min,
        scale_max=spec.scale.max,
        window_s=spec.scale.window_s,
        resources=spec.resources,
        triggers=tuple(map(_rule, triggers)),
    )


def content_name(of: Plan) -> str:
    """Name a revision by what it is: ``filetype-3f2a9c1d``."""
    return f"{of.name}-{of.digest[:NAME_DIGEST_CHARS]}"


def service(of: Plan, revision: str) -> Object:
    """Give what the template manager applies: a Service with a revision's chosen name and without traffic."""
    return {
        "metadata": {"name": of.name, "labels": {**objects.MANAGED, objects.FUNCTION: of.name}},
        "spec": {"template": _template(of, revision, of.digest)},
    }


def triggers(
    function: str, rules: Sequence[TriggerRule], dead_letters: Mapping[str, Object] | None = None
) -> list[Object]:
    """Give a function's Trigger manifests; a name stands for broker and filter, which make a trigger what it is.

    ``dead_letters`` maps a broker to its dead letter sink: a trigger that says anything of delivery loses it else.
    """
    sinks = dead_letters or {}
    return [_trigger(function, rule, sinks.get(rule.broker)) for rule in rules]


def documents(of: Plan, namespace: str = "") -> list[Object]:
    """Give the whole of a function for a repository of manifests: revision named by content, all traffic on it."""
    revision = content_name(of)
    whole = service(of, revision)
    whole["spec"]["traffic"] = [split.entry(Target(revision, 100))]
    made = [{"apiVersion": objects.SERVICE.api, "kind": objects.SERVICE.name, **whole}]
    made += [
        {"apiVersion": objects.TRIGGER.api, "kind": objects.TRIGGER.name, **one}
        for one in triggers(of.name, of.triggers)
    ]
    for document in made:
        if namespace:
            document["metadata"]["namespace"] = namespace
    return made


def text(documents: Sequence[Object]) -> str:
    """Write manifests as YAML; the same manifests are the same bytes."""
    import yaml

    return "---\n".join(yaml.safe_dump(one, sort_keys=True, width=1_000, allow_unicode=True) for one in documents)


def rules_of(revision: Object) -> tuple[TriggerRule, ...]:
    """Read the triggers a revision was deployed with."""
    found = objects.json_annotation(revision, objects.TRIGGERS, [])
    return tuple(TriggerRule(**one) for one in found)


def timeout_seconds(timeout_s: float) -> int:
    """Give a revision's timeout: past the function's own, and long enough for Knative's drain."""
    wanted = math.ceil(timeout_s) + _MARGIN_SECONDS
    return min(max(wanted, limits.CLUSTER_TIMEOUT_SECONDS_MIN), int(limits.TIMEOUT_SECONDS_MAX))


# Inside.


def _template(of: Plan, revision: str, digest: str) -> Object:
    seconds = timeout_seconds(of.timeout_s)
    named = {"name": revision} if revision else {}
    return {
        "metadata": {
            **named,
            "labels": {**objects.MANAGED, objects.FUNCTION: of.name},
            "annotations": _annotations(of, digest),
        },
        "spec": {
            "containerConcurrency": of.concurrency,
            "timeoutSeconds": seconds,
            "responseStartTimeoutSeconds": seconds,
            "containers": [_container(of)],
            "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": _SCRATCH}}],
        },
    }


def _annotations(of: Plan, digest: str) -> dict[str, str]:
    window_s = max(of.window_s, limits.CLUSTER_WINDOW_SECONDS_MIN)
    prefix = "autoscaling.knative.dev"
    return {
        f"{prefix}/metric": "concurrency",
        f"{prefix}/min-scale": str(of.scale_min),
        f"{prefix}/max-scale": str(of.scale_max),
        f"{prefix}/window": f"{window_s:g}s",
        f"{prefix}/target-burst-capacity": str(of.concurrency),
        objects.MODELS: _json(dict(of.models)),
        objects.TRIGGERS: _json([asdict(rule) for rule in of.triggers]),
        **({objects.DIGEST: digest} if digest else {}),
    }


def _container(of: Plan) -> Object:
    found: Object = {
        "name": objects.USER_CONTAINER,
        "image": of.image,
        "env": [{"name": name, "value": value} for name, value in sorted(_environment(of).items())],
        "readinessProbe": {"httpGet": {"path": READY_PATH}, "successThreshold": 1},
        "livenessProbe": {
            "httpGet": {"path": LIVE_PATH},
            "periodSeconds": _LIVE_PERIOD_SECONDS,
            "timeoutSeconds": _LIVE_PERIOD_SECONDS // 2,
            "failureThreshold": _LIVE_FAILURES,
        },
        "resources": {
            "requests": {"cpu": of.resources.cpu, "memory": of.resources.memory},
            "limits": {"cpu": of.resources.cpu_max, "memory": of.resources.memory_max},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - the pod's own, empty at its start
    }
    if of.env_from:
        found["envFrom"] = [_reference(one) for one in of.env_from]
    return found


def _environment(of: Plan) -> dict[str, str]:
    """Give the runtime contract's variables; PORT and K_* are Knative's own to set."""
    handler = PurePosixPath(SOURCE, of.handler)
    contract = {
        "SHOAL_SOURCE": str(handler.parent),
        "SHOAL_HANDLER": handler.name,
        "SHOAL_CONCURRENCY": str(of.concurrency),
        "SHOAL_TIMEOUT_SECONDS": f"{of.timeout_s:g}",
        "SHOAL_THREADS": str(of.threads),
    }
    if of.models:
        contract |= {"SHOAL_MODELS": _json(dict(of.models)), "SHOAL_POOL": objects.POOL_ADDRESS}
    return {**of.env, **contract}


def _reference(source: EnvFrom) -> Object:
    kind, name = ("configMapRef", source.config_map) if source.config_map else ("secretRef", source.secret)
    return {kind: {"name": name}}


def _rule(trigger: Trigger) -> TriggerRule:
    delivery = trigger.delivery
    return TriggerRule(
        broker=trigger.broker,
        filter=dict(trigger.filter),
        retry=delivery.retry,
        backoff_policy=delivery.backoff_policy,
        backoff_delay_s=delivery.backoff_delay_s,
        timeout_s=delivery.timeout_s,
    )


def _trigger(function: str, rule: TriggerRule, dead_letters: Object | None) -> Object:
    what = hashlib.sha256(_json([rule.broker, dict(rule.filter)]).encode()).hexdigest()
    return {
        "metadata": {
            "name": f"{function}-{what[:NAME_DIGEST_CHARS]}",
            "labels": {**objects.MANAGED, objects.FUNCTION: function},
        },
        "spec": {
            "broker": rule.broker,
            **({"filter": {"attributes": dict(rule.filter)}} if rule.filter else {}),
            "subscriber": {
                "ref": {"apiVersion": objects.SERVICE.api, "kind": objects.SERVICE.name, "name": function}
            },
            "delivery": _delivery(rule) | ({"deadLetterSink": dead_letters} if dead_letters else {}),
        },
    }


def _delivery(rule: TriggerRule) -> Object:
    """Write the whole block: a trigger's delivery replaces its broker's, field by field unsaid is none."""
    return {
        "retry": rule.retry,
        "backoffPolicy": rule.backoff_policy,
        "backoffDelay": iso_duration(rule.backoff_delay_s),
        "timeout": iso_duration(rule.timeout_s),
    }


def iso_duration(seconds: float) -> str:
    """Write a duration as ISO 8601: 0.2 -> ``PT0.2S``."""
    return f"PT{f'{seconds:.3f}'.rstrip('0').rstrip('.')}S"


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
