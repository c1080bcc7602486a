"""Which function, and which of its revisions, a request is for: pure decisions over a table the node provides.

A function is addressed by host (``filetype.localhost``), one of its tags by ``canary-filetype.localhost``, both
also by path (``/f/filetype/rest``) for callers that cannot choose their host name. Where a tag's label equals
another function's name, the function wins.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from posixpath import normpath
from random import Random
from typing import Any, Final
from urllib.parse import unquote

from shoal.core import limits
from shoal.core.errors import NotFoundError, NotRunningError, RequestError, UsageError

DOMAIN: Final = ".localhost"
OWN_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
PATH_PREFIX: Final = "/f/"
# The URI's authority: what may stand in a Host header besides an IPv6 literal.
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[-_.a-zA-Z0-9]+)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One instance of a revision: the node's name for it and its port on 127.0.0.1."""

    id: str
    port: int


@dataclass(frozen=True, slots=True)
class RevisionRoute:
    """A revision's instances and how many requests each takes at once (0: any number)."""

    endpoints: tuple[Endpoint, ...] = ()
    concurrency: int = 0


@dataclass(frozen=True, slots=True)
class FunctionRoute:
    """A function's split: revisions beside the running sums of their percents, its tags and its timeout."""

    name: str
    revisions: tuple[str, ...]
    sums: tuple[float, ...]
    tags: Mapping[str, str]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Table:
    """All routes of one generation; ``labels`` maps a host label to (function, tag or "")."""

    generation: int = 0
    functions: Mapping[str, FunctionRoute] = field(default_factory=dict)
    revisions: Mapping[str, RevisionRoute] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Address:
    """What a request names: a function's label (empty: none), the path left for it, and the prefix taken off."""

    host: str  # lower-case, without port
    port: str
    label: str
    path: str  # raw, with the query
    prefix: str = ""


def parse_table(document: Any) -> Table:
    """Read the node's JSON; UsageError when it is not a table."""
    try:
        functions = {name: _function(name, value) for name, value in document["functions"].items()}
        revisions = {name: _revision(value) for name, value in document["revisions"].items()}
        generation = int(document["generation"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"not a table of routes: {type(error).__name__}: {error}") from error
    if len(functions) > limits.FUNCTIONS_MAX:
        raise UsageError(f"{len(functions)} functions; the gateway takes {limits.FUNCTIONS_MAX} at most")
    return Table(generation, functions, revisions, _labels(functions))


def parse_endpoints(value: Any) -> tuple[Endpoint, ...]:
    """Read a list of ``{"id", "port"}``; KeyError, TypeError or ValueError when it is not one."""
    endpoints = tuple(Endpoint(str(item["id"]), int(item["port"])) for item in value)
    if not all(0 < endpoint.port < 65536 for endpoint in endpoints):
        raise ValueError(f"a port is 1 to 65535: {endpoints}")
    return endpoints


def split_host(value: str) -> tuple[str, str]:
    """Split a Host header into lower-case name and port ("" without one); RequestError when it is malformed."""
    match = _HOST.fullmatch(value)
    if match is None:
        raise RequestError(f"the Host header {value[:100]!r} is not a host name with an optional port")
    return match["name"].lower(), match["port"] or ""


def address(host: str, target: str) -> Address:
    """Find what a request names by its Host header and request target (origin or absolute form).

    A fragment, which has no place in a request, is cut off.
    """
    target = target.partition("#")[0]
    if not target.startswith("/"):
        host, target = _absolute(host, target)
    name, port = split_host(host)
    if name.endswith(DOMAIN):
        return Address(name, port, name.removesuffix(DOMAIN), target)
    if name in OWN_HOSTS and target.startswith(PATH_PREFIX):
        label, rest = _cut(target[len(PATH_PREFIX) :])
        return Address(name, port, label, rest, prefix=PATH_PREFIX + label)
    return Address(name, port, "", target)


def find(table: Table, label: str) -> tuple[FunctionRoute, str]:
    """Give the function a label names, with the tag or ""; NotFoundError names the functions there are."""
    found = table.labels.get(label)
    if found is None:
        raise NotFoundError(f"no function answers to {label!r}; {known(table)}", hint="shoal status")
    function, tag = found
    return table.functions[function], tag


def choose(route: FunctionRoute, tag: str, rng: Random) -> str:
    """Pick the revision for one request: the tag's, else one drawn by percent, each request on its own."""
    if tag:
        return route.tags[tag]
    if not route.sums or route.sums[-1] <= 0:
        raise NotRunningError(f"function {route.name!r} has no revision with traffic yet", retry_after_s=1.0)
    draw = rng.random() * route.sums[-1]
    return route.revisions[bisect_right(route.sums, draw)]


def reserved(path: str) -> bool:
    """Say whether a raw path, however it is spelled, reaches what only the platform may ask a function."""
    decoded = unquote(path.partition("?")[0])
    if "_shoal" not in decoded and "metrics" not in decoded:
        return False
    plain = "/" + normpath(decoded).lstrip("/")
    return plain in ("/metrics", "/_shoal") or plain.startswith("/_shoal/")


def known(table: Table) -> str:
    """Name the functions there are, as many as a message holds."""
    names = sorted(table.functions)
    if not names:
        return "none is deployed"
    shown = ", ".join(names[: limits.GATEWAY_NAMES_SHOWN_MAX])
    more = len(names) - limits.GATEWAY_NAMES_SHOWN_MAX
    return f"there are {shown}" + (f" and {more} more" if more > 0 else "")


def _function(name: str, value: Any) -> FunctionRoute:
    targets = [(str(item["revision"]), float(item["percent"])) for item in value["targets"] if item["percent"]]
    if any(not 0 < percent <= 100 for _, percent in targets):
        raise ValueError(f"percents of {name} are not within 0 to 100: {targets}")
    return FunctionRoute(
        name=name,
        revisions=tuple(revision for revision, _ in targets),
        sums=tuple(accumulate(percent for _, percent in targets)),
        tags={str(tag): str(revision) for tag, revision in value.get("tags", {}).items()},
        timeout_s=min(float(value["timeout_s"]), limits.TIMEOUT_SECONDS_MAX),
    )


def _revision(value: Any) -> RevisionRoute:
    return RevisionRoute(parse_endpoints(value["endpoints"]), max(0, int(value.get("concurrency", 0))))


def _labels(functions: Mapping[str, FunctionRoute]) -> dict[str, tuple[str, str]]:
    labels = {f"{tag}-{name}": (name, tag) for name, route in functions.items() for tag in route.tags}
    return labels | {name: (name, "") for name in functions}


def _absolute(host: str, target: str) -> tuple[str, str]:
    """Split ``http://host/path``; its host counts, not the header's (RFC 9112, 3.2.2)."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() != "http":
        return host, "/" + target.lstrip("*")
    return _cut(rest)


def _cut(rest: str) -> tuple[str, str]:
    """Split at the first ``/`` or ``?`` into a head and a path that starts with ``/``."""
    end = next((index for index, char in enumerate(rest) if char in "/?"), len(rest))
    head, path = rest[:end], rest[end:]
    return head, path if path.startswith("/") else "/" + path
