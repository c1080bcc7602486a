"""Short forms of a split, and what a platform gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.cli import split
from shoal.core.errors import NotFoundError, UsageError
from shoal.platform.port import FunctionStatus, RevisionStatus, Target


def function(*traffic: Target, revisions: int = 3) -> FunctionStatus:
    names = [f"f-{number:05d}" for number in range(revisions, 0, -1)]
    made = tuple(RevisionStatus(name, 0.0, True, "", 0, 0, (), {}, "") for name in names)
    return FunctionStatus("f", "http://f", True, "", traffic, made)


@pytest.mark.parametrize(
    ("reference", "name"),
    [("f-00002", "f-00002"), ("2", "f-00002"), ("00002", "f-00002"), ("@latest", "f-00003"), ("stable", "f-00001")],
)
def test_a_revision_has_several_names(reference: str, name: str) -> None:
    assert split.resolve(reference, function(Target("f-00001", 100, "stable"))) == name


@pytest.mark.parametrize("reference", ["4", "0", "f-4", "", "@last", "²", "9" * 30, "f"])
def test_an_unknown_revision_lists_those_there_are(reference: str) -> None:
    with pytest.raises(NotFoundError, match="f-00003, f-00002, f-00001"):
        split.resolve(reference, function())


def test_latest_of_nothing() -> None:
    with pytest.raises(NotFoundError, match="it has none"):
        split.resolve("@latest", function(revisions=0))


@pytest.mark.parametrize(
    ("words", "shares"),
    [
        (["1=90", "2=10"], {"f-00001": 90, "f-00002": 10}),
        (["1=90%", "@latest"], {"f-00001": 90, "f-00003": 10}),
        (["2"], {"f-00002": 100}),
        (["2=100", "1=0"], {"f-00002": 100, "f-00001": 0}),
    ],
)
def test_percents_as_typed(words: list[str], shares: dict[str, int]) -> None:
    assert split.percents(words, function()) == shares


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["1=90"], "sum to 90"),
        (["1=90", "2=20"], "sum to 110"),
        (["1=90", "2=20", "3"], "sum to 110"),
        (["1=101"], "from 0 to 100"),
        (["1=-1", "2=101"], "from 0 to 100"),
        (["1=9.5", "2"], "from 0 to 100"),
        (["1=", "2"], "from 0 to 100"),
        (["1", "2"], "one may go without"),
        (["1=50", "f-00001=50"], "named twice"),
        (["1", "1=50"], "named twice"),
    ],
)
def test_percents_that_are_no_split(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split.percents(words, function())


def test_tags_stay_when_percents_change() -> None:
    before = function(Target("f-00001", 100, "stable"), Target("f-00002", 0, "canary"))
    found = split.targets(before, {"f-00003": 100}, split.tags_of(before))
    assert set(found) == {Target("f-00003", 100), Target("f-00002", 0, "canary"), Target("f-00001", 0, "stable")}


def test_a_revision_with_two_tags_has_its_percent_once() -> None:
    before = function(Target("f-00001", 100, "a"), Target("f-00001", 0, "b"))
    assert split.shares_of(before) == {"f-00001": 100}
    assert split.targets(before, split.shares_of(before), split.tags_of(before)) == list(before.traffic)


def test_a_tag_moves_and_goes() -> None:
    before = function(Target("f-00001", 100, "stable"), Target("f-00002", 0, "canary"))
    assert split.retagged(before, [("@latest", "canary")], ["stable"]) == {"canary": "f-00003"}


@given(st.data())
def test_what_is_written_reads_back(data: st.DataObject) -> None:
    status = function(revisions=6)
    names = [one.name for one in status.revisions]
    cuts = sorted(data.draw(st.lists(st.integers(0, 100), max_size=5)))
    shares = dict(zip(names, [b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)], strict=False))
    tags = data.draw(st.dictionaries(st.sampled_from("abcde"), st.sampled_from(names), max_size=5))
    written = split.targets(status, shares, tags)
    after = function(*written, revisions=6)
    assert sum(target.percent for target in written) == 100
    assert {name: share for name, share in split.shares_of(after).items() if share} == {
        name: share for name, share in shares.items() if share
    }
    assert split.tags_of(after) == tags
