"""Leases and reports, as they stand in two ConfigMaps: reading, writing, and whether what is leased would fit.

``shoal-leases`` has one key per function, its value the exact model versions it needs, one a line. Each key is
applied by a field manager of its own, so the API server counts the references: a version is wanted while any key
names it. ``shoal-pool-status`` has one key per pod of the pool, a JSON object of its models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shoal.core.errors import ConflictError, UsageError
from shoal.core.limits import STATUS_REASON_CHARS_MAX
from shoal.core.names import HASH_CHARS, model_of

NAMESPACE: Final = "shoal-system"
LEASES: Final = "shoal-leases"
STATUS: Final = "shoal-pool-status"
SETTINGS: Final = "shoal-pool"
READY: Final = "READY"
_VERSION: Final = re.compile(rf"[a-zA-Z0-9][-_.a-zA-Z0-9]{{0,62}}--[0-9a-f]{{{HASH_CHARS}}}")


def field_manager(function: str) -> str:
    """Name the field manager that owns a function's lease."""
    return f"shoal-lease-{function}"


def lease(function: str, versions: Iterable[str], namespace: str = NAMESPACE) -> dict[str, Any]:
    """Give the object to apply, as ``field_manager(function)``, so that the pool holds these versions.

    Without versions it has no key: applied, it ends the function's lease.
    """
    named = sorted(set(versions))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": LEASES, "namespace": namespace},
        **({"data": {function: "\n".join(named)}} if named else {}),
    }


def wanted(leases: Mapping[str, str]) -> tuple[frozenset[str], dict[str, str]]:
    """Read the leases: the versions wanted, and the functions whose value has a line that is no version's name."""
    found: set[str] = set()
    wrong: dict[str, str] = {}
    for function, text in leases.items():
        for line in filter(None, map(str.strip, text.splitlines())):
            if is_version(line):
                found.add(line)
            else:
                wrong[function] = line
    return frozenset(found), wrong


def is_version(name: str) -> bool:
    """Whether this is the exact name of a model version, ``<model>--<hash12>``."""
    return _VERSION.fullmatch(name) is not None


def report(models: Mapping[str, Mapping[str, str]]) -> str:
    """Write one pod's report; long reasons are cut, as all pods share one object."""
    short = {
        name: {"state": one["state"], "reason": one["reason"][:STATUS_REASON_CHARS_MAX]}
        for name, one in sorted(models.items())
    }
    return json.dumps(short, separators=(",", ":"))


def read_reports(status: Mapping[str, str], pods: Collection[str]) -> dict[str, dict[str, dict[str, str]]]:
    """Read the reports of the pods there are: pod -> version -> state and reason.

    A pod that was killed leaves its key behind, so only ``pods`` count; one without a report has an empty one.
    """
    found: dict[str, dict[str, dict[str, str]]] = {}
    for pod in pods:
        try:
            found[pod] = dict(json.loads(status.get(pod, "{}")))
        except (ValueError, TypeError):
            found[pod] = {}
    return found


def model_states(reports: Mapping[str, Mapping[str, Mapping[str, str]]]) -> dict[str, str]:
    """Sum reports up: version -> READY on every pod, LOADING on some, or the first failure's text with its pod."""
    names = sorted({name for one in reports.values() for name in one})
    return {name: _state(name, reports) for name in names}


def _state(name: str, reports: Mapping[str, Mapping[str, Mapping[str, str]]]) -> str:
    ones = {pod: report.get(name, {"state": "LOADING", "reason": ""}) for pod, report in sorted(reports.items())}
    for pod, one in ones.items():
        if one["state"] == "FAILED":
            return f"{pod}: {one['reason']}"
    return READY if all(one["state"] == READY for one in ones.values()) else "LOADING"


@dataclass(frozen=True, slots=True)
class Budget:
    """Memory of one replica that models may take, and the guess for a model that was never measured.

    ``size_factor``: memory as a multiple of a version's files, as loading needs more than the files have;
    ``model_bytes``: what every model takes besides, its server processes for instance.
    """

    memory_bytes: int
    size_factor: float = 2.0
    model_bytes: int = 0

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Budget:
        """Read the ConfigMap of the pool's settings; UsageError names a value that is no number."""
        try:
            return cls(
                int(settings.get("memory-bytes", "0")),
                float(settings.get("size-factor", "2.0")),
                int(settings.get("model-bytes", "0")),
            )
        except ValueError as error:
            raise UsageError(f"ConfigMap {SETTINGS}: memory-bytes, size-factor and model-bytes: {error}") from None

    def guess(self, files_bytes: int) -> int:
        """Give the memory (bytes) of a version whose files have this size."""
        return round(files_bytes * self.size_factor) + self.model_bytes


def check_fits(
    versions: Collection[str], files_bytes: Mapping[str, int], budget: Budget, measured: Mapping[str, int] = {}
) -> int:
    """Give the memory (bytes) these versions take on one replica; ConflictError with figures when they do not fit.

    ``files_bytes`` is each version's size on disk, ``measured`` what a replica was seen to use, where known. During
    a rollout both versions of a model are there, so both are in ``versions``. A budget of 0 bytes is no limit.
    """
    needs = {name: measured.get(name, budget.guess(files_bytes.get(name, 0))) for name in sorted(versions)}
    total = sum(needs.values())
    if not budget.memory_bytes or total <= budget.memory_bytes:
        return total
    largest = sorted(needs.items(), key=lambda one: -one[1])
    told = ", ".join(f"{name} {_mib(size)}" for name, size in largest[:5])
    rest = f" and {len(largest) - 5} more" if len(largest) > 5 else ""
    same = sorted(
        {model_of(name) for name in needs if sum(model_of(other) == model_of(name) for other in needs) > 1}
    )
    raise ConflictError(
        f"the pool's models would take {_mib(total)} on each replica, its budget is "
        f"{_mib(budget.memory_bytes)}: {told}{rest}",
        hint=f"end a rollout that holds two versions of {same[0]}"
        if same
        else f"delete a function, or raise memory-bytes in ConfigMap {SETTINGS} with the replicas' memory",
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
