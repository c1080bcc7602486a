"""References to images: ``HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]``, with ``oci://`` in front if one likes.

The registry is always named. What other tools add to a name without one depends on the tool.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from shoal.core.errors import UsageError

_SCHEME: Final = "oci://"
_HOST: Final = re.compile(r"(?:[a-zA-Z0-9](?:[-a-zA-Z0-9.]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_REPOSITORY: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG: Final = re.compile(r"[a-zA-Z0-9_][-.a-zA-Z0-9_]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_CHARS_MAX: Final = 255  # of a repository, as most registries limit it
_RULE: Final = "HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST]"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image's name: the registry's host, the repository in it, and a tag or a digest."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference; UsageError says which part breaks which rule."""
        host, slash, rest = text.removeprefix(_SCHEME).partition("/")
        name, _, digest = rest.partition("@")
        repository, colon, tag = name.partition(":")
        if not slash or not _HOST.fullmatch(host) or not _names_host(host):
            raise _broken(text, f"{host[:80]!r} is no registry's host")
        if not _REPOSITORY.fullmatch(repository) or len(repository) > _CHARS_MAX:
            raise _broken(
                text, f"{repository[:80]!r} is no repository: lower-case letters, digits, '.', '_', '-', '/'"
            )
        if colon and not _TAG.fullmatch(tag):
            raise _broken(text, f"{tag[:80]!r} is no tag: letters, digits, '.', '_' and '-', 128 at most")
        if "@" in rest and not _DIGEST.fullmatch(digest):
            raise _broken(text, f"{digest[:80]!r} is no digest: sha256: and 64 hexadecimal digits")
        return cls(host, repository, tag, digest)

    def at(self, digest: str) -> Reference:
        """Give the reference of one exact image."""
        return replace(self, tag="", digest=digest)

    @property
    def version(self) -> str:
        """What a manifest is asked for by: the digest, else the tag, else ``latest``."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        """Give the reference as it is written in a manifest."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"


def _names_host(host: str) -> bool:
    return "." in host or ":" in host or host == "localhost"


def _broken(text: str, what: str) -> UsageError:
    return UsageError(f"image reference {text[:200]!r}: {what}; the rule is {_RULE}")
