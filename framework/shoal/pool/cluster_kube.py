"""What the agent asks of the Kubernetes API: to follow one ConfigMap, and to write keys of another.

Two calls, so no client library: the ``kubernetes`` package is 103 MB and takes 0.7 s to import, in a process whose
whole work is to wait. The API's rules that matter here: a watch ends after a while and is taken up again at the
version it had reached; where that version is forgotten (410), the object is read anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from shoal.core import limits
from shoal.core.errors import NotRunningError, PlatformError, UsageError

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # where a pod finds its identity
_MERGE: Final = "application/merge-patch+json"

_FAILURES: Final = (PlatformError, aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError)

Note = Callable[[str, str], None]


class ExpiredError(PlatformError):
    """The API has forgotten the version a watch was to go on from."""


@dataclass(frozen=True, slots=True)
class KubeAccess:
    """Where the API is and who asks: ``address`` is https://host:port, ``token`` is read anew for every call."""

    address: str
    token: Callable[[], str] = lambda: ""
    ca: Path | None = None

    @classmethod
    def in_cluster(cls) -> KubeAccess:
        """Find it from inside a pod; UsageError where this is none."""
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise UsageError("KUBERNETES_SERVICE_HOST is not set: the agent runs in a pod of the pool")
        literal = f"[{host}]" if ":" in host else host
        return cls(f"https://{literal}:{port}", (ACCOUNT / "token").read_text, ACCOUNT / "ca.crt")


@dataclass(slots=True)
class KubeClient:
    """The two calls, over one session; use it as an async context manager."""

    access: KubeAccess
    note: Note = lambda level, message: None
    jitter: Callable[[], float] = random.random
    _session: aiohttp.ClientSession | None = field(default=None, init=False)

    async def __aenter__(self) -> KubeClient:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=_tls(self.access)),
            read_bufsize=4 * limits.LEASES_BYTES_MAX,  # a line of a watch is a whole object
        )
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def follow(self, namespace: str, name: str) -> AsyncIterator[Mapping[str, str]]:
        """Yield a ConfigMap's data now and after each change, for ever; failures are noted and tried again.

        A ConfigMap that is deleted yields nothing: what it said last holds until it is there again.
        """
        delay, version = limits.API_RETRY_SECONDS_MIN, ""
        while True:
            try:
                if not version:
                    data, version = await self._read(namespace, name)
                    yield data
                async for changed, reached in self._watch(namespace, name, version):
                    version, delay = reached, limits.API_RETRY_SECONDS_MIN
                    if changed is not None:
                        yield changed
            except ExpiredError:
                version = ""
            except _FAILURES as error:
                version = ""
                self.note("error", f"following ConfigMap {namespace}/{name}: {error or type(error).__name__}")
                await asyncio.sleep(delay * (0.5 + self.jitter()))
                delay = min(2 * delay, limits.API_RETRY_SECONDS_MAX)

    async def patch(self, namespace: str, name: str, data: Mapping[str, str | None]) -> None:
        """Set keys of a ConfigMap, or remove those that are None; NotRunningError or PlatformError say why not."""
        timeout = aiohttp.ClientTimeout(total=limits.API_CALL_SECONDS_MAX)
        body = json.dumps({"data": data})
        try:
            async with self._open.patch(
                f"{self._url(namespace)}/{name}",
                data=body,
                headers=self._headers() | {"Content-Type": _MERGE},
                timeout=timeout,
            ) as answer:
                await _check(answer)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NotRunningError(f"the Kubernetes API does not answer: {error or type(error).__name__}") from error

    async def _read(self, namespace: str, name: str) -> tuple[Mapping[str, str], str]:
        timeout = aiohttp.ClientTimeout(total=limits.API_CALL_SECONDS_MAX)
        async with self._open.get(
            f"{self._url(namespace)}/{name}", headers=self._headers(), timeout=timeout
        ) as answer:
            await _check(answer)
            return _data(await answer.read())

    async def _watch(
        self, namespace: str, name: str, version: str
    ) -> AsyncIterator[tuple[Mapping[str, str] | None, str]]:
        """Yield (data or None for no change, version reached) until the server ends the watch."""
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(limits.WATCH_SECONDS_MAX)),
        }
        silence = limits.WATCH_SILENCE_SECONDS_MAX
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.API_CALL_SECONDS_MAX, sock_read=silence)
        async with self._open.get(
            self._url(namespace), params=query, headers=self._headers(), timeout=timeout
        ) as answer:
            await _check(answer)
            async for line in answer.content:
                yield _event(line)

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise NotRunningError("the client of the Kubernetes API is not open")
        return self._session

    def _url(self, namespace: str) -> str:
        return f"{self.access.address}/api/v1/namespaces/{namespace}/configmaps"

    def _headers(self) -> dict[str, str]:
        token = self.access.token().strip()
        return {"Authorization": f"Bearer {token}"} if token else {}


def _event(line: bytes) -> tuple[Mapping[str, str] | None, str]:
    try:
        event = json.loads(line)
        kind, thing = event["type"], event["object"]
        if kind == "ERROR":
            raise _ended(thing)
        data, version = _parts(thing)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise PlatformError(f"a line of the watch is no event: {line[:100]!r}") from None
    return (data if kind in ("ADDED", "MODIFIED") else None), version


def _ended(status: Any) -> PlatformError:
    if status.get("code") == 410:
        return ExpiredError("the version is too old")
    return PlatformError(f"the watch ended: {status.get('message', status)!s:.300}")


def _data(body: bytes) -> tuple[Mapping[str, str], str]:
    try:
        return _parts(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise PlatformError(f"the answer is no ConfigMap: {body[:100]!r}") from None


def _parts(thing: Any) -> tuple[Mapping[str, str], str]:
    data = {str(key): str(value) for key, value in (thing.get("data") or {}).items()}
    return data, str(thing["metadata"]["resourceVersion"])


async def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status < 300:
        return
    text = (await answer.content.read(limits.ERROR_TEXT_CHARS_MAX * 4)).decode(errors="replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["message"])
    told = f"the Kubernetes API answers {answer.status}: {text[: limits.ERROR_TEXT_CHARS_MAX]}"
    raise ExpiredError(told) if answer.status == 410 else PlatformError(told)


def _tls(access: KubeAccess) -> ssl.SSLContext | bool:
    return ssl.create_default_context(cafile=access.ca) if access.ca else True
