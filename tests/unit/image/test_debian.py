"""A base from Debian packages: made of small packages built here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from helpers_image import layer_file, layer_names
from shoal.core.errors import UsageError
from shoal.image import debian
from shoal.image.base import read, resolve
from shoal.image.blobs import BlobStore

pytestmark = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not on PATH")
FILES = {
    "usr/bin/python3.11": "elf",
    "usr/lib/python3.11/string.py": "x = 1\n",
    "usr/lib/python3.11/lib-dynload/_curses.cpython-311-x86_64-linux-gnu.so": "elf",
    "lib/x86_64-linux-gnu/libc.so.6": "elf",
    "usr/share/doc/tiny/copyright": "free",
    "usr/share/doc/tiny/changelog.gz": "long",
    "usr/share/man/man1/x.1": "how",
    "usr/share/ca-certificates/mozilla/b.crt": "B",
    "usr/share/ca-certificates/mozilla/a.crt": "A\n",
    "usr/bin/su": "setuid",
}


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    tree, folder = tmp_path / "tree", tmp_path / "packages"
    for name, text in FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    (tree / "usr/bin/su").chmod(0o4755)
    (tree / "DEBIAN").mkdir()
    control = "Package: tiny\nVersion: 1\nArchitecture: amd64\nMaintainer: t <t@t>\nDescription: t\n"
    (tree / "DEBIAN" / "control").write_text(control)
    folder.mkdir()
    subprocess.run(["dpkg-deb", "-b", str(tree), str(folder / "tiny_1_amd64.deb")], check=True, capture_output=True)
    return folder


@pytest.fixture(autouse=True)
def python_3_11(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base's Python is Debian's; the machine's own may be another."""
    monkeypatch.setattr("shoal.image.bytecode.interpreter", lambda python: __import__("sys").executable)


def test_a_base_has_what_runs_and_leaves_out_what_nobody_reads(packages: Path, store: BlobStore) -> None:
    base = read(debian.from_packages(packages, store), store)
    (layer,) = base.layers
    members = layer_names(store, layer.blob.digest)
    assert base.python == (3, 11)
    assert {"usr/bin/python3", "usr/lib/x86_64-linux-gnu/libc.so.6", "usr/share/doc/tiny/copyright"} <= set(members)
    assert not [name for name in members if "changelog" in name or "/man" in name or "_curses" in name]
    assert (members["lib"].linkname, members["usr/bin/python3"].linkname) == ("usr/lib", "python3.11")
    assert "usr/lib/python3.11/__pycache__/string.cpython-311.pyc" in members
    assert oct(members["tmp"].mode) == "0o1777"
    assert oct(members["usr/bin/su"].mode) == "0o755"
    assert layer_file(store, layer.blob.digest, "etc/ssl/certs/ca-certificates.crt") == b"A\nB\n"
    assert b":65532:65532:" in layer_file(store, layer.blob.digest, "etc/passwd")
    assert b"Package: tiny" in layer_file(store, layer.blob.digest, "var/lib/dpkg/status.d/tiny")


def test_the_same_packages_give_the_same_base(packages: Path, tmp_path: Path) -> None:
    first, second = BlobStore(tmp_path / "1"), BlobStore(tmp_path / "2")
    assert debian.from_packages(packages, first) == debian.from_packages(packages, second)


def test_a_folder_of_packages_is_a_base_by_its_path(packages: Path, store: BlobStore) -> None:
    found = resolve(str(packages), store, connect=lambda host: pytest.fail("no registry is asked"))
    assert found.python == (3, 11)


@pytest.mark.parametrize("text", ["./absent", "/absent/folder"])
def test_a_folder_that_is_not_there_is_said(store: BlobStore, text: str) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        resolve(text, store, connect=lambda host: pytest.fail("no registry is asked"))


def test_an_empty_folder_is_no_base(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no \.deb file is in"):
        debian.from_packages(tmp_path, store)


def test_the_closure_follows_first_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        "a": "Package: a\nDepends: b (>= 1), c | d, debconf (>= 0.5) | debconf-2.0\nPre-Depends: e:any\n",
        "b": "Package: b\nDepends: a\n",
        "c": "Package: c\nSuggests: z\n",
        "e": "Package: e\n",
    }
    monkeypatch.setattr(debian, "_apt", lambda command, folder: "\n".join(known[name] for name in command[3:]))
    assert debian.closure(["a"]) == {"a", "b", "c", "e"}
