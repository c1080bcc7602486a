"""Third-party packages: installed once, whole or not at all, and never in place of the runtime's own."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest

from helpers_wheels import offline, write_wheel
from shoal.core import packages as installing
from shoal.core.errors import DeployError, SpecError
from shoal.platform.local import packages
from shoal.spec import requirements

ROOT = Path(__file__).parents[3]
NAME = "shoal_test_words"


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a function's folder, and the one package that can be installed."""
    write_wheel(tmp_path / "wheels", NAME, "1.2", {f"{NAME}.py": "WORDS = 'from the package'\n"})
    for variable, value in offline(tmp_path / "wheels").items():
        monkeypatch.setenv(variable, value)
    folder = tmp_path / "function"
    folder.mkdir()
    return folder


def pin(folder: Path, *lines: str) -> None:
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in lines))


def install(folder: Path) -> str:
    return packages.install(packages.wanted(folder), folder.parent / "cache")


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder.parent / "cache").iterdir() if path.is_dir())


def test_the_packages_named_as_own_are_what_the_runtime_depends_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    depends = [line.partition(">")[0] for line in project["dependencies"]]
    assert sorted([project["name"], *depends]) == list(packages.OWN)


def test_no_file_and_an_empty_one_ask_for_nothing(function: Path) -> None:
    assert not packages.asked(function)
    pin(function)
    assert not packages.asked(function)
    pin(function, "# nothing yet")
    assert packages.asked(function)
    assert install(function) == ""


@pytest.mark.parametrize("uv", [True, False], ids=["uv", "pip"])
def test_pins_are_installed_once_with_their_bytecode(
    function: Path, monkeypatch: pytest.MonkeyPatch, uv: bool
) -> None:
    if not uv:
        monkeypatch.setattr(installing, "find_uv", lambda: "")
    pin(function, f"{NAME}==1.2")
    folder = Path(install(function))
    assert (folder / f"{NAME}.py").is_file()
    assert list((folder / "__pycache__").glob(f"{NAME}.*.pyc"))
    monkeypatch.setattr(packages, "install_into_folder", None)
    assert Path(install(function)) == folder
    assert left(function) == [folder.name]


def test_tracebacks_name_the_folder_the_package_is_in(function: Path) -> None:
    pin(function, f"{NAME}==1.2")
    folder = install(function)
    code = f"import {NAME}; print({NAME}.__spec__.loader.get_code({NAME!r}).co_filename)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": folder}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{folder}/{NAME}.py"


def test_other_pins_are_another_folder(function: Path) -> None:
    pin(function, f"{NAME}==1.2")
    first = install(function)
    pin(function, f"{NAME}==1.2", "# one more line")
    assert install(function) != first


def test_processes_at_the_same_time_share_one_installation(function: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(function, f"{NAME}==1.2")
    calls: list[Path] = []
    real = packages.install_into_folder
    monkeypatch.setattr(packages, "install_into_folder", lambda *args: (calls.append(args[0]), real(*args)))
    with ThreadPoolExecutor(4) as threads:
        assert len({*threads.map(lambda _: install(function), range(4))}) == 1
    assert len(calls) == 1


def test_a_package_that_is_not_there_is_one_reason_and_leaves_nothing(function: Path) -> None:
    pin(function, f"{NAME}==9.9")
    with pytest.raises(DeployError, match=r"requirements\.txt: an installation failed") as caught:
        install(function)
    assert "shoal-test-words==9.9" in caught.value.message
    assert left(function) == []


def test_bytes_with_another_hash_are_refused(function: Path) -> None:
    pin(function, f"{NAME}==1.2 --hash=sha256:{'0' * 64}")
    with pytest.raises(DeployError, match=r"(?i)hash"):
        install(function)
    assert left(function) == []


def test_the_right_hash_is_taken(function: Path, tmp_path: Path) -> None:
    digest = write_wheel(tmp_path / "wheels", NAME, "1.2", {f"{NAME}.py": "WORDS = 'from the package'\n"})
    pin(function, f"{NAME}==1.2 --hash={digest}")
    assert Path(install(function), f"{NAME}.py").is_file()


def test_what_a_killed_installation_left_is_not_trusted_and_is_removed(function: Path) -> None:
    pin(function, f"{NAME}==1.2")
    root = Path(install(function))
    abandoned = root.with_name(f"{root.name}.part-dead")
    root.rename(abandoned)
    (abandoned / f"{NAME}.py").unlink()
    assert (Path(install(function)) / f"{NAME}.py").is_file()
    assert left(function) == [root.name]


def test_the_runtimes_own_package_in_another_version_is_refused(function: Path) -> None:
    pin(function, f"{NAME}==1.2", "Uvicorn==0.1.0")
    with pytest.raises(SpecError) as caught:
        packages.wanted(function)
    assert caught.value.where == f"{function}/requirements.txt:2:1"
    assert f"runs here as {version('uvicorn')}" in caught.value.message
    assert "leave it out" in caught.value.hint


def test_the_runtimes_own_package_in_its_version_is_left_out(function: Path) -> None:
    pin(function, f"{NAME}==1.2", f"prometheus_client=={version('prometheus-client')}")
    wanted = packages.wanted(function)
    assert [str(one) for one in wanted.pins] == ["shoal-test-words==1.2"]
    assert wanted.digest == requirements.load(function).digest


@pytest.mark.parametrize("file", ["uvicorn/__init__.py", "shoal.py"])
def test_a_package_that_brings_a_module_of_the_runtimes_is_refused(
    function: Path, tmp_path: Path, file: str
) -> None:
    write_wheel(tmp_path / "wheels", "innocent", "1.0", {file: ""})
    pin(function, "innocent==1.0")
    with pytest.raises(SpecError, match="the runtime's own"):
        install(function)
    assert left(function) == []
