"""docs/handlers.md: every example is served by a real function process, and answers what the page shows."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

import shoal
from helpers_process import FunctionProcess, served
from shoal.cli import payload
from shoal.core import errors, limits
from shoal.models.fake import FakeModels
from shoal.models.fake_http import application
from shoal.runtime.settings import Settings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "handlers.md").read_text()
MODEL = "scorer"
CONFIG = """
backend: "python"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "scores" data_type: TYPE_FP32 dims: [ 4 ] } ]
"""


@dataclass
class Call:
    """A line after ``$`` and what the page shows below it."""

    line: str
    shown: str


@dataclass
class Example:
    """A handler.py and the calls shown for it."""

    section: str
    code: str
    calls: list[Call] = field(default_factory=list)


def examples() -> list[Example]:
    """Read the python blocks, each with the console block that follows it."""
    found: list[Example] = []
    section = ""
    for heading, kind, text in re.findall(r"^## ([^\n]+)$|^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        section = heading or section
        if kind == "python":
            found.append(Example(section, text))
        elif kind == "console":
            for entry in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                line, _, shown = entry.partition("\n")
                found[-1].calls.append(Call(line, shown.strip()))
    return found


EXAMPLES = examples()


def test_each_example_is_called() -> None:
    assert len(EXAMPLES) >= 9
    assert all(example.calls for example in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.section.lower().replace(" ", "-"))
async def test_an_example_answers_what_it_shows(example: Example, tmp_path: Path) -> None:
    folder = tmp_path / "models" / MODEL
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text("")
    (folder / "config.pbtxt").write_text(CONFIG)
    models = FakeModels(tmp_path / "models")
    models.load(MODEL)
    async with TestServer(application(models)) as pool:
        await asyncio.to_thread(check, example, tmp_path, f"{pool.host}:{pool.port}")


def check(example: Example, home: Path, pool: str) -> None:
    settings = {"K_SERVICE": "demo", "SHOAL_POOL": pool, "SHOAL_MODELS": json.dumps({MODEL: MODEL})}
    with served(home, example.code, **settings) as function:
        for call in example.calls:
            answer = invoke(function, call.line)
            assert matches(call.shown, answer), f"$ {call.line}\n{answer}"


def invoke(function: FunctionProcess, line: str) -> str:
    """Do what ``shoal invoke demo …`` does."""
    verb, name, target, *rest = shlex.split(line)
    assert (verb, name, target) == ("shoal", "invoke", "demo")
    path, body, headers = "/", None, {}
    while rest:
        word = rest.pop(0)
        if word == "--path":
            path = rest.pop(0)
        elif word == "-H":
            header, _, value = rest.pop(0).partition(":")
            headers[header] = value
        else:
            body, headers["content-type"] = payload.read(word)
    return function.ask(path, body, headers=headers).body.decode().strip()


def matches(shown: str, answer: str) -> bool:
    """Compare, with ``...`` for anything."""
    pattern = ".*".join(re.escape(part) for part in shown.split("..."))
    return re.fullmatch(pattern, answer, re.DOTALL) is not None


def rows(heading: str) -> list[list[str]]:
    """Give the rows of the tables below a heading, cell by cell, without those above and below a table's head."""
    text = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line != "| | |"]


def test_the_limits_are_those_in_force() -> None:
    mib = 2**20
    concurrency, timeout = limits.CONCURRENCY_DEFAULT, limits.TIMEOUT_SECONDS_DEFAULT
    assert {row[0]: row[1] for row in rows("Limits")} == {
        "a body": f"{limits.BODY_BYTES_MAX // mib} MiB (413)",
        "all headers": f"{limits.HEADER_BYTES_MAX // 1024} KiB (431)",
        "requests in a process at once": f"`concurrency`, {concurrency} ({limits.CONCURRENCY_MAX:,} "
        f"at most); {limits.QUEUE_FACTOR} times as many wait; then {errors.OverloadError.status}",
        "threads for `def` handlers": f"`threads`, {limits.THREADS_DEFAULT} ({limits.THREADS_MAX} at most)",
        "time for a request": f"`timeout`, {timeout:g} s ({limits.TIMEOUT_SECONDS_MAX:g} s at most)",
        "handlers in a function": str(limits.HANDLERS_PER_FUNCTION_MAX),
        "models in a function": str(limits.MODELS_PER_FUNCTION_MAX),
        "one event in a broker": f"{limits.EVENT_BYTES_MAX // mib} MiB",
        "events in a batch": str(limits.EVENT_BATCH_MAX),
        "a model's answer": f"{limits.POOL_RESPONSE_BYTES_MAX // mib} MiB",
        "a function's folder": f"{limits.SOURCE_FILES_MAX:,} files, {limits.SOURCE_BYTES_MAX // mib} MiB",
        "`requirements.txt`": f"{limits.REQUIREMENTS_MAX} packages",
    }
    assert limits.STOP_HOOKS_SECONDS_MAX == 10.0  # "ten seconds together"
    assert Settings().threads == limits.THREADS_DEFAULT


def test_each_error_of_a_model_call_has_the_status_it_has() -> None:
    named = [(name, row[1]) for row in rows("Models") for name in re.findall(r"`(\w+Error)`", row[0])]
    kinds = {*errors.ModelError.__subclasses__(), *errors.PoolError.__subclasses__()}
    assert {name: int(seen[:3]) for name, seen in named} == {kind.__name__: kind.status for kind in kinds}


def test_every_public_name_is_on_the_page() -> None:
    assert [name for name in shoal.__all__ if not re.search(rf"\b{name}\b", PAGE)] == []
