"""The agent's two calls of the Kubernetes API, against a server that ends, forgets, refuses and breaks off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from shoal.core import limits
from shoal.core.errors import NotRunningError, PlatformError, UsageError
from shoal.pool.cluster_kube import KubeAccess, KubeClient

PATIENCE_S = 60.0


@dataclass
class FakeApi:
    """One ConfigMap. Each watch takes the next script: lines to send, then it ends; none left: it stays open."""

    data: dict[str, str] = field(default_factory=dict)
    version: int = 100
    statuses: list[int] = field(default_factory=list)  # of the next requests, instead of an answer
    watches: list[list[dict[str, Any]]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str], str]] = field(default_factory=list)
    patched: list[tuple[str, Any]] = field(default_factory=list)

    def config_map(self, version: int | None = None, **data: str) -> dict[str, Any]:
        return {
            "metadata": {"name": "leases", "resourceVersion": str(version or self.version)},
            "data": data or self.data,
        }

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.path, dict(request.query), request.headers.get("Authorization", "")))
        if self.statuses:
            status = self.statuses.pop(0)
            return web.json_response({"message": f"status {status} it is"}, status=status)
        if request.method == "PATCH":
            self.patched.append((request.headers["Content-Type"], await request.json()))
            return web.json_response({})
        if "watch" in request.query:
            return await self._watch(request)
        return web.json_response(self.config_map())

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if not self.watches:
            await asyncio.sleep(PATIENCE_S)
        for event in self.watches.pop(0):
            await response.write(json.dumps(event).encode() + b"\n")
        return response


@asynccontextmanager
async def client_of(api: FakeApi, notes: list[str] | None = None) -> AsyncIterator[KubeClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    told = [] if notes is None else notes
    try:
        access = KubeAccess(f"http://127.0.0.1:{port}", lambda: "secret\n")
        async with KubeClient(access, lambda level, message: told.append(message), lambda: 0.0) as client:
            yield client
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "API_RETRY_SECONDS_MIN", 0.01)
    monkeypatch.setattr(limits, "API_RETRY_SECONDS_MAX", 0.02)


async def first(client: KubeClient, count: int) -> list[Mapping[str, str]]:
    found: list[Mapping[str, str]] = []
    follow = client.follow("ns", "leases")
    async with asyncio.timeout(PATIENCE_S):
        async for data in follow:
            found.append(data)
            if len(found) == count:
                break
    await follow.aclose()  # type: ignore[attr-defined]
    return found


async def test_what_is_there_and_each_change_after_it() -> None:
    api = FakeApi({"a": "1"})
    api.watches = [[{"type": "MODIFIED", "object": api.config_map(101, a="2")}]]
    async with client_of(api) as client:
        assert await first(client, 2) == [{"a": "1"}, {"a": "2"}]
    (path, _, token), (_, query, _) = api.asked[:2]
    assert (path, token) == ("/api/v1/namespaces/ns/configmaps/leases", "Bearer secret")
    assert (query["fieldSelector"], query["resourceVersion"]) == ("metadata.name=leases", "100")


async def test_a_watch_that_ends_goes_on_from_where_it_was() -> None:
    api = FakeApi({"a": "1"})
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "150"}}}
    api.watches = [[bookmark], [{"type": "MODIFIED", "object": api.config_map(151, a="2")}]]
    async with client_of(api) as client:
        assert await first(client, 2) == [{"a": "1"}, {"a": "2"}]
    assert [query.get("resourceVersion") for _, query, _ in api.asked[:3]] == [None, "100", "150"]


@pytest.mark.parametrize("forget", ["event", "status"])
async def test_a_version_that_is_forgotten_is_read_anew(forget: str) -> None:
    api = FakeApi({"a": "1"})
    if forget == "event":
        api.watches = [[{"type": "ERROR", "object": {"code": 410, "message": "too old"}}]]
    notes: list[str] = []
    async with client_of(api, notes) as client:
        follow = client.follow("ns", "leases")
        async with asyncio.timeout(PATIENCE_S):
            assert await anext(follow) == {"a": "1"}
            if forget == "status":
                api.statuses = [410]
            assert await anext(follow) == {"a": "1"}
        await follow.aclose()  # type: ignore[attr-defined]
    assert notes == []


async def test_a_deleted_object_takes_nothing_away() -> None:
    api = FakeApi({"a": "1"})
    gone = {"type": "DELETED", "object": api.config_map(101, a="1")}
    back = {"type": "ADDED", "object": api.config_map(102, b="1")}
    api.watches = [[gone, back]]
    async with client_of(api) as client:
        assert await first(client, 2) == [{"a": "1"}, {"b": "1"}]


def broken(api: FakeApi) -> None:
    api.watches = [[{"type": "MODIFIED", "object": {"nonsense": True}}]]


def refused(api: FakeApi) -> None:
    api.statuses = [403, 401, 500, 429, 404]


def ended(api: FakeApi) -> None:
    api.watches = [[{"type": "ERROR", "object": {"code": 500, "message": "etcd is away"}}]]


def unreadable(api: FakeApi) -> None:
    api.watches = [["x" * (8 * limits.LEASES_BYTES_MAX + 10)]]  # type: ignore[list-item]


@pytest.mark.parametrize("spoil", [broken, refused, ended, unreadable])
async def test_after_any_failure_it_is_there_again_and_says_what_was(spoil: Callable[[FakeApi], None]) -> None:
    api = FakeApi({"a": "1"})
    spoil(api)
    notes: list[str] = []
    async with client_of(api, notes) as client:
        count = 1 if api.statuses else 2
        assert await first(client, count) == [{"a": "1"}] * count
    assert len(notes) == (5 if spoil is refused else 1)
    assert all("ConfigMap ns/leases" in one for one in notes)


async def test_keys_are_merged_and_removed() -> None:
    api = FakeApi()
    async with client_of(api) as client:
        await client.patch("ns", "status", {"pod-a": "{}", "pod-b": None})
    assert api.patched == [("application/merge-patch+json", {"data": {"pod-a": "{}", "pod-b": None}})]


async def test_a_patch_that_fails_says_why() -> None:
    api = FakeApi(statuses=[403])
    async with client_of(api) as client:
        with pytest.raises(PlatformError, match="403: status 403 it is"):
            await client.patch("ns", "status", {"pod-a": "{}"})
    async with KubeClient(KubeAccess("http://127.0.0.1:1")) as client:
        with pytest.raises(NotRunningError, match="does not answer"):
            await client.patch("ns", "status", {"pod-a": "{}"})


def test_outside_of_a_pod_there_is_no_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UsageError, match="KUBERNETES_SERVICE_HOST"):
        KubeAccess.in_cluster()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    assert KubeAccess.in_cluster().address == "https://[fd00::1]:443"
