"""Lock files: exact and hashed, or refused with file and line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.errors import SpecError
from shoal.image import requirements
from shoal.image.dependencies import RUNTIME_LOCK

HASH = "--hash=sha256:" + "a" * 64
OTHER = "--hash=sha256:" + "b" * 64


def test_pins_are_read_with_continuations_and_comments() -> None:
    pinned = "Some_Pkg[x,y]==1.2 ; python_version < '4'"
    text = f"# made by hand\n{pinned} \\\n    {HASH} \\\n    {OTHER}\n    # via me\n\n"
    (pin,) = requirements.parse(text, "r.lock")
    assert (pin.name, pin.version, pin.where) == ("some-pkg", "1.2", "r.lock:2")
    assert pin.text == pinned
    assert pin.hashes == ("sha256:" + "a" * 64, "sha256:" + "b" * 64)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("requests", "a range may mean another version"),
        ("requests>=2", "a range may mean another version"),
        ("requests==2.*", "a range may mean another version"),
        ("requests==2.1", r"has no --hash=sha256"),
        ("requests==2.1 --hash=md5:abc", "is not sha256"),
        ("requests @ https://example.com/r.whl", "an address may have other content"),
        ("git+https://example.com/r", "an address may have other content"),
        ("-e .", "--no-binary NAME alone"),
        ("-r other.txt", "--no-binary NAME alone"),
        ("--index-url https://user:pass@example.com", "--no-binary NAME alone"),
        ("./local.whl", "is not NAME==VERSION"),
    ],
)
def test_what_could_mean_something_else_is_refused_by_file_and_line(line: str, words: str) -> None:
    text = f"good==1 {HASH}\n\n{line}\n"
    with pytest.raises(SpecError, match=words) as caught:
        requirements.parse(text, "fn/requirements.txt")
    assert caught.value.where == "fn/requirements.txt:3"


def test_no_binary_marks_a_package_that_is_built() -> None:
    pins = requirements.parse(f"--no-binary Native\nnative==1 {HASH}\nplain==1 {HASH}\n", "f")
    assert {pin.name: pin.from_source for pin in pins} == {"native": True, "plain": False}


def test_no_binary_for_a_package_that_is_not_there_is_refused() -> None:
    with pytest.raises(SpecError, match="--no-binary other names no package") as caught:
        requirements.parse(f"a==1 {HASH}\n--no-binary other\n", "f")
    assert caught.value.where == "f:2"


def test_two_versions_of_one_package_are_refused_with_both_places() -> None:
    ours, theirs = requirements.parse(f"a==1 {HASH}", "ours"), requirements.parse(f"A==2 {HASH}", "theirs")
    with pytest.raises(SpecError, match=r"theirs:1: a 2 is pinned here and a 1 in ours:1") as caught:
        requirements.merge(ours, theirs)
    assert caught.value.hint == "pin a==1"


def test_the_same_pin_twice_is_one() -> None:
    ours, theirs = requirements.parse(f"a==1 {HASH}", "ours"), requirements.parse(f"a==1 {OTHER}", "theirs")
    assert [pin.where for pin in requirements.merge(ours, theirs)] == ["ours:1"]


@pytest.mark.parametrize("data", [b"\xff\xfe", b""])
def test_a_file_that_is_no_text_is_refused_and_an_empty_one_is_not(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "requirements.txt"
    path.write_bytes(data)
    if data:
        with pytest.raises(SpecError, match="it is not UTF-8"):
            requirements.read(path)
    else:
        assert requirements.read(path) == []


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    pins = []
    with suppress(SpecError):
        pins = requirements.parse(text, "f")
    assert all(pin.hashes for pin in pins)


def test_the_data_planes_own_lock_holds_what_it_needs_and_little_else() -> None:
    names = {pin.name for pin in requirements.read(RUNTIME_LOCK)}
    assert {"uvicorn", "uvloop", "httptools", "prometheus-client"} <= names
    assert names <= {"uvicorn", "uvloop", "httptools", "prometheus-client", "click", "h11"}
