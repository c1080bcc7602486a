"""The copy of a folder is of one moment, or there is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shoal.core.errors import UsageError
from shoal.platform.local import snapshot


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "f" / "part").mkdir(parents=True)
    (tmp_path / "f" / "handler.py").write_text("1")
    (tmp_path / "f" / "part" / "two.py").write_text("2")
    return tmp_path / "f"


def test_a_copy_is_whole_and_read_only(folder: Path, tmp_path: Path) -> None:
    snapshot.take(folder, tmp_path / "into" / "f")
    assert (tmp_path / "into" / "f" / "part" / "two.py").read_text() == "2"
    assert (tmp_path / "into" / "f" / "handler.py").stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("change", ["grows", "goes", "comes"])
def test_a_folder_that_changes_once_is_copied_as_it_is_then(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    _interfere(folder, monkeypatch, change, times=1)
    snapshot.take(folder, tmp_path / "into")
    names = {path.name: path.read_text() for path in (tmp_path / "into").rglob("*.py")}
    assert names == {path.name: path.read_text() for path in folder.rglob("*.py")}


def test_a_folder_that_keeps_changing_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interfere(folder, monkeypatch, "grows", times=100)
    with pytest.raises(UsageError, match=r"keeps changing while it is copied, the last time 'part/two\.py'"):
        snapshot.take(folder, tmp_path / "into")


def test_a_file_that_cannot_be_read_is_a_mistake_of_its_owner(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, _: Path) -> None:
        raise PermissionError(13, "Permission denied", str(source))

    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(UsageError, match=r"handler\.py cannot be copied: Permission denied"):
        snapshot.take(folder, tmp_path / "into")


def _interfere(folder: Path, monkeypatch: pytest.MonkeyPatch, change: str, times: int) -> None:
    """Change the folder after the first file of a copy, this often."""
    copy, left = shutil.copyfile, [times]

    def copying(source: Path, target: Path) -> None:
        copy(source, target)
        if source.name == "handler.py" and left[0]:
            left[0] -= 1
            two = folder / "part" / "two.py"
            match change:
                case "grows":
                    two.write_text(two.read_text() + "+")
                case "goes":
                    two.unlink()
                case "comes":
                    (folder / "three.py").write_text("3")

    monkeypatch.setattr(shutil, "copyfile", copying)
