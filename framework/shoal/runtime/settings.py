"""What a function process is told by its environment, read once, checked, and never read again.

A dataclass and a few readers, because a settings library takes longer to import than the first answer may take.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shoal.core import limits
from shoal.core.errors import UsageError

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_FD_MIN: Final = 3  # 0, 1 and 2 are the standard streams
_PORT_MAX: Final = 65535


@dataclass(frozen=True, slots=True)
class Settings:
    """One function process: where it listens, what it imports, what it may use; times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8080
    listen_fd: int | None = None  # an inherited listening socket; replaces host and port
    service: str = "function"
    revision: str = "function-00000"
    configuration: str = "function"
    source: Path = Path(".")
    handler: str = "handler.py"
    models: Mapping[str, str] = field(default_factory=dict)  # alias in the handler -> exact version
    pool: tuple[str, ...] = ()  # host:port of each Triton's HTTP endpoint
    concurrency: int = limits.CONCURRENCY_DEFAULT
    timeout_s: float = limits.TIMEOUT_SECONDS_DEFAULT
    threads: int = limits.THREADS_DEFAULT
    log_level: str = "info"
    body_bytes_max: int = limits.BODY_BYTES_MAX

    @property
    def queue_max(self) -> int:
        """How many requests may wait for a slot."""
        return self.concurrency * limits.QUEUE_FACTOR

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read the runtime contract's variables; UsageError names the variable, its value and the rule."""
        service = env.get("K_SERVICE", "") or "function"
        source, handler = _handler_file(env)
        return cls(
            host=env.get("HOST", "") or ("0.0.0.0" if env.get("KUBERNETES_SERVICE_HOST") else "127.0.0.1"),  # noqa: S104
            port=_whole(env, "PORT", 8080, 0, _PORT_MAX),
            listen_fd=_whole(env, "SHOAL_LISTEN_FD", 0, _FD_MIN, 2**20) if env.get("SHOAL_LISTEN_FD") else None,
            service=service,
            revision=env.get("K_REVISION", "") or f"{service}-00000",
            configuration=env.get("K_CONFIGURATION", "") or service,
            source=source,
            handler=handler,
            models=_models(env),
            pool=_addresses(env),
            concurrency=_whole(env, "SHOAL_CONCURRENCY", limits.CONCURRENCY_DEFAULT, 1, limits.CONCURRENCY_MAX),
            timeout_s=_seconds(env, "SHOAL_TIMEOUT_SECONDS", limits.TIMEOUT_SECONDS_DEFAULT),
            threads=_whole(env, "SHOAL_THREADS", limits.THREADS_DEFAULT, 1, limits.THREADS_MAX),
            log_level=_log_level(env),
            body_bytes_max=_whole(env, "SHOAL_BODY_BYTES_MAX", limits.BODY_BYTES_MAX, 0, limits.BODY_BYTES_CEILING),
        )


def _broken(name: str, value: str, rule: str) -> UsageError:
    return UsageError(f"environment variable {name} is {value!r}; it must be {rule}")


def _whole(env: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    if text.isascii() and text.isdigit() and len(text) <= len(str(high)) and low <= int(text) <= high:
        return int(text)
    raise _broken(name, text, f"a whole number from {low} to {high}")


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 < value <= limits.TIMEOUT_SECONDS_MAX:
        return value
    raise _broken(name, text, f"a number of seconds above 0, at most {limits.TIMEOUT_SECONDS_MAX:g}")


def _log_level(env: Mapping[str, str]) -> str:
    text = env.get("SHOAL_LOG_LEVEL", "").strip() or "info"
    if text.lower() in LOG_LEVELS:
        return text.lower()
    raise _broken("SHOAL_LOG_LEVEL", text, f"one of {', '.join(LOG_LEVELS)}")


def _handler_file(env: Mapping[str, str]) -> tuple[Path, str]:
    source, handler = env.get("SHOAL_SOURCE", ""), env.get("SHOAL_HANDLER", "")
    if not source and (file := env.get("FUNCTION_SOURCE", "")):  # functions-framework names the file itself
        return Path(file).parent, handler or Path(file).name
    if handler and Path(handler).name != handler:
        raise _broken("SHOAL_HANDLER", handler, "a file name without a folder; the folder is SHOAL_SOURCE")
    return Path(source or "."), handler or "handler.py"


def _models(env: Mapping[str, str]) -> Mapping[str, str]:
    text = env.get("SHOAL_MODELS", "").strip()
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    rule = 'a JSON object from alias to version, as {"magika": "magika--3f2a9c1d22e0"}'
    if not isinstance(value, dict) or not all(isinstance(name, str) and name for name in value.values()):
        raise _broken("SHOAL_MODELS", text, rule)
    if len(value) > limits.MODELS_PER_FUNCTION_MAX:
        raise _broken("SHOAL_MODELS", text, f"{rule}, with {limits.MODELS_PER_FUNCTION_MAX} models at most")
    return value


def _addresses(env: Mapping[str, str]) -> tuple[str, ...]:
    text = env.get("SHOAL_POOL", "")
    addresses = tuple(part.strip() for part in text.split(",") if part.strip())
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) <= _PORT_MAX:
            raise _broken("SHOAL_POOL", text, "host:port of each Triton's HTTP endpoint, separated by commas")
    return addresses
