"""Addresses, tables, splits and reserved paths, without any I/O."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core import limits
from shoal.core.errors import NotFoundError, NotRunningError, RequestError, UsageError
from shoal.platform.local import routing


def table(functions: dict[str, Any], revisions: dict[str, Any] | None = None, generation: int = 1) -> routing.Table:
    return routing.parse_table({"generation": generation, "functions": functions, "revisions": revisions or {}})


def function(tags: dict[str, str] | None = None, **percents: int) -> dict[str, Any]:
    targets = [{"revision": name, "percent": percent} for name, percent in percents.items()]
    return {"targets": targets, "tags": tags or {}, "timeout_s": 30}


@pytest.mark.parametrize(
    ("host", "target", "expected"),
    [
        ("f.localhost", "/x?y", ("f.localhost", "", "f", "/x?y", "")),
        ("F.LocalHost:8080", "/", ("f.localhost", "8080", "f", "/", "")),
        ("tag-f.localhost", "/", ("tag-f.localhost", "", "tag-f", "/", "")),
        ("localhost:1", "/f/f/x//y?z", ("localhost", "1", "f", "/x//y?z", "/f/f")),
        ("localhost", "/f/f", ("localhost", "", "f", "/", "/f/f")),
        ("localhost", "/f/f?q", ("localhost", "", "f", "/?q", "/f/f")),
        ("127.0.0.1", "/f//x", ("127.0.0.1", "", "", "/x", "/f/")),
        ("[::1]:9", "/", ("[::1]", "9", "", "/", "")),
        ("other", "http://f.localhost:7/x", ("f.localhost", "7", "f", "/x", "")),
        ("other", "http://f.localhost?q", ("f.localhost", "", "f", "/?q", "")),
        ("f.localhost", "*", ("f.localhost", "", "f", "/", "")),
        ("f.localhost", "/x#/../y", ("f.localhost", "", "f", "/x", "")),
        ("f.localhost", "/f/g/x", ("f.localhost", "", "f", "/f/g/x", "")),  # the host has said it already
        ("evil.example", "/f/f/x", ("evil.example", "", "", "/f/f/x", "")),  # and a foreign one may not
    ],
)
def test_addresses(host: str, target: str, expected: tuple[str, ...]) -> None:
    found = routing.address(host, target)
    assert (found.host, found.port, found.label, found.path, found.prefix) == expected


@pytest.mark.parametrize(
    "host", ["", "a b", "a/b", "a:b", "a:999999", "<x>", "[::1", "a@b", "ä.localhost", "a\n.localhost"]
)
def test_a_malformed_host_is_the_callers_mistake(host: str) -> None:
    with pytest.raises(RequestError, match="Host header"):
        routing.address(host, "/")


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_address_is_read_or_refused(host: str, target: str) -> None:
    try:
        found = routing.address(host, target)
    except RequestError:
        return
    assert found.path.startswith("/")


def test_a_function_wins_over_a_tag_of_the_same_label() -> None:
    routes = table({"a-b": function(x=100), "b": function({"a": "y"}, z=100)})
    found, tag = routing.find(routes, "a-b")
    assert (found.name, tag) == ("a-b", "")


def test_an_unknown_label_names_at_most_so_many_functions() -> None:
    routes = table({f"f{index:03}": function(r=100) for index in range(limits.GATEWAY_NAMES_SHOWN_MAX + 5)})
    with pytest.raises(NotFoundError) as caught:
        routing.find(routes, "nope")
    assert "f000, f001" in caught.value.message
    assert caught.value.message.endswith("and 5 more")
    with pytest.raises(NotFoundError, match="none is deployed"):
        routing.find(table({}), "nope")


def test_a_split_is_drawn_by_its_percents() -> None:
    (route,) = table({"f": function(a=90, b=9, c=1, d=0)}).functions.values()
    rng = Random(7)
    counts = Counter(routing.choose(route, "", rng) for _ in range(20_000))
    assert set(counts) == {"a", "b", "c"}
    assert abs(counts["a"] - 18_000) < 250  # six standard deviations
    assert abs(counts["b"] - 1_800) < 250
    assert abs(counts["c"] - 200) < 90


class Highest(Random):
    def random(self) -> float:
        return 1.0 - 2**-53


def test_the_highest_draw_still_names_a_revision() -> None:
    (route,) = table({"f": function(a=33, b=33, c=34)}).functions.values()
    assert routing.choose(route, "", Highest()) == "c"


def test_a_tag_is_not_drawn() -> None:
    (route,) = table({"f": function({"canary": "b"}, a=100)}).functions.values()
    assert {routing.choose(route, "canary", Random(seed)) for seed in range(50)} == {"b"}


def test_without_traffic_there_is_no_revision_yet() -> None:
    (route,) = table({"f": function({"t": "a"}, a=0)}).functions.values()
    with pytest.raises(NotRunningError, match="no revision with traffic"):
        routing.choose(route, "", Random(0))


@pytest.mark.parametrize(
    "path",
    ["/metrics", "/metrics?x", "//metrics", "/metrics/", "/./metrics", "/a/../metrics", "/%6detrics", "/_shoal",
     "/_shoal/live", "/%5fshoal/ready", "/_shoal%2Flive", "/a/..//_shoal/x", "/%2e/_shoal/x", "/%2E%2E/metrics"],
)  # fmt: skip
def test_reserved_paths_in_any_spelling(path: str) -> None:
    assert routing.reserved(path)


@pytest.mark.parametrize(
    "path", ["/", "/metrics2", "/a/metrics", "/_shoals", "/a/_shoal/live", "/x?/metrics", "/%256detrics"]
)
def test_paths_that_are_the_functions_own(path: str) -> None:
    assert not routing.reserved(path)


@given(st.text(max_size=30))
def test_no_spelling_slips_past(text: str) -> None:
    path = "/" + quote(text)
    plain = unquote(path.partition("?")[0])
    if plain == "/metrics" or plain.startswith("/_shoal/"):
        assert routing.reserved(path)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"generation": "x", "functions": {}, "revisions": {}},
        {"generation": 1, "functions": [], "revisions": {}},
        {"generation": 1, "functions": {"f": {}}, "revisions": {}},
        {"generation": 1, "functions": {"f": function(a=101)}, "revisions": {}},
        {"generation": 1, "functions": {"f": function(a=-1)}, "revisions": {}},
        {"generation": 1, "functions": {}, "revisions": {"r": {"endpoints": [{"id": "i"}]}}},
        {"generation": 1, "functions": {}, "revisions": {"r": {"endpoints": [{"id": "i", "port": 0}]}}},
        {"generation": 1, "functions": {}, "revisions": {"r": {"endpoints": [{"id": "i", "port": 70000}]}}},
    ],
)
def test_what_is_no_table_is_refused(document: Any) -> None:
    with pytest.raises(UsageError):
        routing.parse_table(document)


def test_too_many_functions_are_refused() -> None:
    with pytest.raises(UsageError, match="at most"):
        table({f"f{index}": function(r=100) for index in range(limits.FUNCTIONS_MAX + 1)})
