"""Lock files: exact versions with hashes, as ``uv pip compile --generate-hashes`` writes them, and nothing else.

A line that could mean another package tomorrow, or on another machine, is refused with its file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.core import limits
from shoal.core.errors import SpecError

_PIN: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[-._A-Za-z0-9]*[A-Za-z0-9])?)\s*(?P<extras>\[[-._A-Za-z0-9,\s]*\])?\s*"
    r"==\s*(?P<version>[A-Za-z0-9][-.+!_A-Za-z0-9]*)\s*(?:;(?P<marker>[^#]*?))?\s*$"
)
_HASH: Final = re.compile(r"--hash[=\s]\s*(\S+)")
_SHA256: Final = re.compile(r"sha256:[0-9a-f]{64}")
_NO_BINARY: Final = re.compile(r"--no-binary[=\s]\s*([-._A-Za-z0-9]+)")
_COMMENT: Final = re.compile(r"(?:^|\s)#.*$")
_HINT: Final = "uv pip compile --generate-hashes requirements.in -o requirements.lock"


@dataclass(frozen=True, slots=True)
class Pin:
    """One package in one version, by the hashes its files may have."""

    name: str  # normalised
    version: str
    text: str  # name, extras, version and marker, as a requirement
    hashes: tuple[str, ...]
    where: str  # file:line
    from_source: bool = False  # a --no-binary line names it

    def line(self) -> str:
        """Give the pin as a line of a lock file."""
        return " ".join([self.text, *(f"--hash={value}" for value in self.hashes)])


def normalise(name: str) -> str:
    """Give a package's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(text: str, file: str) -> list[Pin]:
    """Read a lock file's text; SpecError with ``file:line`` for the first line that is not an exact, hashed pin."""
    pins: list[Pin] = []
    sources: dict[str, str] = {}
    for number, line in _logical_lines(text):
        where = f"{file}:{number}"
        if match := _NO_BINARY.fullmatch(line):
            sources[normalise(match[1])] = where
        else:
            pins.append(_pin(line, where))
    if len(pins) > limits.REQUIREMENTS_MAX:
        raise SpecError(f"{len(pins)} packages; {limits.REQUIREMENTS_MAX} at most", where=file)
    for name in sources.keys() - {pin.name for pin in pins}:
        raise SpecError(f"--no-binary {name} names no package of this file", where=sources[name])
    return [_from_source(pin) if pin.name in sources else pin for pin in pins]


def read(path: Path) -> list[Pin]:
    """Read a lock file; SpecError when it cannot be read or breaks a rule."""
    try:
        with path.open("rb") as file:
            data = file.read(limits.REQUIREMENTS_BYTES_MAX + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SpecError(f"cannot be read: {reason}", where=str(path)) from None
    if len(data) > limits.REQUIREMENTS_BYTES_MAX:
        raise SpecError(f"more than {limits.REQUIREMENTS_BYTES_MAX} bytes", where=str(path))
    return parse(text, str(path))


def merge(*groups: Sequence[Pin]) -> list[Pin]:
    """Put lock files together; SpecError when two name different versions of one package."""
    found: dict[tuple[str, str], Pin] = {}
    versions: dict[str, Pin] = {}
    for pin in (pin for group in groups for pin in group):
        earlier = versions.setdefault(pin.name, pin)
        if earlier.version != pin.version and ";" not in earlier.text + pin.text:
            raise SpecError(
                f"{pin.name} {pin.version} is pinned here and {pin.name} {earlier.version} in {earlier.where}; "
                "one process has one version",
                where=pin.where,
                hint=f"pin {pin.name}=={earlier.version}",
            )
        found.setdefault((pin.name, pin.text), pin)
    return sorted(found.values(), key=lambda pin: (pin.name, pin.text))


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number of its first line, text) with continuations joined, and comments and empty lines left out."""
    start, joined = 0, ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub("", raw).strip()
        start = start if joined else number
        if line.endswith("\\"):
            joined += line[:-1].rstrip() + " "
            continue
        if whole := (joined + line).strip():
            yield start, whole
        joined = ""
    if joined.strip():
        yield start, joined.strip()


def _pin(line: str, where: str) -> Pin:
    body = _HASH.sub("", line).strip()
    match = _PIN.fullmatch(body)
    if match is None:
        raise SpecError(f"{body[:100]!r} is not NAME==VERSION with hashes{_why(body)}", where=where, hint=_HINT)
    hashes = tuple(sorted(_HASH.findall(line)))
    if not hashes:
        raise SpecError(f"{body[:100]!r} has no --hash=sha256:…", where=where, hint=_HINT)
    for value in hashes:
        if not _SHA256.fullmatch(value):
            raise SpecError(f"the hash {value[:80]!r} is not sha256: and 64 hexadecimal digits", where=where)
    marker = (match["marker"] or "").strip()
    extras = re.sub(r"\s", "", match["extras"] or "")
    text = f"{match['name']}{extras}=={match['version']}{f' ; {marker}' if marker else ''}"
    return Pin(normalise(match["name"]), match["version"], text, hashes, where)


def _why(body: str) -> str:
    if body.startswith("-"):
        return " (of the options, --no-binary NAME alone is taken)"
    if "@" in body or "://" in body:
        return " (an address may have other content tomorrow)"
    return " (a range may mean another version tomorrow)" if re.search(r"[<>~!*]|^[-._A-Za-z0-9]+$", body) else ""


def _from_source(pin: Pin) -> Pin:
    return Pin(pin.name, pin.version, pin.text, pin.hashes, pin.where, from_source=True)
