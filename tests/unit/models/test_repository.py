"""A model version is its content: the same bytes and meaning give the same name, and it is written whole or not."""

from __future__ import annotations

import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import helpers_repository
from shoal.core.errors import ConflictError, SpecError, UsageError
from shoal.models import repository as module
from shoal.models.repository import ModelRepository

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    helpers_repository.write(tmp_path / "repo")
    return tmp_path / "repo"


def make(root: Path) -> ModelRepository:
    return ModelRepository(root, root.parent / "cache")


def test_a_version_is_named_by_model_and_hash(root: Path) -> None:
    version = make(root).version("small")
    assert re.fullmatch(r"small--[0-9a-f]{12}", version.name)
    assert version.digest.startswith(version.name.partition("--")[2])
    assert version.signature.max_batch_size == 8


def test_the_name_does_not_depend_on_place_comments_or_order(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "repo"
    lines = helpers_repository.CONFIG.splitlines()
    helpers_repository.write(other, config="# other\n" + "\n".join([*lines[2:], *lines[:2]]))
    assert make(other).version("small").name == make(root).version("small").name


def test_any_change_of_weights_or_config_gives_another_name(root: Path, tmp_path: Path) -> None:
    names = {make(root).version("small").name}
    for number, change in enumerate(
        [{"weights": b"other"}, {"config": helpers_repository.CONFIG.replace("8", "9")}]
    ):
        other = tmp_path / str(number) / "repo"
        helpers_repository.write(other, **change)  # type: ignore[arg-type]
        names.add(make(other).version("small").name)
    (root / "small" / "labels.txt").write_text("a\n")
    names.add(make(root).version("small").name)
    assert len(names) == 4


def test_resolving_a_version_reads_no_weights(root: Path) -> None:
    (root.parent / "weights").unlink()
    assert make(root).version("small").name.startswith("small--")


def test_a_version_is_written_as_triton_reads_it(root: Path, tmp_path: Path) -> None:
    (root / "small" / "labels.txt").write_text("a\nb\n")
    version = make(root).materialise("small", tmp_path / "models")
    folder = tmp_path / "models" / version.name
    assert (folder / "1" / "model.onnx").read_bytes() == helpers_repository.WEIGHTS
    assert (folder / "labels.txt").read_text() == "a\nb\n"
    assert "name:" not in (folder / "config.pbtxt").read_text().partition("input")[0]
    assert sorted(path.name for path in folder.iterdir()) == ["1", "config.pbtxt", "labels.txt"]


def test_a_version_that_is_there_is_left_alone(root: Path, tmp_path: Path) -> None:
    version = make(root).materialise("small", tmp_path / "models")
    mark = tmp_path / "models" / version.name / "mark"
    mark.touch()
    assert make(root).materialise("small", tmp_path / "models") == version
    assert mark.exists()


def test_a_file_that_changes_while_it_is_copied_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = root / "small" / "labels.txt"
    labels.write_text("before\n")
    named, place = make(root).version("small"), module.source.place

    def changing(found: Path, target: Path) -> None:
        labels.write_text("after\n")
        place(found, target)

    monkeypatch.setattr(module.source, "place", changing)
    with pytest.raises(ConflictError, match=named.name):
        make(root).materialise("small", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []
    assert make(root).materialise("small", tmp_path / "models").name != named.name


def test_a_failure_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    (root.parent / "weights").write_bytes(b"tampered with")
    with pytest.raises(SpecError, match="SHA-256"):
        make(root).materialise("small", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_an_interrupted_write_is_not_taken_for_a_version(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(root).materialise("small", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []
    version = make(root).materialise("small", tmp_path / "models")
    assert (tmp_path / "models" / version.name / "1" / "model.onnx").is_file()


def test_several_writers_at_once_make_one_version(root: Path, tmp_path: Path) -> None:
    barrier = threading.Barrier(4)

    def write(_: int) -> str:
        barrier.wait()
        return make(root).materialise("small", tmp_path / "models").name

    with ThreadPoolExecutor(4) as threads:
        names = set(threads.map(write, range(4)))
    assert len(names) == 1
    assert [path.name for path in (tmp_path / "models").iterdir()] == list(names)


def test_an_unknown_model_is_told_with_the_closest(root: Path) -> None:
    with pytest.raises(UsageError) as caught:
        make(root).version("smal")
    assert "'small'" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        make(root).version("zzz")
    assert "small" in caught.value.hint


@pytest.mark.parametrize("name", ["../repo/small", "a--b", "", "x/y"])
def test_a_name_that_is_no_models_is_refused(root: Path, name: str) -> None:
    with pytest.raises(UsageError):
        make(root).version(name)


def test_a_model_without_files_or_with_two_version_folders_is_refused(root: Path) -> None:
    (root / "small" / "2").mkdir()
    (root / "small" / "2" / "model.onnx").write_bytes(b"x")
    with pytest.raises(SpecError, match="one version folder"):
        make(root).version("small")
    (root / "small" / "2" / "model.onnx").unlink()
    (root / "small" / "source.yaml").unlink()
    with pytest.raises(SpecError, match="version folder 1/ would be empty"):
        make(root).version("small")


def test_a_file_stated_twice_is_refused(root: Path) -> None:
    (root / "small" / "1").mkdir()
    (root / "small" / "1" / "model.onnx").write_bytes(b"x")
    with pytest.raises(SpecError, match="twice"):
        make(root).version("small")


def test_the_repository_of_this_project_is_complete() -> None:
    repository = ModelRepository(ROOT / "triton-repo")
    assert "magika" in repository.names()
    for name in repository.names():
        assert repository.version(name).signature.inputs


@pytest.mark.parametrize("name", ["config.pbtxt", "source.yaml", "handler.py"])
def test_what_is_no_regular_file_is_told_so(root: Path, name: str) -> None:
    (root / "small" / name).unlink(missing_ok=True)
    os.mkfifo(root / "small" / name)
    with pytest.raises(SpecError, match=rf"{name}: is not a regular file"):
        make(root).version("small")
