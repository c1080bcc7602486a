"""The platform's folder: only its owner gets in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shoal.core.errors import UsageError
from shoal.platform.local.client import LocalPlatform
from shoal.platform.local.layout import home_of


def test_a_home_that_was_open_is_closed(tmp_path: Path) -> None:
    root = tmp_path / "home"
    (root / "run").mkdir(parents=True)
    root.chmod(0o777)
    (root / "run").chmod(0o777)
    home_of(root).make()
    assert [folder.stat().st_mode & 0o777 for folder in (root, root / "run")] == [0o700, 0o700]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_home_of_somebody_else_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "home"
    root.mkdir()
    os.chown(root, 65534, 65534)
    with pytest.raises(UsageError, match="belongs to user 65534, not to you"):
        home_of(root).make()


def test_a_path_too_long_for_its_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too long a path"):
        home_of(tmp_path / ("x" * 120)).make()


def test_a_home_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match=f"{tmp_path} cannot be used: .*cannot be written to"):
        home_of(tmp_path).make()


def test_a_home_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    platform = LocalPlatform(tmp_path / "file")
    assert not platform.running()
    assert not platform.down()
    with pytest.raises(UsageError, match="cannot be used"):
        platform.up()
