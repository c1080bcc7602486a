"""The two doors of a cluster: the gateway, where functions are called, and the broker, which takes events."""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

from shoal.core import limits
from shoal.core.errors import EventError, NotFoundError, NotRunningError, PlatformError, ShoalError
from shoal.platform.knative import objects
from shoal.platform.knative.client import Cluster
from shoal.platform.knative.settings import Settings
from shoal.platform.port import Reply

_DOMAINS: Final = ("knative-serving", "config-domain")
_DOMAIN_DEFAULT: Final = "svc.cluster.local"
_MARGIN_SECONDS: Final = 10.0  # past the caller's own timeout, so that the function's answer comes first


class Gateway:
    """Calls functions by host name, at the gateway's address where one is set."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self._cluster, self._settings = cluster, settings
        self._domain = settings.domain

    @property
    def address(self) -> str:
        """Where requests go; empty when each function's own host name is used."""
        return self._settings.gateway

    def host(self, name: str, tag: str = "") -> str:
        """Give a function's host name: ``[TAG-]NAME.NAMESPACE.DOMAIN``, Knative's default template."""
        first = f"{tag}-{name}" if tag else name
        return f"{first}.{self._cluster.namespace}.{self.domain}"

    @property
    def domain(self) -> str:
        """The domain behind a namespace, read once from the cluster where the settings do not say."""
        if not self._domain:
            self._domain = self._ask_domain()
        return self._domain

    def call(
        self, host: str, method: str, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> Reply:
        """Send one request and read the answer whole; NotRunningError when nothing answers."""
        parts = urlsplit(self._settings.gateway or f"http://{host}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        sent = {"Host": host, "shoal-timeout-ms": str(int(timeout_s * 1000)), **headers}
        begun = time.monotonic()
        with closing(kind(parts.netloc, timeout=timeout_s + _MARGIN_SECONDS)) as connection:
            try:
                connection.request(method, path, body=body, headers=sent)
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise self._silent(parts.netloc, error) from error
        found = {key.lower(): value for key, value in response.getheaders()}
        return Reply(response.status, found, content, time.monotonic() - begun)

    def _silent(self, address: str, error: Exception) -> NotRunningError:
        reason = str(error) or type(error).__name__
        set_it = "gateway: http://ADDRESS in the settings, or SHOAL_GATEWAY"
        hint = "shoal status --target cluster" if self._settings.gateway else set_it
        return NotRunningError(
            f"the gateway {address} does not answer: {reason} ({self._cluster.where})", hint=hint
        )

    def _ask_domain(self) -> str:
        namespace, name = _DOMAINS
        try:
            data = self._cluster.get(objects.CONFIG_MAP, name, namespace).get("data") or {}
        except ShoalError:
            return _DOMAIN_DEFAULT
        domains = sorted(
            domain for domain, selector in data.items() if not domain.startswith("_") and not selector.strip()
        )
        return domains[0] if domains else _DOMAIN_DEFAULT


def publish(cluster: Cluster, headers: Mapping[str, str], body: bytes, broker: str) -> None:
    """Hand an event to a broker through the API server, which reaches it from anywhere; raises its refusal.

    A broker on an in-memory channel answers when all its subscribers have.
    """
    status, answer = cluster.send(
        "POST", _proxied(cluster, broker), headers, body, limits.CLUSTER_PUBLISH_SECONDS_MAX
    )
    if status < 300:
        return
    said = " ".join(answer.decode("utf-8", "replace").split())[: limits.ERROR_TEXT_CHARS_MAX]
    place = f"the broker {broker!r} in {cluster.where}"
    if status in (400, 413, 415):
        raise EventError(f"{place} refuses the event ({status}): {said or 'it is not a legal CloudEvent'}")
    if status == 404:
        raise NotFoundError(f"{place} does not take events: {said or status}")
    kind = NotRunningError if status in (502, 503, 504) else PlatformError
    raise kind(f"{place} did not take the event: {status} {said}")


def broker_address(cluster: Cluster, broker: str) -> str:
    """Give a broker's address; NotFoundError when there is none, NotRunningError when it is not ready."""
    try:
        found = cluster.get(objects.BROKER, broker)
    except NotFoundError:
        raise NotFoundError(
            f"there is no broker {broker!r} in {cluster.where}", hint="shoal platform install --target cluster"
        ) from None
    address = str(((found.get("status") or {}).get("address") or {}).get("url") or "")
    ready = objects.condition(found)
    if not address:
        raise NotRunningError(
            f"the broker {broker!r} in {cluster.where} is not ready: {ready.message or ready.reason}"
        )
    return address


def _proxied(cluster: Cluster, broker: str) -> str:
    """Turn ``http://broker-ingress.knative-eventing.svc…/x/default`` into the API server's way there."""
    parts = urlsplit(broker_address(cluster, broker))
    service, _, rest = (parts.hostname or "").partition(".")
    namespace = rest.partition(".")[0]
    if not namespace or not rest.partition(".")[2].startswith("svc"):
        raise PlatformError(f"the broker's address {parts.geturl()!r} is not a Service of the cluster")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"/api/v1/namespaces/{namespace}/services/{parts.scheme}:{service}:{port}/proxy{parts.path or '/'}"
