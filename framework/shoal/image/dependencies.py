"""Dependencies of an image: the data plane's own lock, and the function's if it has one, installed by hash only.

What an installer leaves beside the packages (its name, the place it ran at, scripts for this machine's Python)
would make the same lock file give another digest elsewhere; it is taken out.
"""

from __future__ import annotations

import csv
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from shoal.core.errors import ImageError, PlatformError
from shoal.core.hashing import parts_digest
from shoal.core.packages import find_uv, run
from shoal.image import requirements
from shoal.image.bytecode import Version, with_bytecode
from shoal.image.layer import FORMAT, Entry
from shoal.image.native import BuiltWheel, build_wheels
from shoal.image.requirements import Pin
from shoal.image.tree import folder_entries

RUNTIME_LOCK: Final = Path(__file__).with_name("runtime.lock")
AT: Final = "opt/shoal/dependencies"
PACKAGES_AT: Final = "opt/shoal/packages"
LOCK_NAMES: Final = ("requirements.lock", "requirements.txt")  # the first that is there counts
_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_GLIBC: Final = (2, 28)  # wheels built for it or older run on Debian 10, RHEL 8, Ubuntu 20.04 and later
_NOISE: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"})
_USERINFO: Final = re.compile(r"(://)[^/@\s]+@")


def runtime_pins() -> list[Pin]:
    """Read what the data plane needs."""
    return requirements.read(RUNTIME_LOCK)


def function_pins(folder: Path) -> list[Pin]:
    """Read what a function needs besides, from its requirements.lock or requirements.txt; [] without either."""
    for name in LOCK_NAMES:
        if (folder / name).is_file():
            return requirements.read(folder / name)
    return []


def key(pins: Sequence[Pin], python: Version, architecture: str, mtime: int, at: str) -> str:
    """Name the layer these pins become."""
    parts = [(pin.text, f"{pin.from_source} {pin.hashes}") for pin in pins]
    fixed = [("format", FORMAT), ("python", str(python)), ("at", at), ("on", architecture), ("mtime", str(mtime))]
    return f"dependencies-{parts_digest([*parts, *fixed])[:32]}"


def runtime_entries(pins: Sequence[Pin], python: Version, architecture: str, scratch: Path) -> Iterator[Entry]:
    """Install the data plane's packages and list their files with their bytecode."""
    folder = scratch / "installed"
    install(pins, python, architecture, folder, scratch)
    tidy(folder)
    return with_bytecode(folder_entries(folder, AT), python, scratch)


def function_entries(
    own: Sequence[Pin], runtime: Sequence[Pin], python: Version, architecture: str, scratch: Path
) -> tuple[Iterator[Entry], list[BuiltWheel]]:
    """Install a function's packages and list those that the data plane does not bring, and the wheels built here.

    Both sets are installed together, so that a dependency that neither names is found now.
    Raises SpecError when they disagree, ImageError when the installation fails.
    """
    folder, pins = scratch / "installed", requirements.merge(runtime, own)
    built = build_wheels([pin for pin in pins if pin.from_source], python, scratch)
    install(pins, python, architecture, folder, scratch, built)
    for name in {pin.name for pin in runtime}:
        _remove_distribution(folder, name)
    tidy(folder)
    return with_bytecode(folder_entries(folder, PACKAGES_AT), python, scratch), built


def install(
    pins: Sequence[Pin],
    python: Version,
    architecture: str,
    folder: Path,
    scratch: Path,
    built: Sequence[BuiltWheel] = (),
) -> None:
    """Unpack wheels for an image into ``folder``; every file's hash is checked by the installer."""
    lock = scratch / "install.lock"
    wheels = {wheel.name: wheel for wheel in built}
    lines = [_wheel_line(wheels[pin.name]) if pin.name in wheels else pin.line() for pin in pins]
    lock.write_text("".join(f"{line}\n" for line in lines))
    machine = _MACHINES.get(architecture)
    if machine is None:
        known = " and ".join(_MACHINES)
        raise ImageError(f"the base image is for {architecture!r}; wheels are chosen for {known}")
    command = _uv(machine, python) if find_uv() else _pip(machine, python)
    try:
        run([*command, "--target", str(folder), "--only-binary", ":all:", "--require-hashes", "-r", str(lock)])
    except PlatformError as error:
        raise _explained(error, pins, python, machine) from None
    folder.mkdir(exist_ok=True)


def _wheel_line(wheel: BuiltWheel) -> str:
    return f"{wheel.name} @ {wheel.path.as_uri()} --hash=sha256:{wheel.sha256}"


def _uv(machine: str, python: Version) -> list[str]:
    major, minor = _GLIBC
    return [
        find_uv(), "pip", "install", "--quiet", "--python", sys.executable, "--link-mode", "copy",
        "--python-version", f"{python[0]}.{python[1]}", "--python-platform", f"{machine}-manylinux_{major}_{minor}",
    ]  # fmt: skip


def _pip(machine: str, python: Version) -> list[str]:
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(_GLIBC[1], 16, -1)]
    tags += [f"manylinux2014_{machine}", f"manylinux2010_{machine}", f"manylinux1_{machine}", f"linux_{machine}"]
    return [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
        "--python-version", f"{python[0]}.{python[1]}", "--implementation", "cp",
        *(part for tag in tags for part in ("--platform", tag)),
    ]  # fmt: skip


def _explained(error: PlatformError, pins: Sequence[Pin], python: Version, machine: str) -> ImageError:
    """Give the installer's words, without a password that the index's address may carry."""
    text = _USERINFO.sub(r"\1", error.message)
    where = f" ({pins[0].where.rpartition(':')[0]} and what belongs to it)" if pins else ""
    if re.search(r"no (usable |compatible )?wheels?|No matching distribution|matching platform", text):
        hint = "a line `--no-binary NAME` in the lock file builds that package from its source, in its own stage"
    else:
        hint = error.hint
    return ImageError(f"dependencies for Python {python[0]}.{python[1]} on {machine}{where}: {text}", hint=hint)


def tidy(folder: Path) -> None:
    """Remove what is this machine's, not the packages'."""
    shutil.rmtree(folder / "bin", ignore_errors=True)  # scripts that start this machine's Python
    for path in [*folder.glob("*.dist-info/*"), folder / ".lock"]:
        if path.name in _NOISE or path.name == ".lock":
            path.unlink(missing_ok=True)
    for cache in list(folder.rglob("__pycache__")):
        shutil.rmtree(cache, ignore_errors=True)


def _remove_distribution(folder: Path, name: str) -> None:
    """Remove an installed distribution's files, by its own record of them."""
    for info in folder.glob("*.dist-info"):
        if requirements.normalise(info.name.removesuffix(".dist-info").rpartition("-")[0]) != name:
            continue
        with (info / "RECORD").open(newline="", encoding="utf-8") as record:
            listed = [row[0] for row in csv.reader(record) if row]
        for path in listed:
            target = folder / path
            if target.resolve().is_relative_to(folder.resolve()):
                target.unlink(missing_ok=True)
        shutil.rmtree(info, ignore_errors=True)
    _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
