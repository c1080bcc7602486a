"""Signing in to a registry as the agent: credentials of a mounted docker configuration, or a token for them.

Registries ask in two ways (RFC 7617, and the distribution project's token scheme): ``Basic``, or ``Bearer`` with
the address where a token for one repository is given. A token is used for one version's pull.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from shoal.core import limits
from shoal.core.errors import ModelFaultError

FILE: Final = Path("/run/registry/config.json")  # the Secret shoal-registry, where there is one
_PARAMETER: Final = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Login:
    """Who signs in to one registry; empty: nobody, which public registries still give a token to."""

    basic: str = ""  # base64 of user:password

    @classmethod
    def of(cls, registry: str, file: Path = FILE) -> Login:
        """Find the credentials for a registry's address in a docker configuration; none where there is no file."""
        try:
            auths = json.loads(file.read_text())["auths"]
            entry = auths.get(urlsplit(registry).netloc) or {}
            basic = str(entry.get("auth", "")) or _joined(entry)
            base64.b64decode(basic, validate=True)
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, binascii.Error):
            raise ModelFaultError(f"the registry's credentials in {file} are no docker configuration") from None
        return cls(basic)

    async def answer(self, session: aiohttp.ClientSession, registry: str, challenge: str) -> dict[str, str]:
        """Give the header that answers a 401's ``WWW-Authenticate``; ModelFaultError when there is no way to."""
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "bearer":
            return {
                "Authorization": f"Bearer {await self._token(session, registry, dict(_PARAMETER.findall(rest)))}"
            }
        if scheme.lower() == "basic" and self.basic:
            return {"Authorization": f"Basic {self.basic}"}
        raise ModelFaultError(
            f"the registry {registry} asks for credentials, and the pool has none for it",
            hint="kubectl create secret docker-registry shoal-registry --namespace shoal-system …",
        )

    async def _token(self, session: aiohttp.ClientSession, registry: str, asked: Mapping[str, str]) -> str:
        realm = asked.get("realm", "")
        if urlsplit(realm).scheme not in ("https", urlsplit(registry).scheme):
            raise ModelFaultError(
                f"the registry {registry} sends for a token to {realm!r:.100}, which is no TLS address"
            )
        query = {name: asked[name] for name in ("service", "scope") if name in asked}
        headers = {"Authorization": f"Basic {self.basic}"} if self.basic else {}
        timeout = aiohttp.ClientTimeout(total=limits.MODEL_PULL_SILENCE_SECONDS_MAX)
        async with session.get(realm, params=query, headers=headers, timeout=timeout) as given:
            if given.status != 200:
                raise ModelFaultError(f"the registry {registry} gives no token: {given.status} from {realm}")
            return _token_of(await given.content.read(limits.POOL_JSON_BYTES_MAX), registry)


def _token_of(body: bytes, registry: str) -> str:
    try:
        found: Any = json.loads(body)
        token = str(found.get("token") or found["access_token"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelFaultError(f"the registry {registry} gives a token that is none") from None
    return token


def _joined(entry: Mapping[str, Any]) -> str:
    if "username" not in entry:
        return ""
    return base64.b64encode(f"{entry['username']}:{entry.get('password', '')}".encode()).decode()
