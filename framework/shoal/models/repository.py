"""The model repository in version control, and the exact versions made from it.

    triton-repo/<model>/config.pbtxt    as Triton wants it
    triton-repo/<model>/source.yaml     where the weights are
    triton-repo/<model>/1/…             files that are small enough to lie here

A version is named by content, ``<model>--<hash12>``: over the configuration's meaning and every file's bytes. The
same name means the same answers: nothing is ever loaded over, and a traffic split moves handler and model as one.
"""

from __future__ import annotations

import difflib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shoal.core.errors import ConflictError, SpecError, UsageError
from shoal.core.folders import check_regular, model_files
from shoal.core.hashing import file_digest, parts_digest
from shoal.core.limits import MODEL_FILES_MAX
from shoal.core.names import check_model, model_version
from shoal.core.packages import cache_folder
from shoal.models import config, source
from shoal.triton.tensors import Signature

_OWN_FILES: Final = frozenset({config.FILE_NAME, source.FILE_NAME})


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One immutable version of a model: its exact name, the whole digest behind it, and its interface."""

    model: str
    name: str
    digest: str
    signature: Signature


@dataclass(frozen=True, slots=True)
class _Content:
    config: Any
    local: dict[str, Path]  # place in the version -> file in the repository
    fetched: tuple[source.SourceFile, ...]

    @property
    def places(self) -> list[str]:
        """Where the version's files are, but for its configuration."""
        return [*self.local, *(one.dest for one in self.fetched)]


class ModelRepository:
    """A folder of models; ``cache`` is where fetched files are kept, SHOAL_CACHE without one."""

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        self._root = root
        self._cache = cache or cache_folder()

    def names(self) -> list[str]:
        """List the models there are, sorted."""
        return sorted(path.parent.name for path in self._root.glob(f"*/{config.FILE_NAME}"))

    def version(self, model: str) -> ModelVersion:
        """Resolve a model to its exact version, without fetching anything.

        Raises UsageError for a model that is not there, SpecError for one whose files break a rule.
        """
        return _version(model, self._content(model))

    def fetch(self, model: str) -> ModelVersion:
        """Bring a model's files into the cache, verified, and give the version; raises as ``materialise`` does."""
        folder = self._root / model
        for one in self._content(model).fetched:
            source.fetch(one, folder=folder, cache=self._cache)
        return self.version(model)

    def materialise(self, model: str, into: Path) -> ModelVersion:
        """Write a version as Triton reads it, ``into/<model>--<hash12>/``, whole or not at all; give the version.

        One that is there already is left as it is. Raises as ``version`` and ``source.fetch`` do, and ConflictError
        when a file changed meanwhile.
        """
        content = self._content(model)
        version = _version(model, content)
        target = into / version.name
        if not target.is_dir():
            into.mkdir(parents=True, exist_ok=True)
            self._write(version, content, target)
        return version

    def _write(self, version: ModelVersion, content: _Content, target: Path) -> None:
        folder = self._root / version.model
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            for place, path in content.local.items():
                source.place(path, part / place)
            for one in content.fetched:
                source.place(source.fetch(one, folder=folder, cache=self._cache), part / one.dest)
            if _digest(content, {place: part / place for place in content.places}) != version.digest:
                raise ConflictError(f"a file in {folder} changed while {version.name} was made", hint="try again")
            (part / config.FILE_NAME).write_text(config.canonical(content.config))
            part.chmod(0o755)
            _publish(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _content(self, model: str) -> _Content:
        folder = self._folder(model)
        parsed = config.load(folder / config.FILE_NAME)
        config.check(parsed, str(folder / config.FILE_NAME))
        local = {
            place.as_posix(): folder / place for place in model_files(folder) if place.as_posix() not in _OWN_FILES
        }
        fetched = source.load(folder).files
        content = _Content(parsed, local, fetched)
        _check_files(folder, content.places)
        return content

    def _folder(self, model: str) -> Path:
        check_model(model)
        check_regular(self._root / model / config.FILE_NAME)
        if (self._root / model / config.FILE_NAME).is_file():
            return self._root / model
        known = self.names()
        close = difflib.get_close_matches(model, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"models there: {', '.join(known) or 'none'}"
        raise UsageError(f"model {model!r} is not in {self._root}", hint=hint)


def _version(model: str, content: _Content) -> ModelVersion:
    digest = _digest(content, content.local)
    return ModelVersion(model, model_version(model, digest), digest, config.signature(content.config))


def _digest(content: _Content, files: Mapping[str, Path]) -> str:
    """Digest a version: the bytes of these files, and what is stated of the others."""
    parts = {f"file:{one.dest}": one.sha256 for one in content.fetched}
    parts |= {f"file:{place}": file_digest(path) for place, path in files.items()}
    return parts_digest([("config", config.digest(content.config)), *parts.items()])


def _check_files(folder: Path, places: list[str]) -> None:
    twice = next(_repeated(places), "")
    if twice:
        raise SpecError(f"{twice} is stated twice", where=str(folder))
    if len(places) > MODEL_FILES_MAX:
        raise SpecError(f"{len(places)} files: {MODEL_FILES_MAX} at most", where=str(folder))
    if not any(place.startswith("1/") for place in places):
        raise SpecError(
            "no file of the model is stated: the version folder 1/ would be empty",
            where=str(folder),
            hint=f"name the weights in {folder / source.FILE_NAME}",
        )
    other = next(
        (place for place in places if place.partition("/")[0].isdecimal() and not place.startswith("1/")), ""
    )
    if other:
        raise SpecError(f"{other}: a model has one version folder, 1; versions are names", where=str(folder))


def _repeated(places: list[str]) -> Iterator[str]:
    seen: set[str] = set()
    for place in places:
        if place in seen:
            yield place
        seen.add(place)


def _publish(part: Path, target: Path) -> None:
    """Give a complete folder its name; somebody else's, made meanwhile, has the same content and stays."""
    try:
        part.rename(target)
    except OSError:
        if not target.is_dir():
            raise
