"""What of a function's folder goes into its image, and what is refused with one sentence."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from shoal.core import limits
from shoal.core.errors import UsageError
from shoal.image.tree import function_entries

PRIVATE_KEY = "-----BEGIN " + "RSA PRIVATE KEY-----\nMIIE\n-----END"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "f"
    (root / "sub").mkdir(parents=True)
    (root / "handler.py").write_text("x = 1\n")
    (root / "sub" / "data.json").write_text("{}")
    return root


def paths(folder: Path) -> list[str]:
    return [entry.path for entry in function_entries(folder, "app")]


def test_everything_is_placed_below_the_given_folder(folder: Path) -> None:
    assert paths(folder) == ["app/handler.py", "app/sub", "app/sub/data.json"]


@pytest.mark.parametrize(
    "name",
    [".env", ".git/config", ".venv/bin/x", "__pycache__/a.pyc", "test_handler.py", "conftest.py", "sub/a_test.py"],
)
def test_what_is_not_part_of_a_running_function_stays_out(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("SECRET=1")
    assert not any(Path(name).name in path for path in paths(folder))


def test_modes_become_two_and_setuid_is_gone(folder: Path) -> None:
    (folder / "handler.py").chmod(0o600)
    (folder / "sub" / "data.json").chmod(0o6777)
    assert [oct(entry.mode) for entry in function_entries(folder, "app")] == ["0o644", "0o755", "0o755"]


def test_a_link_inside_the_folder_stays_a_link(folder: Path) -> None:
    (folder / "sub" / "link").symlink_to("../handler.py")
    entry = next(entry for entry in function_entries(folder, "app") if entry.path == "app/sub/link")
    assert (entry.kind, entry.target) == ("link", "../handler.py")


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "../../../../etc/shadow", "sub/../../x"])
def test_a_link_out_of_the_folder_is_refused(folder: Path, target: str) -> None:
    (folder / "leak").symlink_to(target)
    with pytest.raises(UsageError, match=r"leak is a link to .* outside of") as caught:
        function_entries(folder, "app")
    assert caught.value.hint.startswith("copy the file into")


def test_a_folder_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "loop").symlink_to(".")
    assert "app/loop" in paths(folder)
    assert "app/loop/handler.py" not in paths(folder)


def test_a_pipe_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(UsageError, match=r"pipe is no file, folder or link"):
        function_entries(folder, "app")


def test_a_socket_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("s")
        with pytest.raises(UsageError, match="device, pipe or socket"):
            function_entries(folder, "app")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_refused(folder: Path) -> None:
    try:
        os.mknod(folder / "null", 0o020666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this root may not make devices")
    with pytest.raises(UsageError, match=r"null is no file"):
        function_entries(folder, "app")


def test_a_name_that_is_not_utf_8_is_refused(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("")
    with pytest.raises(UsageError, match=r"caf\\xe9\.txt' in .* is not UTF-8"):
        function_entries(folder, "app")


@pytest.mark.parametrize("name", ["id_rsa", "deploy.pem", "sub/notes.txt"])
def test_a_private_key_is_refused_whatever_its_name(folder: Path, name: str) -> None:
    (folder / name).write_text(f"hello\n{PRIVATE_KEY}\n")
    with pytest.raises(UsageError, match="holds a private key") as caught:
        function_entries(folder, "app")
    assert "MIIE" not in caught.value.message


def test_too_large_a_folder_is_refused_without_being_read(folder: Path) -> None:
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(limits.SOURCE_BYTES_MAX + 1)
    with pytest.raises(UsageError, match="code, not data"):
        function_entries(folder, "app")


def test_too_many_files_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SOURCE_FILES_MAX", 2)
    with pytest.raises(UsageError, match="more than 2 files"):
        function_entries(folder, "app")
