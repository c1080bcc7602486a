"""The build stage: a wheel from a source distribution, made in an environment the image never sees.

Only for packages that a ``--no-binary NAME`` line of the lock file names: building runs the package's own code.
The source is checked by its hash; so is what it is built with, if ``build-requirements.lock`` lies beside the lock.
Compilers and headers are this machine's: what a wheel links to must be in the base image.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.core import limits
from shoal.core.errors import ImageError
from shoal.core.hashing import file_digest
from shoal.image.bytecode import Version, interpreter
from shoal.image.requirements import Pin

BUILD_LOCK: Final = "build-requirements.lock"
_PASSED_ON: Final = (
    "PATH", "HOME", "CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "PIP_INDEX_URL", "PIP_CERT", "PIP_CONFIG_FILE",
    "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX",
    "SSL_CERT_FILE", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy",
)  # fmt: skip
# A wheel is a zip file: it cannot hold a time before 1980.
_FIXED: Final = {"SOURCE_DATE_EPOCH": "315532800", "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class BuiltWheel:
    """A wheel made here: its package, where it lies, and its hexadecimal SHA-256."""

    name: str
    path: Path
    sha256: str


def build_wheels(pins: Sequence[Pin], python: Version, scratch: Path) -> list[BuiltWheel]:
    """Build a wheel for each pin below ``scratch``; ImageError with the end of what the build printed."""
    if not pins:
        return []
    environment = scratch / "build-environment"
    _run([interpreter(python), "-m", "venv", str(environment)], "making the build environment")
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    isolation = _build_requirements(pins, pip)
    return [_build(pin, pip, isolation, scratch) for pin in pins]


def _build_requirements(pins: Sequence[Pin], pip: Sequence[str]) -> list[str]:
    """Install what builds need from hashes if they are locked; else each build gets what it asks for itself."""
    lock = Path(pins[0].where.rpartition(":")[0]).with_name(BUILD_LOCK)
    if not lock.is_file():
        return []
    _run([*pip, "install", "--require-hashes", "--only-binary", ":all:", "-r", str(lock)], f"installing {lock}")
    return ["--no-build-isolation"]


def _build(pin: Pin, pip: Sequence[str], isolation: Sequence[str], scratch: Path) -> BuiltWheel:
    lock, into = scratch / f"{pin.name}.lock", scratch / "wheels" / pin.name
    lock.write_text(f"{pin.line()}\n")
    options = ["--no-deps", "--no-binary", ":all:", "--no-cache-dir", "--require-hashes", *isolation]
    _run([*pip, "wheel", *options, "-w", str(into), "-r", str(lock)], f"building {pin.text} ({pin.where})")
    found = sorted(into.glob("*.whl"))
    if len(found) != 1:
        raise ImageError(f"building {pin.text} ({pin.where}) made {len(found)} wheels, not one")
    return BuiltWheel(pin.name, found[0], file_digest(found[0]))


def _run(command: Sequence[str], what: str) -> None:
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | _FIXED
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace",
            timeout=limits.INSTALL_SECONDS_MAX, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"{what}: {error}") from None
    if done.returncode != 0:
        raise ImageError(f"{what} failed: {(done.stderr or done.stdout).strip()[-600:]}")
