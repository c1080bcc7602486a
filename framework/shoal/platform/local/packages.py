"""A function's third-party packages: installed once for each content of its requirements, apart from shoal's own.

Functions share the platform's environment, so what they pin lies in a folder of its own, ahead of that environment
on their path. The runtime's own packages are no function's to choose: a process has one version of each, and
another under the server that is already running would break it at its first late import.

    <cache>/packages-<hash>/    present under this name only when complete
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from shoal.core.errors import DeployError, PlatformError, SpecError
from shoal.core.hashing import parts_digest
from shoal.core.names import HASH_CHARS
from shoal.core.packages import compile_folder, install_into_folder, make_once
from shoal.spec import requirements
from shoal.spec.document import Mistake
from shoal.spec.explain import spec_error
from shoal.spec.requirements import Requirements

OWN: Final = ("httptools", "prometheus-client", "shoal", "uvicorn", "uvloop")  # what the runtime itself imports


def asked(folder: Path) -> bool:
    """Say whether the function in ``folder`` has a requirements file with anything in it."""
    file = requirements.find(folder)
    return file.is_file() and file.stat().st_size > 0


def wanted(folder: Path) -> Requirements:
    """Read what to install for the function in ``folder``: its pins, less the runtime's own packages.

    One of those in the version that runs here is left out, as it is there; in another it is a SpecError, as is
    every line that is no exact pin.
    """
    found = requirements.load(folder)
    here = {name: _version(name) for name in OWN}
    mistakes = [
        Mistake(pin.line, 1, f"{pin} is the runtime's own package, which runs here as {here[pin.name]}")
        for pin in found.pins
        if pin.name in here and pin.version != here[pin.name]
    ]
    if mistakes:
        raise spec_error(str(found.file), mistakes, hint="leave it out: every function has it")
    return replace(found, pins=tuple(pin for pin in found.pins if pin.name not in here))


def install(wanted: Requirements, cache: Path) -> str:
    """Give the folder that holds the packages, installed below ``cache`` first if need be; empty without any.

    Wheels only, as building runs code of strangers with what happens to be on this machine; and no dependencies
    but those that are pinned. DeployError with the installer's reason when they cannot be had.
    """
    if not wanted.pins:
        return ""
    root = cache / f"packages-{_key(wanted)}"

    def make(part: Path) -> None:
        _install(wanted, part)
        _check(wanted, part)
        compile_folder(part, shown_as=root)

    make_once(root, make)
    return str(root)


def _key(wanted: Requirements) -> str:
    """Name a content: the file, and what a wheel may be made for."""
    python = f"{sys.implementation.cache_tag} {sysconfig.get_platform()}"
    return parts_digest([("requirements", wanted.digest), ("python", python)])[:HASH_CHARS]


def _install(wanted: Requirements, part: Path) -> None:
    with tempfile.NamedTemporaryFile("w", prefix="requirements-", suffix=".txt") as file:
        file.write("".join(f"{pin.requirement()}\n" for pin in wanted.pins))
        file.flush()
        try:
            install_into_folder(part, [*(["--require-hashes"] if wanted.hashed else []), "-r", file.name])
        except PlatformError as error:
            raise DeployError(f"{wanted.file}: {error.message}", hint=error.hint) from error


def _check(wanted: Requirements, part: Path) -> None:
    """Refuse a package that brings a module of the runtime's under another package's name."""
    for name in OWN:
        module = name.replace("-", "_")
        if (part / module).exists() or (part / f"{module}.py").exists():
            message = f"a package in it brings the module {module!r}, which is the runtime's own"
            raise SpecError(message, where=str(wanted.file), hint="leave that package out")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "an unknown version"
