"""The third-party packages of a function: ``requirements.txt`` beside its handler, exact pins and nothing else.

A loose requirement means another thing tomorrow, and a revision must mean the same for as long as it exists. So
each line is ``name==version``, perhaps with a marker and hashes, as ``uv pip compile`` and ``pip freeze`` write it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.core import limits
from shoal.core.errors import SpecError
from shoal.core.hashing import bytes_digest
from shoal.spec.document import Mistake, shorten
from shoal.spec.explain import spec_error

FILE_NAMES: Final = ("requirements.lock", "requirements.txt")  # the first that is there counts
RULE: Final = "exact pins only, name==version; 'uv pip compile' or 'pip freeze' write them"

_PIN: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\[[A-Za-z0-9._, -]*\])?"
    r"\s*==\s*(?P<version>[0-9][A-Za-z0-9.!+_-]*)\s*(?:;\s*(?P<marker>[^#]+?))?"
)
_HASH: Final = re.compile(r"\s--hash[= ](\S+)")
_DIGEST: Final = re.compile(r"sha(256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128})")
_COMMENT: Final = re.compile(r"(^|\s)#.*")
_NOT_NAMES: Final = re.compile(r"[-_.]+")


@dataclass(frozen=True, slots=True)
class Pin:
    """One package in one version; ``line`` is where it stands."""

    name: str  # as the index compares names: lower-case, '-' between words
    version: str
    line: int
    marker: str = ""
    hashes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    def requirement(self) -> str:
        """Give the line an installer reads."""
        marker = f" ; {self.marker}" if self.marker else ""
        return str(self) + marker + "".join(f" --hash={digest}" for digest in self.hashes)


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a function's file pins; without a file, or with an empty one, nothing."""

    file: Path
    digest: str = ""  # hexadecimal SHA-256 of the file's bytes
    pins: tuple[Pin, ...] = ()

    @property
    def hashed(self) -> bool:
        """Say whether the packages' bytes are pinned too."""
        return any(pin.hashes for pin in self.pins)


def load(folder: Path) -> Requirements:
    """Read the pins of the function in ``folder``; SpecError with ``file:line:column`` for each that is none.

    ``requirements.lock`` goes before ``requirements.txt``, which is then what the lock was made from.
    """
    file = find(folder)
    if not file.is_file():
        return Requirements(file)
    try:
        with file.open("rb") as opened:
            raw = opened.read(limits.REQUIREMENTS_BYTES_MAX + 1)
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", where=str(file)) from None
    return parse(raw, file)


def find(folder: Path) -> Path:
    """Give the file that counts; ``requirements.txt`` where there is none yet."""
    return next((folder / name for name in FILE_NAMES if (folder / name).is_file()), folder / FILE_NAMES[-1])


def parse(raw: bytes, file: Path) -> Requirements:
    """Read a file's bytes; ``file`` is named in messages. SpecError tells every line that is no exact pin."""
    if len(raw) > limits.REQUIREMENTS_BYTES_MAX:
        raise spec_error(str(file), [Mistake(1, 1, f"more than {limits.REQUIREMENTS_BYTES_MAX} bytes")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise spec_error(str(file), [Mistake(1, 1, "not UTF-8 text")]) from None
    pins: list[Pin] = []
    mistakes: list[Mistake] = []
    for number, line in _lines(text):
        found = _pin(number, line)
        (pins if isinstance(found, Pin) else mistakes).append(found)  # type: ignore[arg-type]
    mistakes += _across(pins)
    if mistakes:
        raise spec_error(str(file), mistakes, hint=RULE)
    return Requirements(file, bytes_digest(raw), tuple(pins))


def normal(name: str) -> str:
    """Write a package's name as the index compares it."""
    return _NOT_NAMES.sub("-", name).lower()


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield each requirement with its first line's number: comments gone, continued lines joined."""
    first, joined = 0, ""
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        first = first if joined else number
        joined += _COMMENT.sub("", line)
        if joined.rstrip().endswith("\\"):
            joined = joined.rstrip().removesuffix("\\") + " "
            continue
        if joined.strip():
            yield first, joined.strip()
        joined = ""


def _pin(number: int, line: str) -> Pin | Mistake:
    hashes = tuple(_HASH.findall(f" {line}"))
    found = _PIN.fullmatch(_HASH.sub("", f" {line}").strip())
    if found is None:
        return Mistake(number, 1, f"{shorten(line)!r} is {_kind(line)}")
    if wrong := next((digest for digest in hashes if not _DIGEST.fullmatch(digest)), ""):
        return Mistake(number, 1, f"{shorten(wrong)!r} is no hash: sha256:, then 64 hexadecimal digits")
    return Pin(normal(found["name"]), found["version"], number, (found["marker"] or "").strip(), hashes)


def _kind(line: str) -> str:
    """Say what a line is that is no pin."""
    word = line.split()[0]
    if word in ("-e", "--editable") or word.startswith("--editable="):
        return "an editable package: its files may change after the deployment"
    if re.match(r"-r|-c|--requirement|--constraint", word):
        return "an include: one file has all of a function's packages"
    if word.startswith("-"):
        return "an option: where packages come from is set where shoal runs, by UV_INDEX_URL and PIP_INDEX_URL"
    if "://" in line or re.match(r"[^=<>!~;]*@", line):
        return "a URL: a package comes from the index, by name and version"
    if line.startswith((".", "/", "~")) or line.split(";")[0].strip().endswith((".whl", ".tar.gz", ".zip")):
        return "a path: a package comes from the index, and code of your own from the function's folder"
    if re.search(r"==\s*[^,]*\*|[<>~!,]|===", line):
        return "a range of versions"
    return "not a pin" if "=" in line else "without a version"


def _across(pins: list[Pin]) -> Iterator[Mistake]:
    """Find what is wrong with the pins as a whole: too many, one twice, hashes for some only."""
    if len(pins) > limits.REQUIREMENTS_MAX:
        yield Mistake(pins[limits.REQUIREMENTS_MAX].line, 1, f"more than {limits.REQUIREMENTS_MAX} packages")
    hashed = any(pin.hashes for pin in pins)
    seen: dict[str, Pin] = {}
    for pin in pins:
        first = seen.setdefault(pin.name, pin)
        if first is not pin and not (first.marker and pin.marker):
            yield Mistake(pin.line, 1, f"{pin.name} appears twice; first in line {first.line}")
        if hashed and not pin.hashes:
            yield Mistake(pin.line, 1, f"{pin} has no hash, and others have: all of them, or none")
