"""filetype answers what the model answers when it is run directly on the same bytes."""

from __future__ import annotations

import http.client
import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from magika import Magika
from magika.types import Seekable

import helpers_files
from shoal.core.packages import cache_folder
from shoal.models import source

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1] / "triton-repo" / "magika"
FILES = helpers_files.make()
LABELS = json.loads((FOLDER / "labels.json").read_text())

EDGES = {
    "empty": b"",
    "one byte": b"x",
    "only blanks": b" \t\n\r\x0b\x0c" * 900,
    "blanks around": b"\n" * 5_000 + b"x = 1\n" + b" " * 5_000,
    "exactly one side": bytes(range(256)) * 4,
    "exactly one block": b" " + b"ab" * 2_047 + b" ",
    "a block and one": b"a" * 4_097,
    "no-break spaces": "\u00a0\u2003".encode() * 700,
}


def load_features() -> Callable[[bytes], memoryview]:
    """Import the function's own module from its file."""
    spec = importlib.util.spec_from_file_location("filetype_features", FOLDER / "features.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result: Callable[[bytes], memoryview] = module.features
    return result


features = load_features()


def reference_features(content: bytes) -> list[int]:
    """What the model's own package extracts."""
    found = Magika._extract_features_from_seekable(
        Seekable(io.BytesIO(content)),
        beg_size=1024,
        mid_size=0,
        end_size=1024,
        padding_token=256,
        block_size=4096,
        use_inputs_at_offsets=False,
    )
    return [*found.beg, *found.mid, *found.end]


@pytest.fixture(scope="session")
def run_model() -> Callable[[bytes], tuple[str, float]]:
    """The model file that triton-repo names, run directly."""
    path = source.fetch(source.load(REPOSITORY).files[0], folder=REPOSITORY, cache=cache_folder())
    session = onnxruntime.InferenceSession(str(path))

    def run(content: bytes) -> tuple[str, float]:
        given = np.array([reference_features(content)], dtype=np.int32)
        scores = session.run(["target_label"], {"bytes": given})[0][0]
        return LABELS[int(scores.argmax())], float(scores.max())

    return run


def call(address: str, content: bytes, **headers: str) -> tuple[dict[str, str], Any]:
    """POST to the function; give the answer's headers and its JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", "/", content, {"Content-Type": "application/octet-stream", **named})
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return {name.lower(): value for name, value in answer.getheaders()}, json.loads(body)
    finally:
        connection.close()


@pytest.mark.parametrize("content", [*FILES.values(), *EDGES.values()], ids=[*FILES, *EDGES])
def test_features_are_those_of_the_models_own_package(content: bytes) -> None:
    given = features(content)
    assert (given.format, given.shape) == ("i", (1, 2048))
    assert given.tolist() == [reference_features(content)]


def test_labels_are_those_of_the_models_own_package() -> None:
    import magika

    config = next(Path(magika.__file__).parent.rglob("config.min.json"))
    assert json.loads(config.read_text())["target_labels_space"] == LABELS


def test_the_files_are_of_many_kinds(run_model: Callable[[bytes], tuple[str, float]]) -> None:
    kinds = {run_model(content)[0] for content in FILES.values()}
    assert len(kinds) >= 30


@pytest.mark.triton
@pytest.mark.parametrize("name", FILES)
def test_answers_what_the_model_answers(
    name: str, filetype_address: str, run_model: Callable[[bytes], tuple[str, float]]
) -> None:
    label, score = run_model(FILES[name])
    headers, answer = call(filetype_address, FILES[name])
    assert answer["label"] == label
    assert answer["score"] == pytest.approx(score, abs=1e-5)
    assert headers["shoal-models"].startswith("magika=magika--")


@pytest.mark.triton
def test_an_upload_is_answered_with_a_classified_event(
    filetype_address: str, run_model: Callable[[bytes], tuple[str, float]]
) -> None:
    label, score = run_model(FILES["pixel.png"])
    headers, data = call(
        filetype_address,
        FILES["pixel.png"],
        ce_specversion="1.0",
        ce_id="upload-1",
        ce_source="/uploads",
        ce_type="com.example.file.uploaded",
        ce_subject="pixel.png",
    )
    assert (headers["ce-type"], headers["ce-subject"]) == ("com.example.file.classified", "pixel.png")
    assert headers["ce-id"] not in ("", "upload-1")
    assert data == {"label": label, "score": pytest.approx(score, abs=1e-5)}
