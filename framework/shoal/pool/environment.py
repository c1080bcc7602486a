"""The stand-in's own environment: a Triton server from a wheel and the Python its backend runs.

``python -m shoal.pool.environment`` makes it ahead of time.

Made once per lock file and Python version, below the cache folder. It stands alone because the server's Python
stub works with numpy 1.26 only (with numpy 2 it reads inputs as zeros), while everything else may use numpy 2.

    <cache>/triton-<hash>/                    a virtual environment; present under this name only when complete
        lib/python3.X/site-packages/pytriton/ the server, its backend and one stub per Python version
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.core.errors import ShoalError, UsageError
from shoal.core.hashing import file_digest, parts_digest
from shoal.core.names import HASH_CHARS
from shoal.core.packages import cache_folder, install_into_environment, make_environment, make_once, run

LOCK: Final = Path(__file__).with_name("triton.lock")
OWN_BACKENDS: Final = Path(__file__).with_name("backends")
PYTHONS: Final = ((3, 11), (3, 12))  # numpy 1.26 has no wheel for 3.13, onnxruntime 1.32 none for 3.10
LIBRARY_FOLDERS: Final = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64")  # where distributions put libpython
GLIBC_MIN: Final = (2, 35)  # the wheel's platform tag
_SERVER: Final = Path("pytriton", "tritonserver")
_ELSEWHERE: Final = "use the pool's fake here (python -m shoal.pool --fake), or a Linux x86_64 machine"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TritonEnvironment:
    """A complete environment: where the server, its Python and the libraries it loads are."""

    root: Path
    libpython: Path  # the folder that holds libpython3.X.so.1.0

    @property
    def python(self) -> Path:
        """The interpreter whose packages the stub imports."""
        return self.root / "bin" / "python3"

    @property
    def site_packages(self) -> Path:
        """Where its packages are."""
        return self.root / "lib" / f"python{_python_version()}" / "site-packages"

    @property
    def binary(self) -> Path:
        """The server."""
        return self.site_packages / _SERVER / "bin" / "tritonserver"

    def variables(self) -> dict[str, str]:
        """What the server's process environment needs: its stub starts from the first python3 on PATH."""
        libraries = [str(self.libpython), str(self.site_packages / "nvidia_pytriton.libs")]
        inherited = os.environ.get("LD_LIBRARY_PATH")
        return {
            "PATH": os.pathsep.join([str(self.root / "bin"), os.environ.get("PATH", os.defpath)]),
            "LD_LIBRARY_PATH": os.pathsep.join([*libraries, *([inherited] if inherited else [])]),
            "VIRTUAL_ENV": str(self.root),
        }


def unavailable() -> str:
    """Say why this machine cannot run the stand-in; empty when it can."""
    try:
        _check_machine()
        find_libpython()
    except UsageError as error:
        return error.message
    return ""


def prepare(cache: Path | None = None, progress: Progress = lambda line: None) -> TritonEnvironment:
    """Give the environment, made first if it is not there; safe to call from several processes at once.

    ``cache`` is the folder it is made in, SHOAL_CACHE without one.
    Raises UsageError when this machine cannot run it, PlatformError when the installation fails.
    """
    _check_machine()
    libpython = find_libpython()
    cache = cache or cache_folder()
    root = cache / f"triton-{_key()}"

    def make(part: Path) -> None:
        progress("installing the Triton stand-in (once, about 100 MB)")
        _install(part)
        _check_complete(part)

    make_once(root, make)
    return TritonEnvironment(root=root, libpython=libpython)


def assemble_backends(environment: TritonEnvironment, into: Path) -> Path:
    """Lay out Triton's backend folder below ``into`` and give it: the Python backend, and ours built on it.

    The library is copied because a link "escapes backend directory"; the stub is a link because its own
    library path is relative to where it lies.
    """
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(OWN_BACKENDS, into, ignore=shutil.ignore_patterns("__pycache__"))
    source, target = environment.site_packages / _SERVER, into / "python"
    target.mkdir()
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy2(source / "backends" / "python" / name, target / name)
    stub = "triton_python_backend_stub"
    (target / stub).symlink_to(source / "python_backend_stubs" / _python_version() / stub)
    return into


def find_libpython() -> Path:
    """Give the folder of the shared library of this Python; UsageError names the package that has it."""
    name = f"libpython{_python_version()}.so.1.0"
    folders = [sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib", *LIBRARY_FOLDERS]
    for folder in folders:
        if folder and Path(folder, name).exists():
            return Path(folder)
    raise UsageError(
        f"{name} is in none of {', '.join(map(str, folders))}: the Triton stand-in's Python backend loads it",
        hint=f"apt-get install libpython{_python_version()}",
    )


def _check_machine() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UsageError(
            f"the Triton stand-in runs on Linux x86_64 only, this is {sys.platform} {platform.machine()}",
            hint=_ELSEWHERE,
        )
    if sys.version_info[:2] not in PYTHONS:
        known = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        raise UsageError(
            f"the Triton stand-in needs Python {known} (numpy 1.26 has no other wheel), not {_python_version()}",
            hint=f"python3.11 -m venv .venv, and install shoal there; or {_ELSEWHERE}",
        )
    libc, version = platform.libc_ver()
    if libc != "glibc" or tuple(map(int, version.split(".")[:2])) < GLIBC_MIN:
        raise UsageError(f"the Triton stand-in needs glibc 2.35 and up, this is {libc} {version}", hint=_ELSEWHERE)
    if not shutil.which("bash"):
        raise UsageError("bash is not on PATH: Triton starts its Python stubs with it", hint="apt-get install bash")


def _key() -> str:
    parts = [("lock", file_digest(LOCK)), ("python", _python_version()), ("base", sys.base_prefix)]
    return parts_digest(parts)[:HASH_CHARS]


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _install(root: Path) -> None:
    make_environment(root)
    install_into_environment(root, ["--no-deps", "--require-hashes", "-r", str(LOCK)])


def _check_complete(root: Path) -> None:
    code = "import numpy, onnxruntime; assert numpy.__version__.startswith('1.'), numpy.__version__"
    run([str(root / "bin" / "python3"), "-c", code])


def main() -> int:
    """Make the environment ahead of time: 0 when it is there, 1 with the reason when it cannot be."""
    try:
        environment = prepare(progress=lambda line: print(line, file=sys.stderr))
    except ShoalError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    print(environment.root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
