"""The local platform as the command line sees it: the port over the node's socket and the public ports."""

from __future__ import annotations

import http.client
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from shoal.core import limits
from shoal.core.errors import NotFoundError, NotRunningError, PlatformError, UsageError
from shoal.core.problems import from_problem
from shoal.platform.local import launch, logfiles, unixhttp, wire
from shoal.platform.local.layout import Home, home_of
from shoal.platform.port import Deployment, FunctionStatus, PlatformStatus, Reply, Stage, Target

REPOSITORY_VARIABLE: Final = "SHOAL_MODEL_REPOSITORY"
REPOSITORY_FOLDER: Final = "triton-repo"
CACHE_VARIABLE: Final = "SHOAL_CACHE"
PARTS: Final = ("node", "gateway", "broker", "pool", "triton")  # whose logs can be read beside the functions'
_ADDRESS_SECONDS: Final = 10.0


class LocalPlatform:
    """One local platform; ``up`` starts it, ``down`` ends it, the rest is the port.

    A port of None is the remembered one, else 8080 (gateway) and 8081 (broker); 0 lets the kernel choose.
    With ``dies_with_caller`` the platform ends with the calling process, however that ends.
    """

    def __init__(
        self,
        home: Path | str | None = None,
        *,
        gateway_port: int | None = None,
        broker_port: int | None = None,
        fake_pool: bool | None = None,
        dies_with_caller: bool = False,
    ) -> None:
        self.home: Home = home_of(home)
        self._ports = {"--port": gateway_port, "--broker-port": broker_port}
        self._fake_pool = os.environ.get("SHOAL_POOL_FAKE") == "1" if fake_pool is None else fake_pool
        self._dies_with_caller = dies_with_caller
        self._addresses: dict[str, str] = {}

    # Life.

    def up(self) -> PlatformStatus:
        """Start the platform; back when gateway and broker answer, with the pool perhaps still starting.

        Raises ConflictError when it runs already, UsageError when a port is taken, PlatformError with the last
        lines of the node's log when it does not start.
        """
        arguments = [text for flag, port in self._ports.items() if port is not None for text in (flag, str(port))]
        if self._fake_pool:
            arguments.append("--pool-fake")
        launch.start(self.home, arguments, dies_with_caller=self._dies_with_caller)
        self._addresses.clear()
        return self.status()

    def down(self) -> bool:
        """End the platform; back when every process of it is gone. Says whether it ran."""
        self._addresses.clear()
        return launch.stop(self.home)

    def running(self) -> bool:
        """Say whether the platform is up."""
        return launch.is_alive(self.home)

    # The port.

    def deploy(self, source: Path, *, traffic: bool = True) -> Iterator[Stage | Deployment]:
        """Make (or find) the revision for a folder; yields stages, then one Deployment."""
        folder = source.expanduser().resolve()
        if not folder.is_dir():
            raise UsageError(f"{source} is not a folder", hint="shoal deploy functions/NAME")
        order = {
            "source": str(folder),
            "repository": _text(find_repository(folder)),
            "cache": str(_cache()),
            "traffic": traffic,
        }
        for line in unixhttp.stream(self._socket, "POST", "/v1/deployments", order):
            if "problem" in line:
                raise from_problem(line["problem"])
            if "deployment" in line:
                yield wire.deployment(line["deployment"])
                return
            yield wire.stage(line["stage"])
        raise NotRunningError("the platform ended in the middle of the deployment", hint="shoal up")

    def status(self) -> PlatformStatus:
        """Describe the platform's own parts."""
        return wire.platform_status(self._read("/v1/status"))

    def functions(self) -> list[FunctionStatus]:
        """Describe all functions, by name."""
        return [wire.function_status(item) for item in self._read("/v1/functions")["functions"]]

    def function(self, name: str) -> FunctionStatus:
        """Describe one function; NotFoundError names those that exist."""
        return wire.function_status(self._read(f"/v1/functions/{quote(name, safe='')}"))

    def set_traffic(self, name: str, targets: Sequence[Target]) -> FunctionStatus:
        """Replace the split; in effect on return."""
        body = {"targets": [asdict(target) for target in targets]}
        return wire.function_status(self._change("PUT", f"/v1/functions/{quote(name, safe='')}/traffic", body))

    def rollback(self, name: str) -> FunctionStatus:
        """Bring back the percents before the newest change, and again those before these."""
        return wire.function_status(self._change("POST", f"/v1/functions/{quote(name, safe='')}/rollback"))

    def invoke(
        self,
        name: str,
        *,
        tag: str = "",
        method: str = "POST",
        path: str = "/",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float = 60.0,
    ) -> Reply:
        """Call a function through the gateway; an error answer is a Reply too, no exception."""
        host = f"{tag}-{name}.localhost" if tag else f"{name}.localhost"
        sent = {"Host": host, "shoal-timeout-ms": str(int(timeout_s * 1000)), **(headers or {})}
        return self._exchange("gateway", method, path, sent, body, timeout_s + _ADDRESS_SECONDS)

    def publish(self, headers: Mapping[str, str], body: bytes, *, broker: str = "default") -> None:
        """Hand one CloudEvent to a broker; it is kept once this returns. Raises the broker's reason otherwise."""
        reply = self._exchange("broker", "POST", f"/{broker}", dict(headers), body, _ADDRESS_SECONDS)
        if reply.status >= 300:
            raise _refusal(reply)

    def logs(self, name: str, *, revision: str = "", follow: bool = False, lines: int = 100) -> Iterator[str]:
        """Yield the log lines of a function, or of a part of the platform (node, gateway, broker, pool, triton)."""
        paths = self._log_paths(name, revision)
        yield from logfiles.tail(paths(), lines)
        if follow:
            yield from logfiles.follow(paths, lambda: not self.running())

    def delete(self, name: str) -> None:
        """Remove a function with its revisions, triggers, logs and the leases on its models."""
        self._change("DELETE", f"/v1/functions/{quote(name, safe='')}")

    # Inside.

    @property
    def _socket(self) -> Path:
        return self.home.socket("node")

    def _read(self, target: str) -> Any:
        return unixhttp.call(self._socket, "GET", target, timeout_s=limits.NODE_READ_SECONDS_MAX)

    def _change(self, method: str, target: str, body: Any = None) -> Any:
        return unixhttp.call(self._socket, method, target, body, timeout_s=limits.CHANGE_SECONDS_MAX)

    def _address(self, component: str) -> str:
        if component not in self._addresses:
            self._addresses = {part.name: part.address for part in self.status().components}
        return urlsplit(self._addresses[component]).netloc

    def _exchange(
        self, component: str, method: str, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> Reply:
        started = time.monotonic()
        with closing(http.client.HTTPConnection(self._address(component), timeout=timeout_s)) as connection:
            try:
                connection.request(method, path, body=body, headers=dict(headers))
                response = connection.getresponse()
                content = unixhttp.read(response, limits.INVOKE_ANSWER_BYTES_MAX)
            except (OSError, http.client.HTTPException) as error:
                raise NotRunningError(
                    f"the {component} does not answer: {error or type(error).__name__}", hint="shoal status"
                ) from error
        found = {key.lower(): value for key, value in response.getheaders()}
        return Reply(response.status, found, content, time.monotonic() - started)

    def _log_paths(self, name: str, revision: str) -> Callable[[], list[Path]]:
        if name in PARTS:
            return lambda: [self.home.log(name)]
        known = {item.name for item in self.function(name).revisions}
        if revision and revision not in known:
            raise NotFoundError(f"{name!r} has no revision {revision!r}; it has {', '.join(sorted(known))}")
        pattern = re.compile(re.escape(revision) if revision else rf"{re.escape(name)}-\d{{5,}}")
        return lambda: sorted(path for path in self.home.logs.glob("*.log") if pattern.fullmatch(path.stem))


def find_repository(folder: Path) -> Path | None:
    """Find the model repository: SHOAL_MODEL_REPOSITORY, else ``triton-repo/`` in a folder above ``folder``."""
    if chosen := os.environ.get(REPOSITORY_VARIABLE):
        return Path(chosen).expanduser().resolve()
    return next((up / REPOSITORY_FOLDER for up in folder.parents if (up / REPOSITORY_FOLDER).is_dir()), None)


def _cache() -> Path:
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".cache" / "shoal"


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _refusal(reply: Reply) -> Exception:
    try:
        return from_problem(json.loads(reply.body))
    except (ValueError, AttributeError):
        return PlatformError(f"the broker answered {reply.status}")
