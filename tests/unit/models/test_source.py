"""Weights are what their digest says, wherever they came from."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

import helpers_repository
from shoal.core.errors import PlatformError, SpecError
from shoal.models import source

ROOT = Path(__file__).resolve().parents[3]
MAGIKA = source.load(ROOT / "triton-repo" / "magika").files[0]


def parse(folder: Path, text: str) -> source.Source:
    (folder / "source.yaml").write_text(text)
    return source.load(folder)


def local(folder: Path, content: bytes = helpers_repository.WEIGHTS) -> source.SourceFile:
    (folder / "weights").write_bytes(content)
    return source.SourceFile(dest="1/m", path="weights", sha256=helpers_repository.SHA256)


def test_a_source_names_files_with_their_digests() -> None:
    assert (MAGIKA.dest, MAGIKA.package) == ("1/model.onnx", "magika")
    assert len(MAGIKA.sha256) == 64


def test_a_model_without_a_source_has_its_files_in_the_folder(tmp_path: Path) -> None:
    assert source.load(tmp_path).files == ()


FILE = "files:\n  - dest: 1/m\n    path: p\n    sha256: " + "ab" * 32 + "\n"


@pytest.mark.parametrize(
    ("text", "where", "told"),
    [
        (FILE.replace("dest: 1/m", "dest: ../m"), "source.yaml:2:", "not below 1/"),
        (FILE.replace("dest: 1/m", "dest: /1/m"), "source.yaml:2:", "not below 1/"),
        (FILE.replace("dest: 1/m", "dest: 2/m"), "source.yaml:2:", "not below 1/"),
        (FILE.replace("dest: 1/m", "dest: ./1"), "source.yaml:2:", "not below 1/"),
        (FILE.replace("abab", "xxxx"), "source.yaml:4:", "pattern"),
        (FILE.replace("path: p", "pth: p"), "source.yaml:3:", "path"),
        (FILE + "    package: magika\n", "source.yaml:2:", "package and version go together"),
        (FILE + "    version: '1'\n", "source.yaml:2:", "package and version go together"),
        (FILE + "    package: 'a b'\n    version: '1'\n", "source.yaml:5:", "pattern"),
        ("files: 3\n", "source.yaml:1:", "files"),
        ("[]", "source.yaml:1:", "mapping"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, where: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(tmp_path, text)
    assert where in caught.value.message
    assert told in caught.value.message


def test_a_local_file_is_taken_as_it_is_when_its_digest_fits(tmp_path: Path) -> None:
    found = source.fetch(local(tmp_path), folder=tmp_path, cache=tmp_path / "cache")
    assert found == tmp_path / "weights"


def test_other_bytes_are_refused_with_both_digests(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        source.fetch(local(tmp_path, b"other"), folder=tmp_path, cache=tmp_path)
    assert helpers_repository.SHA256 in caught.value.message


def test_a_local_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    one = source.SourceFile(dest="1/m", path="nowhere", sha256="0" * 64)
    with pytest.raises(SpecError, match="nowhere is not there"):
        source.fetch(one, folder=tmp_path, cache=tmp_path)


def test_a_cached_file_is_used_only_when_its_bytes_still_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_installed", lambda one: None)
    monkeypatch.setattr(source, "install_into_folder", _put)
    one = MAGIKA.model_copy(update={"sha256": helpers_repository.SHA256})
    kept = source.fetch(one, folder=tmp_path, cache=tmp_path / "cache")
    assert kept.read_bytes() == helpers_repository.WEIGHTS
    kept.write_bytes(b"rotten")
    assert source.fetch(one, folder=tmp_path, cache=tmp_path / "cache").read_bytes() == helpers_repository.WEIGHTS
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["files"]


def test_a_package_without_the_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_installed", lambda one: None)
    monkeypatch.setattr(source, "install_into_folder", lambda folder, arguments: None)
    with pytest.raises(PlatformError, match="has no file"):
        source.fetch(MAGIKA, folder=tmp_path, cache=tmp_path)


def test_the_exact_version_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def put(folder: Path, arguments: list[str]) -> None:
        asked.extend(arguments)
        _put(folder, arguments)

    monkeypatch.setattr(source, "_installed", lambda one: None)
    monkeypatch.setattr(source, "install_into_folder", put)
    source.fetch(MAGIKA.model_copy(update={"sha256": helpers_repository.SHA256}), folder=tmp_path, cache=tmp_path)
    assert asked == [f"magika=={MAGIKA.version}"]


def test_an_installed_package_of_exactly_that_version_serves(tmp_path: Path) -> None:
    assert importlib.metadata.version("magika") == MAGIKA.version
    found = source.fetch(MAGIKA, folder=tmp_path, cache=tmp_path)
    assert found.name == "model.onnx"
    assert list(tmp_path.iterdir()) == []
    assert source._installed(MAGIKA.model_copy(update={"version": "0.0.1"})) is None
    assert source._installed(MAGIKA.model_copy(update={"package": "no-such-package-here"})) is None


def _put(folder: Path, arguments: list[str]) -> None:
    """Stand in for the package index: lay the file out where the wheel would."""
    path = folder / MAGIKA.path
    path.parent.mkdir(parents=True)
    path.write_bytes(helpers_repository.WEIGHTS)
