"""The objects shoal reads and writes on a cluster: their kinds, shoal's names on them, and small readers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

Object: TypeAlias = dict[str, Any]  # as the API server's JSON


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object: ``apps/v1`` or ``v1``, its plural in paths, its name in manifests."""

    api: str
    plural: str
    name: str

    def path(self, namespace: str, name: str = "") -> str:
        """Give the path of one object, or of the list; an empty namespace means all of them."""
        root = f"/apis/{self.api}" if "/" in self.api else f"/api/{self.api}"
        inside = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{inside}/{self.plural}" + (f"/{name}" if name else "")


SERVICE: Final = Kind("serving.knative.dev/v1", "services", "Service")
REVISION: Final = Kind("serving.knative.dev/v1", "revisions", "Revision")
ROUTE: Final = Kind("serving.knative.dev/v1", "routes", "Route")
CONFIGURATION: Final = Kind("serving.knative.dev/v1", "configurations", "Configuration")
AUTOSCALER: Final = Kind("autoscaling.internal.knative.dev/v1alpha1", "podautoscalers", "PodAutoscaler")
BROKER: Final = Kind("eventing.knative.dev/v1", "brokers", "Broker")
TRIGGER: Final = Kind("eventing.knative.dev/v1", "triggers", "Trigger")
POD: Final = Kind("v1", "pods", "Pod")
EVENT: Final = Kind("v1", "events", "Event")
CONFIG_MAP: Final = Kind("v1", "configmaps", "ConfigMap")
DEPLOYMENT: Final = Kind("apps/v1", "deployments", "Deployment")

# Field managers: two, because a split belongs to whoever rolls out, a template to whoever deploys.
TEMPLATE_MANAGER: Final = "shoal-template"
TRAFFIC_MANAGER: Final = "shoal-traffic"
OWN_MANAGERS: Final = (TEMPLATE_MANAGER, TRAFFIC_MANAGER)

# Labels and annotations.
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED: Final = {MANAGED_BY: "shoal"}
FUNCTION: Final = "shoal.dev/function"
DIGEST: Final = "shoal.dev/digest"  # of a revision: image, configuration, model versions
MODELS: Final = "shoal.dev/models"  # of a revision: JSON alias -> exact version
TRIGGERS: Final = "shoal.dev/triggers"  # of a revision: JSON, what its triggers are while it leads
HISTORY: Final = "shoal.dev/traffic-history"  # of a Service: JSON, earlier percents, newest last
NUMBER: Final = "shoal.dev/revision-number"  # of a Service: the highest number given to a revision
SERVICE_LABEL: Final = "serving.knative.dev/service"
REVISION_LABEL: Final = "serving.knative.dev/revision"
NAME_DIGEST_CHARS: Final = 8  # of a digest, in a revision's or a trigger's name
USER_CONTAINER: Final = "user-container"

# Shoal's own corner of a cluster.
SYSTEM_NAMESPACE: Final = "shoal-system"
POOL_ADDRESS: Final = f"shoal-pool.{SYSTEM_NAMESPACE}.svc.cluster.local:8000"
LEASES: Final = "shoal-leases"
POOL_STATUS: Final = "shoal-pool-status"


@dataclass(frozen=True, slots=True)
class Condition:
    """One entry of ``status.conditions``; status "" when it is not there."""

    status: str = ""
    reason: str = ""
    message: str = ""

    @property
    def true(self) -> bool:
        """Whether it holds."""
        return self.status == "True"


def metadata(item: Object) -> Mapping[str, Any]:
    """Give an object's metadata."""
    found: Mapping[str, Any] = item.get("metadata") or {}
    return found


def name_of(item: Object) -> str:
    """Give an object's name."""
    return str(metadata(item).get("name", ""))


def annotation(item: Object, name: str) -> str:
    """Give an annotation; empty when it is not there."""
    return str((metadata(item).get("annotations") or {}).get(name, ""))


def label(item: Object, name: str) -> str:
    """Give a label; empty when it is not there."""
    return str((metadata(item).get("labels") or {}).get(name, ""))


def json_annotation(item: Object, name: str, default: Any) -> Any:
    """Read an annotation's JSON; ``default`` when it is absent, is none, or is of another type."""
    try:
        found = json.loads(annotation(item, name))
    except ValueError:
        return default
    return found if isinstance(found, type(default)) else default


def condition(item: Object, kind: str = "Ready") -> Condition:
    """Give a condition of an object."""
    for one in (item.get("status") or {}).get("conditions") or ():
        if one.get("type") == kind:
            return Condition(str(one.get("status", "")), str(one.get("reason", "")), str(one.get("message", "")))
    return Condition()


def observed(item: Object) -> bool:
    """Say whether the status is about the specification as it is now: only then do its conditions count."""
    seen = (item.get("status") or {}).get("observedGeneration")
    return bool(seen == metadata(item).get("generation"))


def deleted(item: Object) -> bool:
    """Say whether the object is on its way out."""
    return "deletionTimestamp" in metadata(item)


def created(item: Object) -> float:
    """Give when the object was made, in seconds since the epoch; 0 when it does not say."""
    text = str(metadata(item).get("creationTimestamp") or "")
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else 0.0


def number_of(revision: str) -> int:
    """Give a revision's number: ``filetype-00002`` -> 2; 0 when its name carries none, as a digest."""
    tail = revision.rpartition("-")[2]
    return int(tail) if tail.isascii() and tail.isdigit() and len(tail) < NAME_DIGEST_CHARS else 0
