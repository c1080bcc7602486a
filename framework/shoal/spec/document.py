"""YAML text to plain data, with the place of every key and value.

A specification is small and written by hand, so this reader is stricter than YAML: one document, a mapping, text
keys, no key twice, no tags, no merge keys, bounded size, depth and node count (aliases counted where they are used,
which is what stops a few lines from standing for billions). Plain words that YAML 1.1 takes for something else
(``no``, ``010``, ``1:30``, ``2024-01-01``) are refused where they would surprise, with what to write instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import yaml

from shoal.core.limits import SPEC_BYTES_MAX, SPEC_DEPTH_MAX, SPEC_NODES_MAX

Path = tuple[str | int, ...]  # where in the document: ("triggers", 0, "delivery")

_TAG: Final = "tag:yaml.org,2002:"
_READS_AS: Final = {"bool": "a truth value", "int": "a number", "float": "a number", "null": "no value"}
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{0,18}([eE][-+]?[0-9]{1,3})?")
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TRUTHS: Final = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One thing wrong at a line and column (both from 1), said in one sentence."""

    line: int
    column: int
    text: str


class DocumentError(Exception):
    """The text is not a document at all; carries the one mistake that says so."""

    def __init__(self, line: int, column: int, text: str) -> None:
        super().__init__(text)
        self.mistake = Mistake(line, column, text)


class Mark(Protocol):
    """A position as PyYAML gives it, both counted from 0."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands, where its key stands, and how a plain scalar was written."""

    key: tuple[int, int]
    value: tuple[int, int]
    plain: str = ""  # the text of an unquoted scalar
    reads_as: str = ""  # what YAML takes that text for, when not text


@dataclass(slots=True)
class Document:
    """Plain data, the place of each path in it, and the mistakes met on the way."""

    data: dict[str, Any] = field(default_factory=dict)
    places: dict[Path, Place] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    wrong: set[Path] = field(default_factory=set)  # paths whose mistake is already told
    nodes: int = 0

    def tell(self, path: Path, at: tuple[int, int], text: str) -> None:
        """Note a mistake about ``path``; what else is wrong at or below it is then left out."""
        self.mistakes.append(Mistake(*at, text))
        self.wrong.add(path)


def read(raw: bytes) -> Document:
    """Read one YAML document that is a mapping; DocumentError when there is none."""
    root = _compose(_decode(raw))
    if root is None:
        raise DocumentError(1, 1, "the file is empty: write at least 'name: …', or remove it to take the defaults")
    if not isinstance(root, yaml.MappingNode):
        raise DocumentError(
            *_at(root.start_mark), f"the document is {_kind(root)}: it must be a mapping of 'key: value'"
        )
    document = Document()
    document.data = _mapping(document, (), root)
    return document


def _decode(raw: bytes) -> str:
    if len(raw) > SPEC_BYTES_MAX:
        raise DocumentError(1, 1, f"the file has {len(raw)} bytes: {SPEC_BYTES_MAX} at most")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        raise DocumentError(line, column, f"byte 0x{raw[error.start]:02x} is not UTF-8 text") from None
    if bad := _NOT_TEXT.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - (text.rfind("\n", 0, bad.start()) + 1) + 1
        raise DocumentError(line, column, f"control character U+{ord(bad[0]):04X}: the file is not text")
    return text


def _compose(text: str) -> yaml.Node | None:
    try:
        _check_events(text)
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        if mark and mark.line >= len(text.splitlines()):  # found out at the end: say where it began
            mark = error.context_mark or mark
        raise DocumentError(*_at(mark), _syntax(text, error)) from None
    except yaml.YAMLError as error:
        raise DocumentError(1, 1, f"not YAML: {str(error).splitlines()[0]}") from None
    return node


def _check_events(text: str) -> None:
    """Bound depth and size before composing, which recurses."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > SPEC_DEPTH_MAX:
            raise DocumentError(*_at(event.start_mark), f"nested deeper than {SPEC_DEPTH_MAX} levels")
        if count > 2 * SPEC_NODES_MAX:
            raise DocumentError(*_at(event.start_mark), f"more than {SPEC_NODES_MAX} values")


def _syntax(text: str, error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "unreadable"
    line, column = _at(error.problem_mark)
    lines = text.splitlines()
    written = lines[line - 1] if line <= len(lines) else ""
    if "\t" in written[:column]:
        return "a tab: YAML indents with spaces only"
    if "another document" in problem:
        return "a second document ('---'): the file holds one"
    if "mapping values" in problem:
        return "a second ': ' on this line: put a value that contains ': ' in quotes, and one key on each line"
    return f"not YAML: {problem}" + (f" {error.context}" if error.context else "")


def _value(document: Document, path: Path, node: yaml.Node) -> Any:
    document.nodes += 1
    if document.nodes > SPEC_NODES_MAX:
        raise DocumentError(*_at(node.start_mark), f"more than {SPEC_NODES_MAX} values, aliases followed")
    if len(path) > SPEC_DEPTH_MAX:
        raise DocumentError(*_at(node.start_mark), f"nested deeper than {SPEC_DEPTH_MAX} levels, aliases followed")
    if isinstance(node, yaml.MappingNode):
        return _mapping(document, path, node)
    if isinstance(node, yaml.SequenceNode):
        return _sequence(document, path, node)
    return _scalar(document, path, node) if isinstance(node, yaml.ScalarNode) else None


def _mapping(document: Document, path: Path, node: yaml.MappingNode) -> dict[str, Any]:
    _check_tag(document, path, node, "map")
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        at = _at(key_node.start_mark)
        key = _key(document, path, key_node)
        if key is None:
            continue
        here = (*path, key)
        if key in out:
            document.tell(here, at, f"key {key!r} appears twice; first in line {document.places[here].key[0]}")
            continue
        document.places[here] = _place(value_node, at)
        out[key] = _value(document, here, value_node)
    return out


def _sequence(document: Document, path: Path, node: yaml.SequenceNode) -> list[Any]:
    _check_tag(document, path, node, "seq")
    out = []
    for index, item in enumerate(node.value):
        document.places[(*path, index)] = _place(item, _at(item.start_mark))
        out.append(_value(document, (*path, index), item))
    return out


def _key(document: Document, path: Path, node: yaml.Node) -> str | None:
    at = _at(node.start_mark)
    if not isinstance(node, yaml.ScalarNode):
        document.tell((*path, ""), at, f"a key is {_kind(node)}: keys are text")
    elif node.tag == _TAG + "merge":
        document.tell((*path, "<<"), at, "'<<' (merge) is not taken: repeat the keys")
    elif node.tag != _TAG + "str":
        reads = _READS_AS.get(node.tag.removeprefix(_TAG), "something else")
        document.tell(
            (*path, node.value), at, f"key {shorten(node.value)} reads as {reads} in YAML: put it in quotes"
        )
    else:
        return str(node.value)
    return None


def _scalar(document: Document, path: Path, node: yaml.ScalarNode) -> Any:
    text, kind = node.value, node.tag.removeprefix(_TAG)
    if kind == "str":
        return text
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in _TRUTHS:
        return _TRUTHS[text.lower()]
    if kind == "int" and _DECIMAL.fullmatch(text):
        return int(text)
    if kind == "float" and _FLOAT.fullmatch(text):
        return float(text)
    document.tell(path, _at(node.start_mark), f"{_name(path)}{_trap(text, kind)}")
    return text


def _trap(text: str, kind: str) -> str:
    shown = shorten(text)
    quoted = f'write "{shown}" in quotes for text'
    if kind == "int" and re.fullmatch(r"[-+]?0[0-7_]+", text):
        reads = int(text.replace("_", ""), 8)
        return f"{shown} is octal in YAML and reads as {reads}: leave out the leading 0, or {quoted}"
    if kind in ("int", "float") and ":" in text:
        return f"{shown} reads as a base-60 number in YAML: {quoted}"
    if kind in ("int", "float"):
        return f"{shown} is a number shoal does not take: digits, perhaps with a point, or {quoted}"
    if kind == "timestamp":
        return f"{shown} reads as a date in YAML: {quoted}"
    return f"the tag of {shown!r} is not taken: plain text, numbers, lists and mappings only"


def _check_tag(document: Document, path: Path, node: yaml.Node, kind: str) -> None:
    if node.tag != _TAG + kind:
        document.tell(path, _at(node.start_mark), f"{_name(path)}the tag {shorten(node.tag)} is not taken")


def _place(node: yaml.Node, key_at: tuple[int, int]) -> Place:
    if not isinstance(node, yaml.ScalarNode) or node.style:
        return Place(key_at, _at(node.start_mark))
    return Place(key_at, _at(node.start_mark), node.value, _READS_AS.get(node.tag.removeprefix(_TAG), ""))


def _at(mark: Mark | None) -> tuple[int, int]:
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a single value"


def _name(path: Path) -> str:
    return f"{dotted(path)}: " if path else ""


def dotted(path: Path) -> str:
    """Write a path the way people say it: ``triggers[0].delivery.retry``."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{shorten(part)}" if out else shorten(part)
    return out


def shorten(text: str, chars_max: int = 60) -> str:
    """Make a value fit for a message: one line, bounded."""
    line = " ".join(text.split())
    return line if len(line) <= chars_max else f"{line[: chars_max - 1]}…"
