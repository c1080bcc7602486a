"""Which files of a folder count, and what no folder may have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shoal.core.errors import SpecError
from shoal.core.folders import check_regular, code_files, model_files


def test_files_are_listed_without_caches_and_dead_links(tmp_path: Path) -> None:
    (tmp_path / "part" / "__pycache__").mkdir(parents=True)
    for name in ("handler.py", "part/one.py", "part/__pycache__/one.pyc", "zwei-ü\n.txt"):
        (tmp_path / name).touch()
    (tmp_path / "again.py").symlink_to("handler.py")
    (tmp_path / ".#handler.py").symlink_to("me@here.17")
    (tmp_path / "loop").symlink_to("loop")
    names = [path.as_posix() for path in code_files(tmp_path)]
    assert names == ["again.py", "handler.py", "part/one.py", "zwei-ü\n.txt"]


@pytest.mark.parametrize("listing", [code_files, model_files])
def test_a_name_that_is_no_text_is_told_apart(tmp_path: Path, listing: type) -> None:
    (tmp_path / os.fsdecode(b"a\nb\xff")).touch()
    with pytest.raises(SpecError, match=r"'a.nb.udcff' is not UTF-8") as raised:
        listing(tmp_path)
    raised.value.message.encode()


@pytest.mark.parametrize("listing", [code_files, model_files])
def test_a_pipe_is_no_file(tmp_path: Path, listing: type) -> None:
    os.mkfifo(tmp_path / "function.yaml")
    with pytest.raises(SpecError, match=r"function\.yaml: is not a regular file"):
        listing(tmp_path)
    with pytest.raises(SpecError, match="not a regular file"):
        check_regular(tmp_path / "function.yaml")
    check_regular(tmp_path / "absent")


@pytest.mark.parametrize("target", ["../secret", "/etc", "../absent", "in/../../secret"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "secret").touch()
    (tmp_path / "f" / "in").mkdir(parents=True)
    (tmp_path / "f" / "notes.txt").symlink_to(target)
    with pytest.raises(SpecError, match=rf"link 'notes\.txt' leads out of the folder, to '{target}'"):
        code_files(tmp_path / "f")
