"""Whether a cluster is fit for shoal: Kubernetes, Knative Serving and Eventing, there and not too old.

What a cluster does not say is not held against it: a build without a version, or one this user may not see.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from shoal.core import limits
from shoal.core.errors import NotFoundError, PlatformError, ShoalError, UsageError
from shoal.platform.knative.client import Cluster
from shoal.platform.knative.objects import Kind, label

_DEFINITION: Final = Kind("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition")
_VERSION_LABEL: Final = "app.kubernetes.io/version"
_EVERYWHERE: Final = "*"
_NUMBERS: Final = re.compile(r"v?(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Part:
    """Something a cluster must have: its oldest version that works, why, and how to get it."""

    name: str
    oldest: tuple[int, int]
    reason: str
    hint: str
    definition: str = ""  # the CustomResourceDefinition that shows it is there


KUBERNETES: Final = Part(
    "Kubernetes", (1, 30), "the pool's pods use sidecar containers and the sleep hook", "upgrade the cluster"
)
SERVING: Final = Part(
    "Knative Serving",
    (1, 17),
    "older releases are out of support",
    "kubectl apply -f https://github.com/knative/serving/releases/download/knative-v1.23.0/serving-crds.yaml, "
    "then serving-core.yaml and a network layer such as Kourier: https://knative.dev/docs/install",
    "services.serving.knative.dev",
)
EVENTING: Final = Part(
    "Knative Eventing",
    (1, 17),
    "older releases are out of support",
    "kubectl apply -f https://github.com/knative/eventing/releases/download/knative-v1.23.0/eventing-crds.yaml, "
    "then eventing-core.yaml, in-memory-channel.yaml and mt-channel-broker.yaml: https://knative.dev/docs/install",
    "brokers.eventing.knative.dev",
)


def check(cluster: Cluster) -> dict[str, str]:
    """Give the version of each part; UsageError names all that are missing or too old, and how to get them."""
    found: dict[str, str] = {}
    wrong: list[tuple[str, str]] = []
    for part in (KUBERNETES, SERVING, EVENTING):
        version = _version(cluster, part)
        found[part.name] = version or "none"
        if told := _verdict(part, version):
            wrong.append((told, part.hint))
    if wrong:
        raise UsageError(
            f"the cluster is not fit for shoal ({cluster.where}): " + "; ".join(told for told, _ in wrong),
            hint="; ".join(dict.fromkeys(hint for _, hint in wrong)),
        )
    return found


def _verdict(part: Part, version: str) -> str:
    if not version:
        return f"{part.name} is not installed"
    numbers = _NUMBERS.match(version)
    if numbers and (int(numbers[1]), int(numbers[2])) < part.oldest:
        return (
            f"{part.name} is {version}, {part.oldest[0]}.{part.oldest[1]} is the oldest that works ({part.reason})"
        )
    return ""


def _version(cluster: Cluster, part: Part) -> str:
    """Give a part's version, ``unknown`` where it does not say, and nothing where it is not there."""
    if not part.definition:
        return _server_version(cluster)
    try:
        definition = cluster.get(_DEFINITION, part.definition, _EVERYWHERE)
    except NotFoundError:
        return ""
    except ShoalError as error:
        if error.status == 403:
            return "unknown"  # then the first object of that kind tells
        raise
    return label(definition, _VERSION_LABEL) or "unknown"


def _server_version(cluster: Cluster) -> str:
    status, body = cluster.send("GET", "/version", {}, b"", limits.CLUSTER_CALL_SECONDS_MAX)
    try:
        return str(json.loads(body)["gitVersion"])
    except (ValueError, KeyError, TypeError):
        raise PlatformError(f"the server of {cluster.where} does not tell its version: status {status}") from None
