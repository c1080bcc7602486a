"""The stand-in's environment is complete or absent, and a machine that cannot have it says why."""

from __future__ import annotations

import platform
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shoal.core import packages
from shoal.core.errors import PlatformError, UsageError
from shoal.pool import environment


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that can run it, whatever this one is."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / f"libpython3.{sys.version_info.minor}.so.1.0").touch()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(environment, "PYTHONS", (sys.version_info[:2],))
    monkeypatch.setattr(shutil, "which", lambda name, **_: f"/bin/{name}")
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path / "lib"))


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, machine: None) -> list[Path]:
    """Stand in for the installation; gives the folders it was asked to fill."""
    asked: list[Path] = []

    def install(root: Path) -> None:
        asked.append(root)
        (root / "bin").mkdir()

    monkeypatch.setattr(environment, "_install", install)
    monkeypatch.setattr(environment, "_check_complete", lambda root: None)
    return asked


def folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_it_is_made_once(builds: list[Path], tmp_path: Path) -> None:
    said: list[str] = []
    first = environment.prepare(tmp_path / "cache", said.append)
    assert environment.prepare(tmp_path / "cache", said.append) == first
    assert (len(builds), len(said)) == (1, 1)
    assert folders(tmp_path / "cache") == [first.root]


def test_several_at_once_make_it_once(builds: list[Path], tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        made = set(threads.map(lambda _: environment.prepare(tmp_path / "cache").root, range(4)))
    assert (len(made), len(builds)) == (1, 1)


def test_what_a_killed_installation_left_is_not_trusted(builds: list[Path], tmp_path: Path) -> None:
    root = environment.prepare(tmp_path / "cache").root
    half = root.with_name(f"{root.name}.part-killed")
    root.rename(half)
    assert environment.prepare(tmp_path / "cache").root == root
    assert len(builds) == 2
    assert not half.exists()


def test_a_failed_installation_leaves_nothing(
    builds: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(root: Path) -> None:
        (root / "half").touch()
        raise PlatformError("the index is away")

    with monkeypatch.context() as patch:
        patch.setattr(environment, "_check_complete", fail)
        with pytest.raises(PlatformError, match="index"):
            environment.prepare(tmp_path / "cache")
    assert folders(tmp_path / "cache") == []
    assert environment.prepare(tmp_path / "cache").root.is_dir()


def test_another_lock_is_another_environment(
    builds: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = environment.prepare(tmp_path / "cache")
    (tmp_path / "other.lock").write_text("numpy==1.26.3\n")
    monkeypatch.setattr(environment, "LOCK", tmp_path / "other.lock")
    assert environment.prepare(tmp_path / "cache").root != first.root


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("target", "name", "value", "told"),
    [
        (sys, "platform", "darwin", "Linux x86_64 only, this is darwin"),
        (platform, "machine", lambda: "aarch64", "this is linux aarch64"),
        (environment, "PYTHONS", ((3, 99),), "needs Python 3.99"),
        (platform, "libc_ver", lambda: ("glibc", "2.31"), "this is glibc 2.31"),
        (platform, "libc_ver", lambda: ("", ""), "needs glibc"),
        (shutil, "which", lambda name, **_: None, "bash is not on PATH"),
    ],
)
def test_a_machine_that_cannot_run_it_says_why(
    target: object, name: str, value: object, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, name, value)
    assert told in environment.unavailable()
    with pytest.raises(UsageError) as caught:
        environment.prepare(tmp_path / "cache")
    assert caught.value.hint


@pytest.mark.usefixtures("machine")
def test_a_missing_libpython_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "LIBRARY_FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: None)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "none"))
    with pytest.raises(UsageError) as caught:
        environment.find_libpython()
    assert caught.value.hint.startswith(f"apt-get install libpython3.{sys.version_info.minor}")


def test_the_servers_process_finds_its_python_first() -> None:
    made = environment.TritonEnvironment(root=Path("/cache/triton-1"), libpython=Path("/lib64"))
    variables = made.variables()
    assert variables["PATH"].startswith("/cache/triton-1/bin:")
    assert variables["LD_LIBRARY_PATH"].startswith("/lib64:/cache/triton-1/lib/python3.")


def test_every_locked_package_has_its_hashes_and_numpy_is_below_2() -> None:
    entries = environment.LOCK.read_text().replace("\\\n", " ").splitlines()
    pinned = [line for line in entries if line and not line.startswith("#")]
    assert all("==" in line and "--hash=sha256:" in line for line in pinned)
    assert [line.split()[0] for line in pinned if line.startswith("numpy==1.26.")]
    assert [line.split()[0] for line in pinned if line.startswith("nvidia-pytriton==0.7.0")]


def test_a_failed_step_tells_the_end_of_what_it_printed() -> None:
    with pytest.raises(PlatformError) as caught:
        packages.run([sys.executable, "-c", "import sys; sys.exit('x' * 5000 + 'the reason')"])
    assert caught.value.message.endswith("the reason")
    assert len(caught.value.message) < 1_200
    with pytest.raises(PlatformError, match="no-such-program"):
        packages.run(["/no-such-program"])


@pytest.mark.parametrize(("uv", "expected"), [("/bin/uv", "/bin/uv pip install"), ("", "-m pip install")])
def test_packages_are_installed_with_uv_or_else_pip(
    uv: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []
    monkeypatch.setattr(packages, "find_uv", lambda: uv)
    monkeypatch.setattr(packages, "run", lambda command: commands.append(" ".join(command)))
    packages.install_into_environment(tmp_path, ["a==1"])
    assert expected in commands[0]
    assert commands[0].endswith("--only-binary :all: a==1")
    packages.make_environment(tmp_path)
    assert ("--without-pip" in commands[1]) == bool(uv)


def test_the_cache_is_where_shoal_cache_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "c"))
    assert packages.cache_folder() == tmp_path / "c"
    monkeypatch.delenv("SHOAL_CACHE")
    assert packages.cache_folder() == Path.home() / ".cache" / "shoal"
