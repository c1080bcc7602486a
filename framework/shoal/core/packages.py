"""Wheels from the package index, installed with uv where it is and pip where it is not, and the cache for them."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from shoal.core.errors import PlatformError, UsageError
from shoal.core.limits import INSTALL_SECONDS_MAX

_OUTPUT_CHARS_SHOWN = 1_000


def cache_folder() -> Path:
    """Give the folder that keeps what was installed or downloaded: SHOAL_CACHE, else ``~/.cache/shoal``."""
    return Path(os.environ.get("SHOAL_CACHE") or Path.home() / ".cache" / "shoal").expanduser().absolute()


def make_once(root: Path, make: Callable[[Path], None]) -> bool:
    """Make the folder ``root`` unless it is there; says whether it was made. Safe from several processes at once.

    ``make`` fills a folder beside it, which is renamed: a killed installation leaves one that nobody takes for
    complete, and that the next one removes.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with _locked(root.with_name(f"{root.name}.lock")):
        if root.is_dir():
            return False
        for abandoned in root.parent.glob(f"{root.name}.part-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f"{root.name}.part-", dir=root.parent))
        try:
            make(part)
            part.rename(root)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return True


def find_uv() -> str:
    """Give the path of uv, beside the running interpreter or on PATH; empty when there is none."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return shutil.which("uv", path=os.pathsep.join(folders)) or ""


def make_environment(root: Path) -> None:
    """Make a virtual environment of the running Python below ``root``; PlatformError when that fails."""
    run([sys.executable, "-m", "venv", *(["--without-pip"] if find_uv() else []), str(root)])


def install_into_environment(root: Path, arguments: Sequence[str]) -> None:
    """Install wheels, never source, into the virtual environment ``root``; PlatformError when that fails."""
    python, uv = str(root / "bin" / "python3"), find_uv()
    installer = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    run([*installer, "--quiet", "--only-binary", ":all:", *arguments])


def install_into_folder(folder: Path, arguments: Sequence[str]) -> None:
    """Unpack wheels for the running Python into ``folder``, no dependencies; PlatformError when that fails."""
    uv = find_uv()
    if not uv and importlib.util.find_spec("pip") is None:
        raise UsageError("neither uv nor pip is in this environment", hint=f"{sys.executable} -m ensurepip")
    installer = (
        [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    )
    run([*installer, "--quiet", "--only-binary", ":all:", "--no-deps", "--target", str(folder), *arguments])


def compile_folder(folder: Path, *, shown_as: Path) -> None:
    """Write the bytecode of a folder's modules, which name their files as below ``shown_as``; what fails is left.

    Processes that may not write it themselves would compile every module again at each start.
    """
    paths = ["-s", str(folder), "-p", str(shown_as)]
    command = [sys.executable, "-m", "compileall", "-qq", *paths, str(folder)]
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, capture_output=True, timeout=INSTALL_SECONDS_MAX, check=False)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock on a file; the kernel releases it when its holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(command: Sequence[str]) -> None:
    """Run one step of an installation; PlatformError with the end of what it printed when it fails."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PlatformError(f"an installation failed: {name}: {error}") from error
    if done.returncode != 0:
        tail = (done.stderr or done.stdout).strip()[-_OUTPUT_CHARS_SHOWN:]
        raise PlatformError(
            f"an installation failed: {name} ended with {done.returncode}: {tail}",
            hint="check that the package index is reachable, then run the same command again",
        )
