"""Each mistake in a function.yaml is one line that says where, what and the rule; nothing else ever comes out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shoal.core import limits
from shoal.core.errors import SpecError
from shoal.spec.function import FunctionSpec, load, parse

OR_TEXT = 'write "{}" in quotes for text'
RESERVED = "is set by the platform: PORT, HOST, K_* and SHOAL_* are reserved"
BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "\n".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def mistakes(text: str | bytes) -> list[str]:
    raw = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(SpecError) as caught:
        parse(raw, file="f.yaml", name="folder")
    return str(caught.value).splitlines()


# What is written -> the one line that comes out.
ONE_LINE = {
    # keys
    "concurency: 1": "1:1: unknown key 'concurency'; did you mean 'concurrency'?",
    "timeout_s: 1s": "1:1: unknown key 'timeout_s'; did you mean 'timeout'?",
    "min: 1": "1:1: unknown key 'min': it belongs to scale.min",
    "scale: {windw: 1s}": "1:9: unknown key 'windw' under scale; did you mean 'window'?",
    "scale: {replicas: 1}": "1:9: unknown key 'replicas' under scale: known are min, max, window",
    "triggers:\n  - delivery: {backoff_delay: 1s}": (
        "2:16: unknown key 'backoff_delay' under triggers[0].delivery; did you mean 'backoffDelay'?"
    ),
    "name: a\nname: b": "2:1: key 'name' appears twice; first in line 1",
    "on: 1": "1:1: key on reads as a truth value in YAML: put it in quotes",
    "<<: {name: a}": "1:1: '<<' (merge) is not taken: repeat the keys",
    "? [a]\n: b": "1:3: a key is a list: keys are text",
    # YAML's traps
    "name: no": '1:7: name: no reads as a truth value in YAML: for text write "no" in quotes',
    "name: 123": '1:7: name: 123 reads as a number in YAML: for text write "123" in quotes',
    "env: {V: 3.10}": '1:10: env.V: 3.10 reads as a number in YAML: for text write "3.10" in quotes',
    "threads: 010": (
        "1:10: threads: 010 is octal in YAML and reads as 8: leave out the leading 0, or " + OR_TEXT.format("010")
    ),
    "env: {AT: 1:30}": '1:11: env.AT: 1:30 reads as a base-60 number in YAML: write "1:30" in quotes for text',
    "env: {D: 2024-01-01}": "1:10: env.D: 2024-01-01 reads as a date in YAML: " + OR_TEXT.format("2024-01-01"),
    "threads: 0x10": (
        "1:10: threads: 0x10 is a number shoal does not take: digits, perhaps with a point, or "
        + OR_TEXT.format("0x10")
    ),
    "name:": "1:6: name: no value: text is expected",
    "name: !!python/name:os.system x": (
        "1:7: name: the tag of 'x' is not taken: plain text, numbers, lists and mappings only"
    ),
    "env: !!set {a}": "1:6: env: the tag tag:yaml.org,2002:set is not taken",
    # types
    "threads: yes": "1:10: threads: true is not a whole number",
    "concurrency: 1.5": "1:14: concurrency: 1.5 is not a whole number",
    "models: [a]": "1:9: models: a list is not a mapping of 'key: value'",
    "scale: 3": "1:8: scale: 3 is not a mapping of 'key: value'",
    "triggers: {type: x}": "1:11: triggers: a mapping is not a list, one '- …' for each",
    "triggers: [3]": "1:12: triggers[0]: 3 is not a mapping of 'key: value'",
    # rules
    "shoal: 2": "1:8: shoal: 2 is not a format this shoal reads: write 1",
    "name: Filetype": (
        "1:7: name: function name 'Filetype' is not usable: lower-case letters, digits and '-', "
        "starting with a letter, ending with a letter or digit, 40 characters at most"
    ),
    "handler: ../x.py": "1:10: handler: '../x.py' is not a Python file in the function's folder",
    "handler: /x.py": "1:10: handler: '/x.py' is not a Python file in the function's folder",
    "handler: x.txt": "1:10: handler: 'x.txt' is not a Python file in the function's folder",
    "timeout: 60": "1:10: timeout: 60 has no unit: write 60s for seconds",
    "timeout: PT2S": (
        "1:10: timeout: 'PT2S' is not a duration: a number with ms, s, m or h, as in 200ms, 60s, 1.5m or 1h"
    ),
    "timeout: 2h": "1:10: timeout: 2h is outside 1ms to 10m",
    "timeout: 0s": "1:10: timeout: 0s is outside 1ms to 10m",
    "timeout: [1s]": "1:10: timeout: a duration is text such as 200ms, 60s, 1.5m or 1h",
    "concurrency: 0": "1:14: concurrency: 0 is too small: at least 1",
    "concurrency: 1001": "1:14: concurrency: 1001 is too large: at most 1000",
    "scale: {min: 3, max: 2}": "1:8: scale: min 3 is above max 2",
    "scale: {max: 0}": "1:14: scale.max: 0 is too small: at least 1",
    "env: {PORT: '1'}": f"1:7: env: variable 'PORT' {RESERVED}",
    "env: {K_SERVICE: '1'}": f"1:7: env: variable 'K_SERVICE' {RESERVED}",
    "env: {A-B: '1'}": "1:7: env: variable 'A-B': letters, digits and '_', not starting with a digit",
    'env: {A: "x\\0y"}': "1:7: env: variable 'A': 32768 bytes at most, without a zero byte",
    "models: {../x: m}": (
        "1:10: models: alias '../x': letters, digits, '_' and '-', starting with a letter or '_'"
    ),
    "models: {m: a--b}": (
        "1:13: models.m: model name 'a--b' is not usable: letters, digits, '.', '_' and single '-', "
        "63 characters at most ('--' separates the version)"
    ),
    "triggers: [{filter: {Type: x}}]": (
        "1:22: triggers[0].filter: attribute 'Type': lower-case letters and digits, 20 at most"
    ),
    "triggers: [{delivery: {retry: 99}}]": "1:31: triggers[0].delivery.retry: 99 is too large: at most 20",
    "triggers: [{delivery: {backoffPolicy: exponentially}}]": (
        "1:39: triggers[0].delivery.backoffPolicy: 'exponentially' is not one of 'exponential' or 'linear'; "
        "did you mean 'exponential'?"
    ),
    # not a document
    "": "1:1: the file is empty: write at least 'name: …', or remove it to take the defaults",
    "# nothing\n": "1:1: the file is empty: write at least 'name: …', or remove it to take the defaults",
    "hello": "1:1: the document is a single value: it must be a mapping of 'key: value'",
    "- a\n- b": "1:1: the document is a list: it must be a mapping of 'key: value'",
    "name: a\n\ttimeout: 3s": "2:1: a tab: YAML indents with spaces only",
    "name: a\n---\nname: b": "2:1: a second document ('---'): the file holds one",
    "name: a: b": (
        "1:8: a second ': ' on this line: put a value that contains ': ' in quotes, and one key on each line"
    ),
    "name: [a": "1:7: not YAML: did not find expected ',' or ']' while parsing a flow sequence",
    "name: *none": "1:7: not YAML: found undefined alias",
    # limits
    "env: " + "[" * 5000: "1:17: nested deeper than 12 levels",
    "a: &a [*a]": "1:4: nested deeper than 12 levels, aliases followed",
    BOMB: "1:14: more than 2000 values, aliases followed",
    "a: [" + "1," * 5000 + "]": "1:7997: more than 2000 values",
    "a: " + "x" * limits.SPEC_BYTES_MAX: "1:1: the file has 65539 bytes: 65536 at most",
}


@pytest.mark.parametrize("text", ONE_LINE, ids=lambda text: text[:40].replace("\n", "|"))
def test_one_mistake_is_one_line(text: str) -> None:
    assert mistakes(text) == [f"f.yaml:{ONE_LINE[text]}"]


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"name: \xff", "f.yaml:1:7: byte 0xff is not UTF-8 text"),
        (b"name: a\nx\0y: 1", "f.yaml:2:2: control character U+0000: the file is not text"),
        ("name: a".encode("utf-16"), "f.yaml:1:1: byte 0xff is not UTF-8 text"),
    ],
)
def test_bytes_that_are_no_text(raw: bytes, line: str) -> None:
    assert mistakes(raw) == [line]


def test_all_mistakes_come_at_once_in_the_order_of_the_file() -> None:
    text = "timeout: 60\nname: no\nthreads: 0\nscale:\n  max: 99\n  widow: 1s\n"
    lines = mistakes(text)
    assert [line.split(":")[1] for line in lines] == ["1", "2", "3", "5", "6"]


def test_where_is_the_first_mistake() -> None:
    with pytest.raises(SpecError) as caught:
        parse(b"name: a\nthreads: 0\ntimeout: 1", file="dir/function.yaml", name="x")
    assert caught.value.where == "dir/function.yaml:2:10"


def test_more_mistakes_than_a_screen_are_counted() -> None:
    lines = mistakes("\n".join(f"unknown{number}: 1" for number in range(limits.SPEC_MISTAKES_MAX + 7)))
    assert len(lines) == limits.SPEC_MISTAKES_MAX + 1
    assert lines[-1] == "f.yaml: and 7 more"


@pytest.mark.parametrize(
    "text",
    [
        "models: {" + ",".join(f"m{number}: m" for number in range(17)) + "}",
        "env: {" + ",".join(f"V{number}: m" for number in range(101)) + "}",
        "triggers: [" + ",".join(["{}"] * 21) + "]",
        "triggers: [{filter: {" + ",".join(f"a{number}: m" for number in range(11)) + "}}]",
    ],
)
def test_counts_are_bounded(text: str) -> None:
    (line,) = mistakes(text)
    assert "at most" in line


# The folder itself.


def load_error(folder: Path) -> SpecError:
    with pytest.raises(SpecError) as caught:
        load(folder)
    return caught.value


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert str(load_error(tmp_path / "x")) == f"{tmp_path}/x: no such folder"


def test_a_file_given_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "handler.py").touch()
    assert load_error(tmp_path / "handler.py").hint == f"give its folder: {tmp_path}"


def test_an_empty_folder(tmp_path: Path) -> None:
    error = load_error(tmp_path)
    assert str(error) == f"{tmp_path}: neither function.yaml nor handler.py is in the folder"
    assert error.hint == "shoal new NAME makes both"


def test_a_folder_whose_name_cannot_be_a_functions(tmp_path: Path) -> None:
    folder = tmp_path / "My Function"
    folder.mkdir()
    (folder / "handler.py").touch()
    error = load_error(folder)
    assert "'My Function' is no function name" in str(error)
    assert "name: my-function" in error.hint


def test_the_other_suffix_is_named(tmp_path: Path) -> None:
    (tmp_path / "function.yml").touch()
    (tmp_path / "handler.py").touch()
    assert load_error(tmp_path).hint == f"mv {tmp_path}/function.yml {tmp_path}/function.yaml"


def test_a_symbolic_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "function.yaml").symlink_to(tmp_path / "function.yaml")
    assert str(load_error(tmp_path)).startswith(f"{tmp_path}/function.yaml: ")


def test_a_folder_that_is_a_symbolic_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert str(load_error(tmp_path / "loop")).startswith(f"{tmp_path}/loop")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_function_yaml_that_is_no_file(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "function.yaml")
    assert str(load_error(tmp_path)) == f"{tmp_path}/function.yaml: is not a regular file"


def test_a_file_too_large_to_be_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "function.yaml").open("wb") as file:
        file.truncate(10 * 2**30)  # sparse
    assert "65536 at most" in str(load_error(tmp_path))


# Any bytes give a specification or a SpecError.

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)
KEYS = st.sampled_from([*(FunctionSpec.model_fields), "timeout", "x"])
YAML_WORDS = r"""name scale env triggers timeout : - { } [ ] &a *a << !!int !!bool 010 no 1:30 60s ' " | > #
--- ... %YAML ? , ~ é 2024-01-01 0x_ 0b_ ._ +.inf 1_000 ! = !<tag:yaml.org,2002:str>"""
WORDS = st.sampled_from([*YAML_WORDS.split(), "- ", "\n", "  ", "\t", "\u2028", "\ufeff", "%YAML 1.1"])
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def outcome(raw: bytes) -> FunctionSpec | SpecError:
    try:
        return parse(raw, file="f.yaml", name="folder")
    except SpecError as error:
        return error


def is_spec_or_error(raw: bytes) -> None:
    found = outcome(raw)
    if isinstance(found, SpecError):
        assert str(found).startswith("f.yaml:")
        assert len(str(found).split("\n")) <= limits.SPEC_MISTAKES_MAX + 1


@RELAXED
@given(st.binary(max_size=300))
@example(b"\xef\xbb\xbf")
@example(b"? ")
@example(b"!<")
@example(b"a: !!int ''")
@example(b"a: !!bool maybe")
@example(b"a: !!float x")
@example(b"name: =")
@example(b"a: 0b_")
def test_any_bytes(raw: bytes) -> None:
    is_spec_or_error(raw)


@RELAXED
@given(st.lists(WORDS, max_size=25).map(" ".join) | st.lists(WORDS, max_size=25).map("".join))
def test_any_words_of_yaml(text: str) -> None:
    is_spec_or_error(text.encode())


@RELAXED
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_mapping(data: dict[str, object]) -> None:
    is_spec_or_error(yaml.safe_dump(data).encode())
