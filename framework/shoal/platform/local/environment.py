"""What a function's process gets as its environment: the runtime contract and the specification's own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from shoal.platform.local.records import Revision

_PASSED_ON: Final = ("PATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "TZ")  # of the node's own, where set
_PATH_DEFAULT: Final = "/usr/local/bin:/usr/bin:/bin"


def runtime_command() -> list[str]:
    """Give the command of a function process: this interpreter, without the working folder shadowing any module."""
    return [sys.executable, "-P", "-m", "shoal.runtime"]


def describe_command(folder: Path, handler: str) -> list[str]:
    """Give the command that imports a handler and prints what it declares."""
    return [sys.executable, "-P", "-m", "shoal.runtime.describe", str(folder), handler]


def base(scratch: Path) -> dict[str, str]:
    """Give what any process with a user's code in it gets; ``scratch`` is its HOME and its TMPDIR."""
    passed = {name: os.environ[name] for name in _PASSED_ON if os.environ.get(name)}
    fixed = {
        "HOME": str(scratch),
        "LANG": "C.UTF-8",
        "TMPDIR": str(scratch),
        "PYTHONUNBUFFERED": "1",  # a killed process leaves its last words
        "PYTHONDONTWRITEBYTECODE": "1",  # the code of a revision stays as it was hashed
    }
    return {"PATH": _PATH_DEFAULT, **passed, **fixed}


def with_packages(folder: str) -> dict[str, str]:
    """Give the variable that names a function's third-party packages; nothing without any."""
    return {"SHOAL_PACKAGES": folder} if folder else {}


def of_instance(
    revision: Revision, source: Path, scratch: Path, listen: tuple[int, int], pool: Sequence[str]
) -> Mapping[str, str]:
    """Give an instance's environment; ``listen`` is (inherited descriptor, port), ``pool`` Triton's addresses."""
    spec = revision.spec
    descriptor, port = listen
    contract = {
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "SHOAL_LISTEN_FD": str(descriptor),
        "K_SERVICE": revision.function,
        "K_CONFIGURATION": revision.function,
        "K_REVISION": revision.name,
        "SHOAL_SOURCE": str((source / spec.handler).parent),
        "SHOAL_HANDLER": Path(spec.handler).name,
        "SHOAL_MODELS": json.dumps(dict(revision.models)),
        "SHOAL_POOL": ",".join(pool),
        "SHOAL_CONCURRENCY": str(spec.concurrency),
        "SHOAL_TIMEOUT_SECONDS": f"{spec.timeout_s:g}",
        "SHOAL_THREADS": str(spec.threads),
        **with_packages(spec.packages),
    }
    return {**base(scratch), **spec.env, **contract}
