"""Bytecode ahead of time: without it every cold start compiles all it imports, into a file system it may not write.

Files are *unchecked hash* ones (PEP 552): they carry no time and Python takes them without looking at the source.
The compiler is this machine's Python of the image's minor version. Releases 3.11.2 and 3.11.7, with any hash seed,
were compared over the standard library and write the same bytes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from shoal.core import limits
from shoal.core.errors import ImageError, UsageError
from shoal.image.layer import Entry

_CHILD: Final = Path(__file__).with_name("compile_child.py")
_ENVIRONMENT: Final = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}

Version = tuple[int, int]


def with_bytecode(entries: Iterable[Entry], python: Version, scratch: Path) -> Iterator[Entry]:
    """Yield the entries, and a compiled file for each Python source that compiles.

    ``python`` is the image's version; compiled files lie in ``scratch`` until the layer is written.
    Raises UsageError when this machine has no Python of that version.
    """
    entries = list(entries)
    sources = [entry for entry in entries if entry.kind == "file" and entry.path.endswith(".py")]
    yield from entries
    if sources:
        yield from _compile(sources, python, scratch)


def interpreter(python: Version) -> str:
    """Give a Python of that minor version on this machine; UsageError when there is none."""
    if sys.version_info[:2] == python:
        return sys.executable
    name = f"python{python[0]}.{python[1]}"
    if found := shutil.which(name):
        return found
    raise UsageError(
        f"the base image runs Python {python[0]}.{python[1]}, and this machine has no {name} to compile for it",
        hint=f"install {name}, or choose a base with Python {sys.version_info[0]}.{sys.version_info[1]}",
    )


def compiled_path(path: str, python: Version) -> str:
    """Name the compiled file of a source: ``app/a.py`` -> ``app/__pycache__/a.cpython-311.pyc``."""
    source = PurePosixPath(path)
    return str(source.parent / "__pycache__" / f"{source.stem}.cpython-{python[0]}{python[1]}.pyc")


def _compile(sources: Sequence[Entry], python: Version, scratch: Path) -> Iterator[Entry]:
    folder = scratch / "bytecode"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for number, entry in enumerate(sources):
        source = entry.source
        if source is None:
            source = folder / f"{number}.py"
            source.write_bytes(entry.data)
        jobs.append((str(source), f"/{entry.path}", str(folder / f"{number}.pyc")))
    _run(interpreter(python), jobs)
    for (_, _, made), entry in zip(jobs, sources, strict=True):
        if Path(made).exists():
            yield Entry(compiled_path(entry.path, python), source=Path(made))


def _run(python: str, jobs: Sequence[tuple[str, str, str]]) -> None:
    """Compile in a process of its own: what this one has imported must not show in the bytes."""
    try:
        done = subprocess.run(
            [python, "-S", "-P", str(_CHILD)],
            input=json.dumps(jobs).encode(),
            env=_ENVIRONMENT,
            capture_output=True,
            timeout=limits.COMPILE_SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"bytecode cannot be compiled with {python}: {error}") from None
    if done.returncode != 0:
        raise ImageError(
            f"bytecode cannot be compiled with {python}: {done.stderr.decode(errors='replace')[-400:]}"
        )
