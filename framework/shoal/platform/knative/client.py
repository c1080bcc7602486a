"""All access to a cluster: six verbs on plain dictionaries, over the kubernetes package's transport.

The package is imported at the first call, not before: it takes most of a second. Its generated models are not used;
objects are the API's own JSON both ways, which is faster and loses no field the models do not know.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any, Final, Protocol
from urllib.parse import urlencode

from shoal.core import limits
from shoal.core.errors import NotFoundError, NotRunningError, PlatformError, UsageError
from shoal.platform.knative.answers import Asked, explain, unreachable
from shoal.platform.knative.objects import Kind, Object, name_of

_APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML
_MERGE: Final = "application/merge-patch+json"
_GONE: Final = 410  # of a watch: begin again from a list


class Cluster(Protocol):
    """What the platform needs of a cluster; a namespace of "" is the client's own."""

    @property
    def context(self) -> str:
        """The kubeconfig's context."""
        ...

    @property
    def namespace(self) -> str:
        """The namespace functions are in."""
        ...

    @property
    def where(self) -> str:
        """Both, for messages."""
        ...

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        """Read one object; NotFoundError."""
        ...

    def list(self, kind: Kind, namespace: str = "", *, labels: str = "", fields: str = "") -> list[Object]:
        """Read all objects a selector means, page by page."""
        ...

    def watch(self, kind: Kind, name: str, version: str, seconds: float) -> Iterator[Object]:
        """Yield one object's states after ``version`` until ``seconds`` have passed or the server ends it."""
        ...

    def apply(
        self, kind: Kind, item: Object, manager: str, namespace: str = "", *, force: bool = False, dry: bool = False
    ) -> Object:
        """Server-side apply; ConflictError names the other managers of a field."""
        ...

    def patch(self, kind: Kind, name: str, change: Object, namespace: str = "") -> Object:
        """Merge ``change`` into an object; NotFoundError."""
        ...

    def delete(self, kind: Kind, name: str, namespace: str = "") -> bool:
        """Delete an object, its dependents after it; False when it was not there."""
        ...

    def lines(self, path: str, parameters: Mapping[str, Any], seconds: float | None) -> Iterator[bytes]:
        """Yield the lines of a streamed answer; no limit between two of them when ``seconds`` is None."""
        ...

    def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> tuple[int, bytes]:
        """Send one request through the API server and give status and body, whatever the status."""
        ...


class KubernetesCluster:
    """The cluster of a kubeconfig's context; nothing is opened before the first call. Safe for threads."""

    def __init__(self, context: str = "", namespace: str = "") -> None:
        self._context, self._namespace = context, namespace
        self._lock = threading.Lock()
        self._api: Any = None

    @property
    def context(self) -> str:
        """The context's name; ``in-cluster`` inside a pod."""
        self._open()
        return self._context

    @property
    def namespace(self) -> str:
        """The namespace: the one asked for, else the context's, else ``default``."""
        self._open()
        return self._namespace

    @property
    def where(self) -> str:
        """Namespace and context, for messages."""
        return self._where(self.namespace)

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        """Read one object; NotFoundError when it is not there."""
        return self._json("GET", kind, name, namespace, verb="get")

    def list(self, kind: Kind, namespace: str = "", *, labels: str = "", fields: str = "") -> list[Object]:
        """Read all objects a selector means; pages of 500, a limit on their number."""
        selectors = {"labelSelector": labels, "fieldSelector": fields, "limit": limits.CLUSTER_PAGE}
        found: list[Object] = []
        token = ""
        while True:
            parameters = {**selectors, "continue": token}
            page = self._json("GET", kind, "", namespace, parameters, verb="list")
            found += page.get("items") or ()
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return found
            if len(found) >= limits.CLUSTER_OBJECTS_MAX:
                raise PlatformError(f"over {limits.CLUSTER_OBJECTS_MAX} {kind.plural} in {self.where}")

    def watch(self, kind: Kind, name: str, version: str, seconds: float) -> Iterator[Object]:
        """Yield the states of one object after ``version``; ends after ``seconds`` or when the server says so."""
        parameters = {
            "watch": 1,
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": version,
            "timeoutSeconds": max(1, round(seconds)),
        }
        for line in self.lines(kind.path(self.namespace), parameters, seconds + limits.CLUSTER_CONNECT_SECONDS_MAX):
            event = json.loads(line)
            if event.get("type") == "ERROR":
                return
            yield event["object"]

    def apply(
        self, kind: Kind, item: Object, manager: str, namespace: str = "", *, force: bool = False, dry: bool = False
    ) -> Object:
        """Server-side apply under a field manager; ConflictError names who else holds a field."""
        parameters = {
            "fieldManager": manager,
            "force": "true" if force else "false",
            "fieldValidation": "Strict",
            "dryRun": "All" if dry else "",
        }
        whole = {"apiVersion": kind.api, "kind": kind.name, **item}
        return self._json("PATCH", kind, name_of(item), namespace, parameters, whole, _APPLY, verb="patch")

    def patch(self, kind: Kind, name: str, change: Object, namespace: str = "") -> Object:
        """Merge ``change`` into an object; NotFoundError when it is not there."""
        return self._json("PATCH", kind, name, namespace, {}, change, _MERGE, verb="patch")

    def delete(self, kind: Kind, name: str, namespace: str = "") -> bool:
        """Delete an object; what it owns is collected after it. False when it was not there."""
        try:
            self._json("DELETE", kind, name, namespace, {"propagationPolicy": "Background"}, verb="delete")
        except NotFoundError:
            return False
        return True

    def lines(self, path: str, parameters: Mapping[str, Any], seconds: float | None) -> Iterator[bytes]:
        """Yield the lines of a streamed answer; ends when the server does, or is silent for ``seconds``."""
        import urllib3.exceptions as broken

        response = self._request("GET", path, parameters, None, "", seconds)
        asked = Asked("get", path.rpartition("/")[2], path, "", self.where)
        with closing(response):
            if response.status == _GONE:
                return
            if response.status >= 400:
                raise explain(response.status, response.read(limits.CLUSTER_ANSWER_BYTES_MAX), asked)
            rest = b""
            with suppress(broken.ReadTimeoutError, broken.ProtocolError):
                for chunk in response.stream(64 * 2**10):
                    *whole, rest = (rest + chunk).split(b"\n")
                    yield from whole
            if rest:
                yield rest

    def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> tuple[int, bytes]:
        """Send one request through the API server's proxy; NotRunningError when the server does not answer."""
        response = self._request(method, path, {}, body, "", seconds, headers)
        with closing(response):
            return int(response.status), response.read(limits.CLUSTER_ANSWER_BYTES_MAX)

    # Inside.

    def _json(
        self,
        method: str,
        kind: Kind,
        name: str,
        namespace: str,
        parameters: Mapping[str, Any] | None = None,
        body: Object | None = None,
        media_type: str = "",
        *,
        verb: str,
    ) -> Object:
        namespace = namespace or self.namespace
        raw = None if body is None else json.dumps(body).encode()
        path = kind.path("" if namespace == "*" else namespace, name)
        response = self._request(method, path, parameters or {}, raw, media_type, limits.CLUSTER_CALL_SECONDS_MAX)
        with closing(response):
            answer = response.read(limits.CLUSTER_ANSWER_BYTES_MAX)
            response.drain_conn()
        if response.status >= 400:
            raise explain(response.status, answer, Asked(verb, kind.plural, kind.api, name, self._where(namespace)))
        found: Object = json.loads(answer)
        return found

    def _request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, Any],
        body: bytes | None,
        media_type: str,
        seconds: float | None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        import urllib3

        api = self._open()
        query = urlencode({name: value for name, value in parameters.items() if value != ""})
        sent = {"Accept": "application/json", **(headers or {})}
        if media_type:
            sent["Content-Type"] = media_type
        api.update_params_for_auth(sent, [], ["BearerToken"], path, method, body)
        timeout = urllib3.Timeout(connect=limits.CLUSTER_CONNECT_SECONDS_MAX, read=seconds)
        url = f"{api.configuration.host}{path}" + (f"?{query}" if query else "")
        try:
            return api.rest_client.pool_manager.request(
                method, url, body=body, headers=sent, timeout=timeout, retries=False, preload_content=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise unreachable(api.configuration.host, self._where(self._namespace), error) from None

    def _where(self, namespace: str) -> str:
        return f"namespace {namespace!r} of context {self._context!r}"

    def _open(self) -> Any:
        with self._lock:
            if self._api is None:
                self._context, self._namespace, self._api = _connect(self._context, self._namespace)
            return self._api


def _connect(context: str, namespace: str) -> tuple[str, str, Any]:
    """Read the kubeconfig (KUBECONFIG, else ~/.kube/config, else the pod's own account) and make the transport."""
    try:
        from kubernetes import config
    except ModuleNotFoundError:
        raise UsageError(
            "the package 'kubernetes' is not installed, which a cluster needs", hint="pip install 'shoal[cluster]'"
        ) from None
    file = os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")
    if not context and not any(os.path.exists(part) for part in file.split(os.pathsep)):
        return _inside(file, namespace)
    try:
        contexts, active = config.list_kube_config_contexts(config_file=file)  # type: ignore[no-untyped-call]
        chosen = _chosen(contexts, context) if context else active
        api = config.new_client_from_config(  # type: ignore[no-untyped-call]
            config_file=file, context=chosen["name"], persist_config=False
        )
    except config.ConfigException as error:
        raise UsageError(
            f"the kubeconfig {file} cannot be used: {error}", hint="kubectl config get-contexts"
        ) from None
    return chosen["name"], namespace or (chosen.get("context") or {}).get("namespace") or "default", api


def _chosen(contexts: Sequence[Mapping[str, Any]], wanted: str) -> Mapping[str, Any]:
    found = next((one for one in contexts if one.get("name") == wanted), None)
    if found is None:
        known = ", ".join(sorted(str(one.get("name")) for one in contexts))
        raise UsageError(
            f"the kubeconfig has no context {wanted!r}; it has {known or 'none'}", hint="--context NAME"
        )
    return found


def _inside(file: str, namespace: str) -> tuple[str, str, Any]:
    from kubernetes import client, config

    try:
        configuration = client.Configuration()
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        raise NotRunningError(
            f"no cluster is configured: there is no {file}", hint="export KUBECONFIG=FILE"
        ) from None
    return "in-cluster", namespace or "default", client.ApiClient(configuration)
