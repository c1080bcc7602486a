"""Credentials for registries, from the place every tool keeps them: docker's configuration and its helpers.

A secret is never part of a message, a log line or an object's text.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from shoal.core import limits
from shoal.core.errors import UsageError

_HELPER: Final = re.compile(r"[-_.a-zA-Z0-9]+")
_TOKEN_USER: Final = "<token>"  # noqa: S105  # a helper's name for "this is an identity token"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user with a password, or an identity token; its text shows neither."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The Authorization header of a user with a password."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def config_file(env: Mapping[str, str]) -> Path:
    """Where docker's configuration is: DOCKER_CONFIG's folder, else ``~/.docker``."""
    return Path(env.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def find(host: str, env: Mapping[str, str] | None = None) -> Credentials | None:
    """Give the credentials for a registry, None when there are none.

    Raises UsageError when the file is damaged or a helper it names fails.
    """
    env = os.environ if env is None else env
    file = config_file(env)
    config = _read(file)
    helper = _mapping(config, "credHelpers").get(host) or config.get("credsStore")
    if helper:
        return _ask(str(helper), host, env, file)
    return _stored(_mapping(config, "auths"), host, file)


def _read(file: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise UsageError(f"{file} is not a JSON object", hint="docker login HOST writes it")
    return document


def _mapping(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _host_of(key: str) -> str:
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _stored(auths: Mapping[str, Any], host: str, file: Path) -> Credentials | None:
    for key, value in auths.items():
        if _host_of(key) != host or not isinstance(value, dict):
            continue
        if token := value.get("identitytoken"):
            return Credentials(identity_token=str(token))
        if value.get("auth"):
            return _decode(str(value["auth"]), host, file)
    return None


def _decode(text: str, host: str, file: Path) -> Credentials:
    try:
        user, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        user, colon, password = "", "", ""
    if not colon:
        raise UsageError(
            f"the entry for {host} in {file} is not user:password in base64", hint=f"docker login {host}"
        )
    return Credentials(user, password.rstrip("\0"))


def _ask(helper: str, host: str, env: Mapping[str, str], file: Path) -> Credentials | None:
    """Ask a credential helper, as docker does: the host in, a JSON object out."""
    name = f"docker-credential-{helper}"
    program = shutil.which(name, path=env.get("PATH", os.defpath)) if _HELPER.fullmatch(helper) else None
    if program is None:
        raise UsageError(f"{file} names the credential helper {helper[:60]!r}, and {name[:80]} is not on PATH")
    try:
        done = subprocess.run(
            [program, "get"], input=host.encode(), env=dict(env), capture_output=True,
            timeout=limits.CREDENTIAL_SECONDS_MAX, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        raise UsageError(f"the credential helper {name} did not answer for {host}") from None
    if done.returncode != 0:
        if b"not found" in done.stdout.lower():  # docker's own sign for "no credentials"
            return None
        raise UsageError(f"the credential helper {name} ended with {done.returncode} for {host}")
    return _answered(done.stdout, name, host)


def _answered(output: bytes, name: str, host: str) -> Credentials:
    try:
        answer = json.loads(output)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"the credential helper {name} answered for {host} with no Username and Secret") from None
    if user == _TOKEN_USER:
        return Credentials(identity_token=secret)
    return Credentials(user, secret)
