"""The API server's refusals, as it really words them, each one sentence that says where and what is missing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shoal.core.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    NotRunningError,
    PlatformError,
    ShoalError,
    UsageError,
)
from shoal.platform.knative.answers import Asked, explain, unreachable

WHERE = "namespace 'team' of context 'production'"
ASKED = Asked("patch", "services", "serving.knative.dev/v1", "f", WHERE)
FORBIDDEN = (
    'services.serving.knative.dev "f" is forbidden: User "ada" cannot patch resource "services" in API group '
    '"serving.knative.dev" in the namespace "team"'
)
CONFLICT = {
    "message": "Apply failed with 1 conflict",
    "details": {
        "causes": [
            {
                "reason": "FieldManagerConflict",
                "message": 'conflict with "kubectl-edit" using serving.knative.dev/v1',
                "field": ".spec.traffic",
            }
        ]
    },
}
WEBHOOK = 'admission webhook "validation.webhook.serving.knative.dev" denied the request: validation failed: bad: x'
ANSWERS: dict[str, tuple[int, Any, type[ShoalError], str]] = {
    "no Knative": (404, "404 page not found\n", NotRunningError, "the cluster has no Knative Serving"),
    "no Knative, as a status": (
        404, {"message": "the server could not find the requested resource", "details": {}}, NotRunningError,
        "has no Knative Serving",
    ),
    "no object": (404, {"details": {"name": "f", "kind": "services"}}, NotFoundError, "there is no services/f"),
    "no namespace": (
        404, {"details": {"name": "team", "kind": "namespaces"}}, NotFoundError, "there is no namespace 'team'",
    ),
    "no permission": (403, {"message": FORBIDDEN}, ForbiddenError, "may not patch services.serving.knative.dev"),
    "quota": (403, {"message": "f is forbidden: exceeded quota: small"}, PlatformError, "the quota of"),
    "not known": (401, {"message": "Unauthorized"}, ForbiddenError, "does not know this user"),
    "another manager": (409, CONFLICT, ConflictError, "'kubectl-edit' holds spec.traffic"),
    "changed": (409, {"message": "the object has been modified"}, ConflictError, "changed meanwhile"),
    "a webhook": (400, {"message": WEBHOOK}, UsageError, "refuses services/f"),
    "invalid": (422, {"message": "spec.x: unknown field"}, UsageError, "spec.x: unknown field"),
    "busy": (429, {"message": "too many requests"}, NotRunningError, "429 too many requests"),
    "broken": (500, {"message": "etcd"}, PlatformError, "500 etcd"),
    "not JSON": (502, "<html>bad gateway</html>", NotRunningError, "bad gateway"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_a_refusal_says_what_and_where(name: str) -> None:
    status, body, kind, text = ANSWERS[name]
    raw = body if isinstance(body, str) else json.dumps(body)
    error = explain(status, raw.encode(), ASKED)
    assert type(error) is kind
    assert text in error.message
    assert WHERE in error.message
    assert "\n" not in error.message


def test_a_missing_permission_names_verb_and_resource_in_its_hint() -> None:
    error = explain(403, json.dumps({"message": FORBIDDEN}).encode(), ASKED)
    assert error.hint == "kubectl auth can-i patch services.serving.knative.dev"


def test_a_webhook_is_named_once() -> None:
    error = explain(400, json.dumps({"message": WEBHOOK}).encode(), ASKED)
    assert error.message.endswith("bad: x (webhook validation.webhook.serving.knative.dev)")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("[Errno 111] Connection refused", "connection refused"),
        ("[Errno -2] Name or service not known", "its name does not resolve"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] x", "its certificate is not the kubeconfig's"),
        ("timed out", "no answer in time"),
        ("something else", "something else"),
    ],
)
def test_silence_has_a_reason(said: str, reason: str) -> None:
    error = unreachable("https://203.0.113.7:6443", WHERE, OSError(said))
    assert error.message == f"the cluster at https://203.0.113.7:6443 does not answer: {reason} ({WHERE})"
