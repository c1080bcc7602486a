"""From a folder to an image: the same digest anywhere, the layers that move, nothing of this machine in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers_image import (
    PYTHON,
    layer_contents,
    layer_file,
    layer_names,
    make_sdist,
    make_wheel,
    tiny_base,
    tiny_image,
)
from shoal.core import limits
from shoal.core.errors import ImageError, SpecError, UsageError
from shoal.image import dependencies
from shoal.image.base import from_layout
from shoal.image.blobs import BlobStore
from shoal.image.build import Step, build
from shoal.image.bytecode import compiled_path
from shoal.image.compose import Base, Image, source_date
from shoal.image.layout import save
from shoal.spec.function import load

HANDLER = "from shoal import http\n\n@http\nasync def f() -> str:\n    return 'one'\n"
Build = Callable[..., Image]


@pytest.fixture(autouse=True)
def own_lock(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data plane with one dependency, made here."""
    lock = tmp_path / "runtime.lock"
    lock.write_text(make_wheel(wheels, "plane", {"plane/__init__.py": "X = 1\n"}))
    monkeypatch.setattr(dependencies, "RUNTIME_LOCK", lock)
    return lock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "some-function"
    root.mkdir()
    (root / "handler.py").write_text(HANDLER)
    return root


@pytest.fixture
def make(tmp_path: Path) -> Build:
    def built(folder: Path, *, cache: str = "cache", mtime: int = 0, steps: list[Step] | None = None) -> Image:
        place = tmp_path / cache
        base = tiny_base(BlobStore(place / "images"))
        report = steps.append if steps is not None else lambda step: None
        return build(folder, load(folder), base=base, cache=place, mtime=mtime, report=report)

    return built


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    os.umask(before)
    yield os.umask
    os.umask(before)


def layers(image: Image) -> dict[str, str]:
    return {made.name: made.layer.blob.digest for made in image.layers}


def config(image: Image) -> dict:
    return json.loads(image.store.read(image.config.digest, limits.MANIFEST_BYTES_MAX))


def test_another_path_umask_time_zone_and_day_give_the_same_digest(
    folder: Path, make: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: Callable[[int], int]
) -> None:
    umask(0o022)
    first = make(folder)
    umask(0o077)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    time.tzset()
    other = tmp_path / "quite" / "elsewhere" / folder.name
    other.mkdir(parents=True)
    (other / "handler.py").write_text(HANDLER)
    os.utime(other / "handler.py", (1, 1))
    second = make(other, cache="another-cache")
    monkeypatch.undo()
    time.tzset()
    assert first.digest == second.digest
    assert layers(first) == layers(second)


def test_only_the_function_layer_moves_when_only_code_changed(folder: Path, make: Build) -> None:
    first = make(folder)
    (folder / "handler.py").write_text(HANDLER.replace("one", "two"))
    steps: list[Step] = []
    second = make(folder, steps=steps)
    assert {name for name in layers(first) if layers(first)[name] != layers(second)[name]} == {"function"}
    assert {made.name: made.reused for made in second.layers} == {
        "base": True, "dependencies": True, "runtime": True, "function": False,
    }  # fmt: skip
    assert [step.name for step in steps if step.state == "done"] == ["dependencies", "runtime", "function", "image"]


def test_the_source_date_is_every_files_time(folder: Path, make: Build) -> None:
    image = make(folder, mtime=1_700_000_000)
    members = layer_names(image.store, layers(image)["function"]).values()
    assert {member.mtime for member in members} == {1_700_000_000}
    assert config(image)["created"] == "2023-11-14T22:13:20Z"
    assert image.digest != make(folder).digest


@pytest.mark.parametrize("text", ["-1", "soon", "1.5", "9" * 12])
def test_a_source_date_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH is"):
        source_date({"SOURCE_DATE_EPOCH": text})


def test_it_runs_as_nobody_with_everything_where_the_runtime_looks(folder: Path, make: Build) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "main.py").write_text(HANDLER)
    (folder / "function.yaml").write_text("shoal: 1\nhandler: sub/main.py\ndescription: Says one.\n")
    found = config(make(folder))["config"]
    assert (found["User"], found["WorkingDir"]) == ("65532:65532", "/app")
    assert found["Entrypoint"] == ["python3", "-P", "-m", "shoal.runtime"]
    variables = dict(item.split("=", 1) for item in found["Env"])
    assert variables["SHOAL_SOURCE"] == "/app/sub"
    assert variables["SHOAL_HANDLER"] == "main.py"
    assert variables["PORT"] == "8080"
    assert variables["PYTHONPATH"] == "/opt/shoal/runtime:/opt/shoal/dependencies"
    assert found["Labels"]["org.opencontainers.image.title"] == "some-function"
    assert found["Labels"]["org.opencontainers.image.description"] == "Says one."


def test_bytecode_is_in_every_layer_and_names_the_images_paths(folder: Path, make: Build, tmp_path: Path) -> None:
    image = make(folder)
    for name, source in {
        "function": "app/handler.py",
        "runtime": "opt/shoal/runtime/shoal/runtime/server.py",
        "dependencies": "opt/shoal/dependencies/plane/__init__.py",
    }.items():
        data = layer_file(image.store, layers(image)[name], compiled_path(source, PYTHON))
        assert data[4:8] == b"\x01\0\0\0"  # unchecked hash
        assert f"/{source}".encode() in data
        assert str(tmp_path).encode() not in data


def test_nothing_of_this_machine_is_in_a_layer(folder: Path, make: Build, tmp_path: Path) -> None:
    (folder / ".env").write_text("TOKEN=hunter2-secret")
    image = make(folder)
    wanted = [str(tmp_path), sys.prefix, os.path.expanduser("~") + "/", "hunter2-secret"]
    for digest in layers(image).values():
        for member, data in layer_contents(image.store, digest):
            assert [text for text in wanted if text.encode() in data + member.name.encode()] == []
    assert not any(text in json.dumps(config(image)) for text in wanted)


def test_what_an_installer_leaves_behind_is_not_in_the_image(folder: Path, make: Build) -> None:
    image = make(folder)
    names = set(layer_names(image.store, layers(image)["dependencies"]))
    assert "opt/shoal/dependencies/plane-1.0.dist-info/METADATA" in names
    assert not {name for name in names if name.endswith(("RECORD", "INSTALLER", "direct_url.json", "/bin"))}


def test_a_functions_own_packages_are_a_layer_without_the_data_planes(
    folder: Path, make: Build, wheels: Path
) -> None:
    (folder / "requirements.lock").write_text(make_wheel(wheels, "extra", {"extra.py": "Y = 2\n"}))
    image = make(folder)
    names = set(layer_names(image.store, layers(image)["packages"]))
    assert "opt/shoal/packages/extra.py" in names
    assert not any("plane" in name for name in names)
    assert (
        "PYTHONPATH=/opt/shoal/runtime:/opt/shoal/dependencies:/opt/shoal/packages"
        in config(image)["config"]["Env"]
    )


def test_a_dependency_that_the_lock_lacks_is_found_at_the_build(folder: Path, make: Build, wheels: Path) -> None:
    make_wheel(wheels, "needed", {"needed.py": ""})
    (folder / "requirements.txt").write_text(make_wheel(wheels, "extra", {"extra.py": ""}, requires=["needed"]))
    with pytest.raises(ImageError, match="needed"):
        make(folder)


def test_another_file_than_the_hash_names_is_refused(folder: Path, make: Build, wheels: Path) -> None:
    line = make_wheel(wheels, "extra", {"extra.py": "good"})
    make_wheel(wheels, "extra", {"extra.py": "evil"})
    (folder / "requirements.txt").write_text(line)
    with pytest.raises(ImageError, match=r"(?i)hash"):
        make(folder)


def test_another_version_than_the_data_planes_is_refused(folder: Path, make: Build) -> None:
    (folder / "requirements.txt").write_text(f"plane==2.0 --hash=sha256:{'a' * 64}\n")
    with pytest.raises(SpecError, match=r"plane 2\.0 is pinned here and plane 1\.0 in"):
        make(folder)


def test_a_package_without_a_wheel_is_refused_with_the_way_to_build_it(
    folder: Path, make: Build, wheels: Path
) -> None:
    (folder / "requirements.lock").write_text(make_sdist(wheels, "native"))
    with pytest.raises(ImageError, match="native") as caught:
        make(folder)
    assert "--no-binary NAME" in caught.value.hint


def test_a_package_is_built_in_its_own_stage_and_its_wheel_is_told(folder: Path, make: Build, wheels: Path) -> None:
    (folder / "requirements.lock").write_text("--no-binary native\n" + make_sdist(wheels, "native"))
    steps: list[Step] = []
    image = make(folder, steps=steps)
    found = layer_file(image.store, layers(image)["packages"], "opt/shoal/packages/native.py")
    assert found == b"ORIGIN = 'built here'\n"
    (told,) = [step.detail for step in steps if step.name == "wheel"]
    assert told.startswith("native-1.0-py3-none-any.whl sha256:")
    names = " ".join(layer_names(image.store, layers(image)["packages"]))
    assert "backend" not in names
    assert make(folder, cache="another").digest == image.digest


def test_a_build_that_fails_is_told_with_its_last_words(folder: Path, make: Build, wheels: Path) -> None:
    line = make_sdist(wheels, "native", backend="raise SystemExit('no compiler: cc')\n")
    (folder / "requirements.lock").write_text("--no-binary native\n" + line)
    with pytest.raises(
        ImageError, match=r"(?s)building native==1\.0 .*requirements\.lock:2.* failed:.*no compiler: cc"
    ):
        make(folder)


@pytest.mark.parametrize("handler", ["test_it.py", ".hidden.py"])
def test_a_handler_that_would_be_left_out_is_refused(folder: Path, make: Build, handler: str) -> None:
    (folder / handler).write_text(HANDLER)
    (folder / "function.yaml").write_text(f"shoal: 1\nhandler: {handler}\n")
    with pytest.raises(UsageError, match="would not be in the image"):
        make(folder)


@pytest.mark.parametrize(
    ("python", "words"), [(None, "has no Python"), ((3, 9), "has Python 3.9; shoal needs 3.11")]
)
def test_a_base_that_cannot_run_a_function_is_refused(
    folder: Path, tmp_path: Path, python: tuple[int, int] | None, words: str
) -> None:
    base = Base(digest="", python=python)
    with pytest.raises(UsageError, match=words):
        build(folder, load(folder), base=base, cache=tmp_path / "cache")


def test_a_base_with_a_python_this_machine_lacks_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"runs Python 3\.99, and this machine has no python3\.99"):
        build(folder, load(folder), base=Base(digest="", python=(3, 99)), cache=tmp_path / "cache")


def test_a_source_that_does_not_compile_is_left_to_python(folder: Path, make: Build) -> None:
    (folder / "broken.py").write_text("def f(:\n")
    image = make(folder)
    names = set(layer_names(image.store, layers(image)["function"]))
    assert "app/broken.py" in names
    assert compiled_path("app/broken.py", PYTHON) not in names


def test_an_image_is_saved_as_a_layout_and_is_a_base_again(folder: Path, make: Build, tmp_path: Path) -> None:
    image = make(folder)
    save(image, tmp_path / "layout", name="some-function")
    save(image, tmp_path / "layout", name="some-function")
    there = BlobStore(tmp_path / "there")
    base = from_layout(tmp_path / "layout", there)
    assert base.digest == image.digest
    assert all(there.has(layer.blob) for layer in base.layers)


def test_a_layout_with_a_damaged_blob_is_refused(tmp_path: Path, store: BlobStore) -> None:
    image = tiny_image(store)
    save(image, tmp_path / "layout")
    blob = BlobStore(tmp_path / "layout").path(image.layers[0].layer.blob.digest)
    blob.write_bytes(b"x" * blob.stat().st_size)
    with pytest.raises(ImageError, match="has other bytes than its digest names"):
        from_layout(tmp_path / "layout", BlobStore(tmp_path / "there"))


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shoal.image", str(tmp_path / "absent"), "--cache", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
