"""What the API server's refusals mean: from status code and body to one error of the tree, with place and verb."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shoal.core.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    NotRunningError,
    PlatformError,
    ShoalError,
    UsageError,
)

_MANAGER = re.compile(r'conflict with "([^"]+)"')
_WEBHOOK = re.compile(r'admission webhook "([^"]+)" denied the request: (.*)', re.DOTALL)
_CANNOT = re.compile(r"cannot (\S+) resource \"([^\"]+)\"(?: in API group \"([^\"]*)\")?")
_CHARS_MAX: Final = 600  # of the server's own words
_INSTALL: Final = "shoal platform install --target cluster"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked: the verb, the kind's plural and API, the object, and where."""

    verb: str
    plural: str
    api: str
    name: str
    where: str  # "namespace 'x' of context 'y'"

    @property
    def what(self) -> str:
        """The object for people: ``services/filetype``."""
        return f"{self.plural}/{self.name}" if self.name else self.plural


def explain(status: int, raw: bytes, asked: Asked) -> ShoalError:
    """Make the error for an answer of 400 or more."""
    body = _body(raw)
    said = " ".join(str(body.get("message") or raw.decode("utf-8", "replace")).split())[:_CHARS_MAX]
    if status == 404:
        return _absent(body, asked)
    if status == 401:
        hint = "kubectl auth whoami"
        return ForbiddenError(f"the cluster does not know this user ({asked.where})", hint=hint)
    if denied := _WEBHOOK.search(said):
        reason = denied[2].removeprefix("validation failed: ")
        return UsageError(f"the cluster refuses {asked.what} in {asked.where}: {reason} (webhook {denied[1]})")
    if status == 403:
        return _forbidden(said, asked)
    if status == 409:
        return _conflict(body, said, asked)
    if status in (400, 413, 422):
        return UsageError(f"the cluster refuses {asked.what} in {asked.where}: {said}")
    kind = NotRunningError if status in (429, 502, 503, 504) else PlatformError
    hint = "kubectl get --raw /readyz" if kind is NotRunningError else ""
    return kind(f"cannot {asked.verb} {asked.what} in {asked.where}: {status} {said}", hint=hint)


def unreachable(server: str, where: str, error: BaseException) -> NotRunningError:
    """Make the error for a server that does not answer."""
    text = str(getattr(error, "reason", "") or error)
    known = {
        "Connection refused": "connection refused",
        "Name or service not known": "its name does not resolve",
        "Temporary failure in name resolution": "its name does not resolve",
        "CERTIFICATE_VERIFY_FAILED": "its certificate is not the kubeconfig's",
        "timed out": "no answer in time",
        "No route to host": "no route to it",
        "Network is unreachable": "no route to it",
    }
    reason = next((said for word, said in known.items() if word in text), text[:_CHARS_MAX])
    return NotRunningError(
        f"the cluster at {server} does not answer: {reason} ({where})", hint="kubectl cluster-info"
    )


def managers_in_conflict(body: Mapping[str, Any]) -> dict[str, list[str]]:
    """List the other field managers of a refused apply, each with the fields it holds."""
    found: dict[str, list[str]] = {}
    for cause in (body.get("details") or {}).get("causes") or ():
        if match := _MANAGER.search(str(cause.get("message", ""))):
            found.setdefault(match[1], []).append(str(cause.get("field", "")).lstrip("."))
    return found


def _absent(body: Mapping[str, Any], asked: Asked) -> ShoalError:
    details = body.get("details") or {}
    if details.get("name") and details.get("kind") != "namespaces":
        return NotFoundError(f"there is no {asked.what} in {asked.where}")
    if details.get("kind") == "namespaces":
        name = details.get("name")
        return NotFoundError(
            f"there is no namespace {name!r} ({asked.where})", hint=f"kubectl create namespace {name}"
        )
    parts = {"serving.knative.dev": "Knative Serving", "eventing.knative.dev": "Knative Eventing"}
    part = parts.get(asked.api.partition("/")[0], asked.api)
    return NotRunningError(f"the cluster has no {part}: {asked.api} is unknown ({asked.where})", hint=_INSTALL)


def _forbidden(said: str, asked: Asked) -> ShoalError:
    if "exceeded quota" in said:
        return PlatformError(f"the quota of {asked.where} does not allow {asked.what}: {said}")
    if "being terminated" in said:
        return ConflictError(f"{asked.where} is being deleted", hint="choose another: --namespace")
    if not (match := _CANNOT.search(said)):
        return ForbiddenError(f"{asked.verb} of {asked.what} in {asked.where} is forbidden: {said}")
    group = f".{match[3]}" if match[3] else ""
    verb, resource = match[1], f"{match[2]}{group}"
    return ForbiddenError(
        f"this user may not {verb} {resource} in {asked.where}: its roles lack verb {verb!r} on {resource!r}",
        hint=f"kubectl auth can-i {verb} {resource}",
    )


def _conflict(body: Mapping[str, Any], said: str, asked: Asked) -> ShoalError:
    if managers := managers_in_conflict(body):
        told = "; ".join(f"{name!r} holds {', '.join(fields)}" for name, fields in sorted(managers.items()))
        return ConflictError(
            f"{asked.what} in {asked.where} is also managed by another tool: {told}",
            hint=f"kubectl get {asked.what} -o yaml --show-managed-fields",
        )
    return ConflictError(f"{asked.what} in {asked.where} changed meanwhile: {said}")


def _body(raw: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
