"""Where the cluster is and how it is reached: one file, each value overridden by an environment variable.

# ~/.config/shoal/settings.yaml, or the file SHOAL_SETTINGS names
target: cluster
context: production            # of the kubeconfig; default: its current one
namespace: models              # default: the context's, then "default"
registry: registry.example.com/team
registry_pull: …               # how pods name it, where that differs
gateway: http://203.0.113.7    # where requests go; default: the function's own host name
domain: example.com            # behind NAME.NAMESPACE; default: the cluster's
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from shoal.core.errors import UsageError
from shoal.core.limits import SPEC_BYTES_MAX

VARIABLE: Final = "SHOAL_SETTINGS"
TARGETS: Final = ("local", "cluster")


@dataclass(frozen=True, slots=True)
class Settings:
    """One target; an empty value means the default its comment names."""

    target: str = "local"
    context: str = ""  # of the kubeconfig: its current one
    namespace: str = ""  # the context's, then "default"
    registry: str = ""  # where images are pushed: host[:port][/path]
    registry_pull: str = ""  # how pods name it: as ``registry``
    plain_http: str = ""  # registries without TLS, separated by commas
    base: str = "debian"  # what images are built on
    gateway: str = ""  # http://host[:port]: the function's own host name
    domain: str = ""  # behind NAME.NAMESPACE: what the cluster's configuration says

    @property
    def pull(self) -> str:
        """The registry as pods name it."""
        return self.registry_pull or self.registry


_NAMES: Final = tuple(one.name for one in fields(Settings))


def path(env: Mapping[str, str] | None = None) -> Path:
    """Give the settings file: SHOAL_SETTINGS, else the user's ``shoal/settings.yaml``."""
    env = os.environ if env is None else env
    if chosen := env.get(VARIABLE):
        return Path(chosen).expanduser()
    base = Path(env.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "shoal" / "settings.yaml"


def load(env: Mapping[str, str] | None = None, **typed: str | None) -> Settings:
    """Read the settings: file, then SHOAL_<NAME>, then what was typed; UsageError names a value and its rule."""
    env = os.environ if env is None else env
    found = _from_file(path(env), required=bool(env.get(VARIABLE)))
    found |= {name: env[variable] for name in _NAMES if env.get(variable := f"SHOAL_{name.upper()}")}
    found |= {name: value for name, value in typed.items() if value}
    return _checked(replace(Settings(), **found))


def _from_file(file: Path, *, required: bool) -> dict[str, str]:
    import yaml

    try:
        raw = file.read_bytes()[: SPEC_BYTES_MAX + 1]
    except FileNotFoundError:
        if required:
            raise UsageError(f"{VARIABLE} names {file}, which is not there") from None
        return {}
    except OSError as error:
        raise UsageError(f"the settings {file} cannot be read: {error.strerror}") from None
    try:
        data = yaml.safe_load(raw) or {}
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UsageError(f"the settings {file} are not YAML") from None
    if not isinstance(data, dict):
        raise UsageError(f"the settings {file} are not a mapping of {', '.join(_NAMES)}")
    return {_known(name, file): _text(name, value, file) for name, value in data.items()}


def _known(name: Any, file: Path) -> str:
    if name in _NAMES:
        return str(name)
    raise UsageError(f"the settings {file} have an unknown key {name!r}; there is {', '.join(_NAMES)}")


def _text(name: Any, value: Any, file: Path) -> str:
    if isinstance(value, str):
        return value
    raise UsageError(f"the settings {file}: {name} is {value!r}; it must be text")


def _checked(settings: Settings) -> Settings:
    if settings.target not in TARGETS:
        raise UsageError(
            f"there is no target {settings.target!r}; there is {', '.join(TARGETS)}", hint="--target cluster"
        )
    if settings.gateway and not settings.gateway.startswith(("http://", "https://")):
        raise UsageError(f"the gateway is {settings.gateway!r}; it must begin with http:// or https://")
    for name in ("registry", "registry_pull"):
        if "://" in getattr(settings, name):
            raise UsageError(
                f"{name} is {getattr(settings, name)!r}; it must be host[:port][/path], without a scheme"
            )
    return settings
