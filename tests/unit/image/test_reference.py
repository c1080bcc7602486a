"""References: what names an image, and what does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.errors import UsageError
from shoal.image.reference import Reference

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost/a", Reference("localhost", "a")),
        ("r.example:5000/team/app:1.2", Reference("r.example:5000", "team/app", "1.2")),
        (f"oci://r.example/a-b__c@{DIGEST}", Reference("r.example", "a-b__c", "", DIGEST)),
        (f"127.0.0.1:5000/a:t@{DIGEST}", Reference("127.0.0.1:5000", "a", "t", DIGEST)),
        ("[::1]:5000/a", Reference("[::1]:5000", "a")),
    ],
)
def test_a_reference_is_read_and_written(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected
    assert str(expected) == text.removeprefix("oci://")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("python:3.11", "no registry's host"),
        ("team/app", "no registry's host"),
        ("https://r.example/a", "no registry's host"),
        ("user:pass@r.example/a", "no registry's host"),
        ("r.example/Upper", "no repository"),
        ("r.example/", "no repository"),
        ("r.example/a//b", "no repository"),
        ("r.example/../a", "no repository"),
        ("r.example/a:", "no tag"),
        ("r.example/a:b c", "no tag"),
        ("r.example/a@sha256:12", "no digest"),
        ("r.example/a@", "no digest"),
        ("", "no registry's host"),
    ],
)
def test_what_is_none_is_refused_with_the_part_and_the_rule(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Reference.parse(text)


@given(st.text(max_size=300))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        read = Reference.parse(text)
    except UsageError:
        return
    assert Reference.parse(str(read)) == read


def test_one_exact_image() -> None:
    assert str(Reference.parse("r.example/a:1").at(DIGEST)) == f"r.example/a@{DIGEST}"
    assert Reference.parse("r.example/a").version == "latest"
