"""config.pbtxt: read with its place, held to the pool's rules, and named by what it means."""

from __future__ import annotations

from pathlib import Path

import pytest

import helpers_repository
from shoal.core.errors import SpecError
from shoal.core.limits import MODEL_CONFIG_BYTES_MAX
from shoal.models import config
from shoal.triton.tensors import TensorSpec


def write(folder: Path, text: str) -> Path:
    path = folder / "config.pbtxt"
    path.write_text(text)
    return path


def test_the_signature_has_the_batch_dimension_and_the_protocols_datatypes(tmp_path: Path) -> None:
    signature = config.signature(config.load(write(tmp_path, helpers_repository.CONFIG)))
    assert signature.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert signature.outputs == (TensorSpec("y", "BYTES", (-1, -1)),)
    assert signature.max_batch_size == 8


def test_a_model_that_does_not_batch_has_its_dims_alone(tmp_path: Path) -> None:
    text = helpers_repository.CONFIG.replace("max_batch_size: 8", "")
    assert config.signature(config.load(write(tmp_path, text))).inputs[0].shape == (4,)


def test_an_optional_input_is_marked(tmp_path: Path) -> None:
    text = helpers_repository.CONFIG.replace("dims: [ 4 ]", "dims: [ 4 ] optional: true")
    assert config.signature(config.load(write(tmp_path, text))).inputs[0].optional


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("backend 'x'", "config.pbtxt:1:9"),
        ('backend: "x"\nmax_batch: 3\n', "config.pbtxt:2:1"),
        ('backend: "x"\ninput [ { data_type: TYPE_FP31 } ]', "config.pbtxt:2:"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, where: str) -> None:
    with pytest.raises(SpecError) as caught:
        config.load(write(tmp_path, text))
    assert where in caught.value.message


def test_a_missing_unreadable_or_endless_file_is_a_spec_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        config.load(tmp_path / "config.pbtxt")
    with pytest.raises(SpecError, match="bytes"):
        config.load(write(tmp_path, " " * (MODEL_CONFIG_BYTES_MAX + 1)))
    (tmp_path / "config.pbtxt").write_bytes(b"\xff")
    with pytest.raises(SpecError, match="UTF-8"):
        config.load(tmp_path / "config.pbtxt")


@pytest.mark.parametrize(
    ("cut", "told"),
    [
        ('backend: "onnxruntime"', "no backend"),
        ('input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]', "no input"),
        ('output [ { name: "y" data_type: TYPE_STRING dims: [ -1 ] } ]', "no output"),
        ("default_timeout_microseconds: 1000000", "default_timeout_microseconds above 0"),
        ("allow_timeout_override: true", "allow_timeout_override: true"),
        ("max_queue_size: 8", "max_queue_size above 0"),
    ],
)
def test_a_config_must_state_what_the_pool_needs(tmp_path: Path, cut: str, told: str) -> None:
    parsed = config.load(write(tmp_path, helpers_repository.CONFIG.replace(cut, "")))
    with pytest.raises(SpecError) as caught:
        config.check(parsed, "m/config.pbtxt")
    assert told in caught.value.message
    assert caught.value.hint
    assert caught.value.where == "m/config.pbtxt"


def test_an_undefined_datatype_is_refused(tmp_path: Path) -> None:
    parsed = config.load(write(tmp_path, 'input [ { name: "x" dims: [ 1 ] } ]'))
    with pytest.raises(SpecError, match="TYPE_INVALID"):
        config.signature(parsed)


def test_the_digest_is_of_the_meaning(tmp_path: Path) -> None:
    first = config.load(write(tmp_path, helpers_repository.CONFIG))
    lines = [line for line in helpers_repository.CONFIG.splitlines() if "max_batch_size" not in line]
    other = "# a comment\nname: 'small'\n" + "\n".join(lines) + "\nmax_batch_size:   8\n"
    assert config.digest(first) == config.digest(config.load(write(tmp_path, other)))
    changed = helpers_repository.CONFIG.replace("max_batch_size: 8", "max_batch_size: 9")
    assert config.digest(first) != config.digest(config.load(write(tmp_path, changed)))


def test_the_canonical_text_reads_back_as_the_same_without_a_name(tmp_path: Path) -> None:
    first = config.load(write(tmp_path, "name: 'n'\n" + helpers_repository.CONFIG))
    again = config.load(write(tmp_path, config.canonical(first)))
    assert config.digest(again) == config.digest(first)
    assert again.name == ""
