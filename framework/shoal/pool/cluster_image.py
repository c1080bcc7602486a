"""What the pool's two images hold on top of a Debian base with Python 3.11: the Triton stand-in, and the agent.

Two images rather than one: on GPUs the first is NVIDIA's own, unchanged, and the agent is the same beside both. And
a model's code, which runs in the first, finds neither the agent's libraries nor its token.

This module lays out folders; ``shoal.image`` makes layers of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.core.hashing import file_digest, tree_digest
from shoal.core.packages import install_into_folder
from shoal.pool.environment import LOCK as TRITON_LOCK
from shoal.pool.environment import OWN_BACKENDS

PYTHON: Final = (3, 11)  # Debian 12's; the server's wheel has a stub for it, numpy 1.26 a wheel
AGENT_LOCK: Final = Path(__file__).with_name("cluster_agent.lock")
_VERSION: Final = ".".join(map(str, PYTHON))
_PACKAGES: Final = f"usr/local/lib/python{_VERSION}/dist-packages"  # Debian's Python looks there by itself
_BACKENDS: Final = "opt/triton/backends"
_SERVER: Final = Path("pytriton", "tritonserver")
_STUB: Final = "triton_python_backend_stub"
_SHOAL: Final = Path(__file__).resolve().parents[1]
# Of the package: what the agent imports, and what those import.
_ROOMS: Final = ("core", "triton", "runtime", "models", "spec", "pool")


@dataclass(frozen=True, slots=True)
class Image:
    """One image: how it starts, what the base lacks for it, and what lies on top.

    ``lay_out`` writes its tree into an empty folder; PlatformError when the locked packages cannot be installed.
    ``inputs`` names everything the tree depends on, with its digest: the same inputs give the same tree.
    """

    name: str
    entrypoint: tuple[str, ...]
    debian_packages: tuple[str, ...]
    environment: Mapping[str, str]
    lay_out: Callable[[Path], None]
    inputs: Callable[[], dict[str, str]]


def _lay_out_triton(tree: Path) -> None:
    packages = _install(tree, TRITON_LOCK)
    server = packages / _SERVER
    _lay_out_backends(server, tree / _BACKENDS)
    for copied in (server / "python_backend_stubs", server / "backends"):
        shutil.rmtree(copied, ignore_errors=True)
    link = tree / "usr/local/bin/tritonserver"
    link.parent.mkdir(parents=True)
    link.symlink_to(f"/{(server / 'bin' / 'tritonserver').relative_to(tree)}")  # it looks for libraries where it is


def _lay_out_backends(server: Path, backends: Path) -> None:
    shutil.copytree(OWN_BACKENDS, backends, ignore=shutil.ignore_patterns("__pycache__"))
    python = backends / "python"
    python.mkdir()
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy2(server / "backends" / "python" / name, python / name)
    shutil.copyfile(server / "python_backend_stubs" / _VERSION / _STUB, python / _STUB)
    (python / _STUB).chmod(0o755)


def _lay_out_agent(tree: Path) -> None:
    packages = _install(tree, AGENT_LOCK)
    (packages / "shoal").mkdir()
    shutil.copyfile(_SHOAL / "__init__.py", packages / "shoal" / "__init__.py")
    for room in _ROOMS:
        shutil.copytree(
            _SHOAL / room, packages / "shoal" / room, ignore=shutil.ignore_patterns("__pycache__", "backends")
        )


def _install(tree: Path, lock: Path) -> Path:
    packages = tree / _PACKAGES
    packages.mkdir(parents=True)
    install_into_folder(packages, ["--python-version", _VERSION, "--require-hashes", "-r", str(lock)])
    for unused in [*packages.glob("**/tests"), *packages.glob("**/__pycache__"), packages / "bin"]:
        shutil.rmtree(unused, ignore_errors=True)
    for leftover in (".lock", ".gitignore"):
        (packages / leftover).unlink(missing_ok=True)
    return packages


def _own_digests() -> dict[str, str]:
    return {f"room:{room}": tree_digest(_SHOAL / room) for room in _ROOMS}


TRITON: Final = Image(
    name="shoal-pool-triton",
    entrypoint=("tritonserver",),
    # Triton starts its Python stub by "bash -c"; the stub loads libpython.
    debian_packages=("bash", "libtinfo6", f"libpython{_VERSION}"),
    environment={"LD_LIBRARY_PATH": f"/{_PACKAGES}/nvidia_pytriton.libs:/usr/lib/x86_64-linux-gnu"},
    lay_out=_lay_out_triton,
    inputs=lambda: {"lock": file_digest(TRITON_LOCK), "backends": tree_digest(OWN_BACKENDS)},
)
AGENT: Final = Image(
    name="shoal-pool-agent",
    entrypoint=("python3", "-m", "shoal.pool.cluster"),
    debian_packages=(),
    environment={"PYTHONUNBUFFERED": "1"},
    lay_out=_lay_out_agent,
    inputs=lambda: {"lock": file_digest(AGENT_LOCK)} | _own_digests(),
)
