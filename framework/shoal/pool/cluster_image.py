"""What the pool's two images hold on top of a Debian base with Python 3.11: the Triton stand-in, and the agent.

Two images rather than one: on GPUs the first is NVIDIA's own, unchanged, and the agent is the same beside both. And
a model's code, which runs in the first, finds neither the agent's libraries nor its token.

This module lays out folders; ``shoal.image`` makes layers of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shoal.core.packages import install_into_folder
from shoal.pool.environment import LOCK as TRITON_LOCK
from shoal.pool.environment import OWN_BACKENDS

PYTHON: Final = "3.11"  # Debian 12's; the server's wheel has a stub for it, numpy 1.26 a wheel
AGENT_LOCK: Final = Path(__file__).with_name("cluster_agent.lock")
USER: Final = 65532  # no account needs to exist for it; the manifests name it too
PACKAGES_FOLDER: Final = f"usr/local/lib/python{PYTHON}/dist-packages"  # Debian's Python looks there by itself
BACKENDS_FOLDER: Final = "opt/triton/backends"
TRITON_DEBIAN_PACKAGES: Final = (
    "bash",  # Triton starts its Python stub by "bash -c"
    "libtinfo6",
    f"libpython{PYTHON}",  # the stub loads it
    "libstdc++6",
)
AGENT_DEBIAN_PACKAGES: Final = ("libstdc++6",)  # grpcio
_SERVER: Final = Path("pytriton", "tritonserver")
_STUB: Final = "triton_python_backend_stub"


@dataclass(frozen=True, slots=True)
class Image:
    """One image: the tree that lies on the base, its process, its environment, and the base's extra packages."""

    name: str
    tree: Path
    entrypoint: tuple[str, ...]
    debian_packages: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def triton_image(tree: Path) -> Image:
    """Lay out the stand-in below ``tree``: server, numpy 1.26, onnxruntime, backends; about 280 MB.

    Raises PlatformError when the locked packages cannot be installed.
    """
    packages = _install(tree, TRITON_LOCK)
    server = packages / _SERVER
    _lay_out_backends(server, tree / BACKENDS_FOLDER)
    for stubs in (server / "python_backend_stubs", server / "backends"):
        shutil.rmtree(stubs, ignore_errors=True)  # copied to where Triton may use them
    binary = server / "bin" / "tritonserver"
    binary.chmod(0o755)
    link = tree / "usr/local/bin/tritonserver"
    link.parent.mkdir(parents=True)
    link.symlink_to(f"/{binary.relative_to(tree)}")  # its libraries are found from where it really is
    return Image(
        name="shoal-pool-triton",
        tree=tree,
        entrypoint=("tritonserver",),
        debian_packages=TRITON_DEBIAN_PACKAGES,
        environment={"LD_LIBRARY_PATH": f"/{PACKAGES_FOLDER}/nvidia_pytriton.libs:/usr/lib/x86_64-linux-gnu"},
    )


def agent_image(tree: Path) -> Image:
    """Lay out the agent below ``tree``: this package and what it imports; about 110 MB.

    Raises PlatformError when the locked packages cannot be installed.
    """
    packages = _install(tree, AGENT_LOCK)
    own = Path(__file__).resolve().parents[1]
    shutil.copytree(own, packages / "shoal", ignore=shutil.ignore_patterns("__pycache__", "*.pyc", "cli"))
    return Image(
        name="shoal-pool-agent",
        tree=tree,
        entrypoint=("python3", "-m", "shoal.pool.cluster"),
        debian_packages=AGENT_DEBIAN_PACKAGES,
        environment={"PYTHONUNBUFFERED": "1"},
    )


def _install(tree: Path, lock: Path) -> Path:
    packages = tree / PACKAGES_FOLDER
    packages.mkdir(parents=True)
    install_into_folder(packages, ["--python-version", PYTHON, "--require-hashes", "-r", str(lock)])
    for tests in [*packages.glob("**/tests"), *packages.glob("**/__pycache__")]:
        shutil.rmtree(tests, ignore_errors=True)
    shutil.rmtree(
        packages / "bin", ignore_errors=True
    )  # commands of the packages; their first lines name our Python
    for leftover in (".lock", ".gitignore"):
        (packages / leftover).unlink(missing_ok=True)
    return packages


def _lay_out_backends(server: Path, backends: Path) -> None:
    shutil.copytree(OWN_BACKENDS, backends, ignore=shutil.ignore_patterns("__pycache__"))
    python = backends / "python"
    python.mkdir()
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy2(server / "backends" / "python" / name, python / name)
    shutil.copy2(server / "python_backend_stubs" / PYTHON / _STUB, python / _STUB)
    (python / _STUB).chmod(0o755)
