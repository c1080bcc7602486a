"""What a correct function.yaml becomes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from shoal.core.errors import SpecError
from shoal.spec.function import Delivery, FunctionSpec, Trigger, load, parse

WHOLE = """\
shoal: 1
name: filetype
description: Which kind of file is this?
handler: handler.py
models: {magika: magika-small}
timeout: 90s
concurrency: 4
threads: 2
scale: {min: 1, max: 3, window: 1.5m}
env: {KEY: value, EMPTY: ""}
triggers:
  - broker: default
    filter: {type: com.example.file.uploaded}
    delivery: {retry: 2, backoffPolicy: linear, backoffDelay: 200ms, timeout: 1h}
"""


def read(text: str) -> FunctionSpec:
    return parse(text.encode(), file="function.yaml", name="folder")


def folder_with(tmp_path: Path, **files: str) -> Path:
    folder = tmp_path / "greeter"
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_reads_every_field() -> None:
    spec = read(WHOLE.replace("timeout: 1h", "timeout: 8m"))
    assert (spec.name, spec.handler, spec.description) == ("filetype", "handler.py", "Which kind of file is this?")
    assert spec.models == {"magika": "magika-small"}
    assert (spec.timeout_s, spec.concurrency, spec.threads) == (90.0, 4, 2)
    assert (spec.scale.min, spec.scale.max, spec.scale.window_s) == (1, 3, 90.0)
    assert spec.env == {"KEY": "value", "EMPTY": ""}
    delivery = Delivery(retry=2, backoff_policy="linear", backoff_delay_s=0.2, timeout_s=480.0)
    assert spec.triggers == (Trigger(filter={"type": "com.example.file.uploaded"}, delivery=delivery),)


def test_defaults_come_from_one_place() -> None:
    spec = read("shoal: 1\n")
    assert spec.name == "folder"
    assert (spec.handler, spec.models, spec.triggers, spec.env) == ("handler.py", None, None, {})
    assert (spec.timeout_s, spec.concurrency, spec.threads, spec.scale.max) == (60.0, 16, 8, 5)


def test_no_triggers_differs_from_the_default_triggers() -> None:
    assert read("triggers: []").triggers == ()
    assert read("name: a").triggers is None


def test_an_attempt_may_take_as_long_as_the_function() -> None:
    spec = read("timeout: 5m\ntriggers: [{}, {delivery: {retry: 1}}, {delivery: {timeout: 7s}}]")
    assert spec.triggers is not None
    assert [trigger.delivery.timeout_s for trigger in spec.triggers] == [300.0, 300.0, 7.0]
    assert spec.trigger_for("x.y") == Trigger(filter={"type": "x.y"}, delivery=Delivery(timeout_s=300.0))
    assert spec.trigger_for("").filter == {}


def test_an_alias_stands_for_its_value() -> None:
    text = "triggers:\n  - &one {filter: {type: a}}\n  - *one\n"
    spec = read(text)
    assert spec.triggers is not None
    assert spec.triggers[0] == spec.triggers[1]


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert parse("\ufeffname: a".encode(), file="f", name="b").name == "a"


def test_cannot_be_changed() -> None:
    spec = read(WHOLE.replace("timeout: 1h", "timeout: 8m"))
    with pytest.raises(ValidationError, match="frozen"):
        spec.name = "other"


def test_survives_a_round_trip_through_data_and_json() -> None:
    spec = read(WHOLE.replace("timeout: 1h", "timeout: 8m"))
    assert FunctionSpec.model_validate(spec.model_dump()) == spec
    assert FunctionSpec.model_validate_json(spec.model_dump_json()) == spec


def test_load_takes_the_name_from_the_file(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, function__yaml="name: other", handler__py="")
    assert load(folder).name == "other"


def test_a_handler_alone_is_a_function(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, handler__py="")
    assert load(folder) == FunctionSpec(name="greeter")


def test_load_follows_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder_with(tmp_path, handler__py=""))
    assert load(Path(".")).name == "greeter"


def test_load_needs_the_handler_it_names(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, function__yaml="handler: main.py", serve__py="")
    with pytest.raises(SpecError, match=r"the handler 'main.py' is not a file") as caught:
        load(folder)
    assert caught.value.hint == f"handler: serve.py   (in {folder}/function.yaml)"
