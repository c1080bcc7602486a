"""Kubernetes' restricted Pod Security profile, held against a pod specification without a cluster.

The rules are those of the Pod Security Standards; a read-only root file system is shoal's own, on top.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from shoal.platform.knative.objects import Object

_VOLUMES: Final = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
_PROFILES: Final = ("RuntimeDefault", "Localhost")
_PROC: Final = ("Default", None)


def violations(spec: Object) -> list[str]:
    """Name every rule a pod specification breaks; an empty list means the profile admits it."""
    found = [*_pod(spec), *_volumes(spec)]
    inherited = spec.get("securityContext") or {}
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(kind, ()):
            found += [f"container {container['name']}: {told}" for told in _container(container, inherited)]
    return found


def _pod(spec: Object) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is set"
    if (spec.get("securityContext") or {}).get("sysctls"):
        yield "sysctls are set"


def _volumes(spec: Object) -> Iterator[str]:
    for volume in spec.get("volumes", ()):
        kinds = set(volume) - {"name"}
        if not kinds <= _VOLUMES:
            yield f"volume {volume['name']} is a {', '.join(sorted(kinds - _VOLUMES))}"


def _container(container: Object, inherited: Mapping[str, Any]) -> Iterator[str]:
    own = container.get("securityContext") or {}
    both = {**inherited, **own}
    capabilities = own.get("capabilities") or {}
    if own.get("privileged"):
        yield "it is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if "ALL" not in capabilities.get("drop", ()):
        yield "it does not drop ALL capabilities"
    if set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"it adds capabilities {capabilities['add']}"
    if both.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if both.get("runAsUser") == 0:
        yield "runAsUser is 0"
    if (both.get("seccompProfile") or {}).get("type") not in _PROFILES:
        yield f"its seccomp profile is none of {', '.join(_PROFILES)}"
    if own.get("procMount") not in _PROC:
        yield "procMount is set"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem is not true"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield "it has a host port"
