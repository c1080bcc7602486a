"""From a function's folder to an image, and from there into a registry.

    base          the base image's layers, as they are
    dependencies  /opt/shoal/dependencies   the data plane's packages: the same for every function
    packages      /opt/shoal/packages       the function's own, if it locks any
    runtime       /opt/shoal/runtime        shoal's data plane
    function      /app                      the function: the only layer that moves when only its code changed

Each layer is kept under the content it is made from, so that a build makes only what is new.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import shoal
from shoal.core.errors import UsageError
from shoal.core.hashing import file_digest, parts_digest
from shoal.image import dependencies
from shoal.image.base import Connect
from shoal.image.blobs import BlobStore
from shoal.image.bytecode import Version, with_bytecode
from shoal.image.compose import Base, Image, Made, Run, compose
from shoal.image.layer import FORMAT, Entry, cached_layer
from shoal.image.reference import Reference
from shoal.image.requirements import Pin, merge
from shoal.image.tree import folder_entries, function_entries
from shoal.spec.function import FunctionSpec

APP: Final = "app"
RUNTIME_AT: Final = "opt/shoal/runtime"
_DATA_PLANE: Final = ("core", "triton", "runtime")  # what a function's process imports of shoal
_PORT: Final = 8080
_PYTHON_MIN: Final[Version] = (3, 11)


@dataclass(frozen=True, slots=True)
class Step:
    """One line of progress: the step, its state, how long it took in seconds, and a detail to show."""

    name: str
    state: Literal["started", "done", "failed"]
    seconds: float = 0.0
    detail: str = ""


Report = Callable[[Step], None]


def quiet(step: Step) -> None:
    """Report nothing."""


@dataclass(slots=True)
class _Building:
    folder: Path
    spec: FunctionSpec
    base: Base
    python: Version
    store: BlobStore
    mtime: int
    report: Report
    made: list[Made] = field(default_factory=list)

    def layer(self, name: str, key: str, make: Callable[[Path], Iterator[Entry]]) -> None:
        """Make a layer or find it, and tell so."""
        with stage(name, self.report) as told:
            layer, reused = cached_layer(self.store, key, make, mtime=self.mtime)
            self.made.append(Made(name, layer, reused))
            told.append(f"{megabytes(layer.blob.size)}{', reused' if reused else ''}")


def build(
    folder: Path, spec: FunctionSpec, *, base: Base, cache: Path, report: Report = quiet, mtime: int = 0
) -> Image:
    """Make the image of the function in ``folder``; the same inputs give the same digest anywhere.

    ``cache`` keeps layers and blobs below ``images``; ``mtime`` is the time of all files (SOURCE_DATE_EPOCH).
    Raises SpecError for a lock file that breaks a rule, UsageError for a file that may not be in an image,
    ImageError when a step fails.
    """
    if base.python is None:
        raise UsageError("the base image has no Python (/usr/bin/python3.N or /usr/local/bin/python3.N)")
    if base.python < _PYTHON_MIN:
        raise UsageError(f"the base image has Python {base.python[0]}.{base.python[1]}; shoal needs 3.11 or later")
    work = _Building(folder.resolve(), spec, base, base.python, BlobStore(cache / "images"), mtime, report)
    own, runtime = dependencies.function_pins(work.folder), dependencies.runtime_pins()
    own = _own(own, runtime)
    _dependencies(work, runtime)
    if own:
        _packages(work, own, runtime)
    _runtime(work)
    _function(work)
    with stage("image", report) as told:
        image = compose(base, work.made, _run(spec, bool(own)), work.store, mtime=mtime)
        told.append(f"{image.digest[:19]}, {megabytes(image.size)}")
    return image


def push(image: Image, reference: Reference, *, connect: Connect, report: Report = quiet) -> Reference:
    """Send what the registry lacks of an image, then its manifest; give the reference with the digest.

    Raises RegistryError with the registry's own reason.
    """
    registry = connect(reference.host)
    with stage("push", report) as told:
        blobs = {blob.digest: blob for blob in (*(made.layer.blob for made in image.layers), image.config)}
        sent = [blob for blob in blobs.values() if registry.upload(reference.repository, blob, image.store)]
        registry.put_manifest(reference, image.manifest, image.store)
        told.append(f"{len(sent)} of {len(blobs)} blobs sent, {megabytes(sum(blob.size for blob in sent))}")
    return reference.at(image.digest)


@contextmanager
def stage(name: str, report: Report) -> Iterator[list[str]]:
    """Report a step's start and end; what the block puts into the list is its detail."""
    start, told = time.monotonic(), list[str]()
    report(Step(name, "started"))
    try:
        yield told
    except BaseException:
        report(Step(name, "failed", time.monotonic() - start))
        raise
    report(Step(name, "done", time.monotonic() - start, "".join(told)))


def megabytes(size: int) -> str:
    """Show a size: ``12.3 MB`` (10**6 bytes)."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


def _own(own: list[Pin], runtime: list[Pin]) -> list[Pin]:
    """Give the pins a function brings besides the data plane's; SpecError when they disagree with those."""
    known = {(pin.name, pin.version) for pin in runtime}
    merge(runtime, own)
    return [pin for pin in own if (pin.name, pin.version) not in known]


def _dependencies(work: _Building, runtime: list[Pin]) -> None:
    key = dependencies.key(runtime, work.python, work.base.architecture, work.mtime, dependencies.AT)
    work.layer(
        "dependencies",
        key,
        lambda scratch: dependencies.runtime_entries(runtime, work.python, work.base.architecture, scratch),
    )


def _packages(work: _Building, own: list[Pin], runtime: list[Pin]) -> None:
    pins = merge(runtime, own)
    key = dependencies.key(pins, work.python, work.base.architecture, work.mtime, dependencies.PACKAGES_AT)

    def make(scratch: Path) -> Iterator[Entry]:
        entries, built = dependencies.function_entries(own, runtime, work.python, work.base.architecture, scratch)
        for wheel in built:
            work.report(Step("wheel", "done", detail=f"{wheel.path.name} sha256:{wheel.sha256}"))
        return entries

    work.layer("packages", key, make)


def _runtime(work: _Building) -> None:
    package = Path(shoal.__file__).parent
    entries = list(_data_plane(package))
    work.layer("runtime", _content_key(work, entries), lambda scratch: with_bytecode(entries, work.python, scratch))


def _data_plane(package: Path) -> Iterator[Entry]:
    at = f"{RUNTIME_AT}/shoal"
    for part in _DATA_PLANE:
        yield from folder_entries(package / part, f"{at}/{part}", skip=lambda name: name == "__pycache__")
    for name in ("__init__.py", "py.typed"):
        yield Entry(f"{at}/{name}", source=package / name)


def _function(work: _Building) -> None:
    entries = function_entries(work.folder, APP)
    if f"{APP}/{work.spec.handler}" not in {entry.path for entry in entries}:
        raise UsageError(
            f"the handler {work.spec.handler!r} would not be in the image: tests and names like .x are not",
            hint="call it handler.py",
        )
    work.layer(
        "function", _content_key(work, entries), lambda scratch: with_bytecode(entries, work.python, scratch)
    )


def _content_key(work: _Building, entries: list[Entry]) -> str:
    parts = [
        (
            entry.path,
            f"{entry.kind} {entry.mode:o} {entry.target} {file_digest(entry.source) if entry.source else ''}",
        )
        for entry in entries
    ]
    fixed = [("", f"{FORMAT} {work.python} {work.mtime}")]
    return f"tree-{parts_digest([*parts, *fixed])[:32]}"


def _run(spec: FunctionSpec, packages: bool) -> Run:
    paths = [RUNTIME_AT, dependencies.AT, *([dependencies.PACKAGES_AT] if packages else [])]
    source = PurePosixPath("/", APP, spec.handler)
    return Run(
        # -P: nothing in the function's folder stands in for a module of the library or of shoal.
        entrypoint=["python3", "-P", "-m", "shoal.runtime"],
        folder=f"/{APP}",
        variables={
            "HOME": "/tmp",  # noqa: S108  # the one folder a read-only container may be given to write to
            "HOST": "0.0.0.0",  # noqa: S104  # inside the container's own network
            "PORT": str(_PORT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": ":".join(f"/{path}" for path in paths),
            "PYTHONUNBUFFERED": "1",
            "SHOAL_HANDLER": source.name,
            "SHOAL_SOURCE": str(source.parent),
        },
        labels=_labels(spec),
        port=_PORT,
    )


def _labels(spec: FunctionSpec) -> Mapping[str, str]:
    described = {"org.opencontainers.image.description": spec.description} if spec.description else {}
    return {"org.opencontainers.image.title": spec.name, "shoal.version": shoal.__version__, **described}
