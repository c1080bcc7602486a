"""hello as it runs: its own process, asked over HTTP and sent an event as a broker sends it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers_process import FunctionProcess, served
from shoal.spec.function import load

FOLDER = Path(__file__).parent
JSON = {"content-type": "application/json"}
EVENT = {
    "ce-specversion": "1.0",
    "ce-id": "1",
    "ce-source": "/functions/filetype",
    "ce-type": "com.example.file.classified",
    "ce-subject": "report.pdf",
    **JSON,
}


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FunctionProcess]:
    code = (FOLDER / "handler.py").read_text()
    with served(tmp_path_factory.mktemp("hello"), code) as process:
        yield process


@pytest.mark.parametrize(
    ("body", "text"),
    [(b'{"name": "you"}', "Hello, you!"), (b"{}", "Hello, world!"), ('{"name": "Zoë"}', "Hello, Zoë!")],
)
def test_it_greets_by_name(hello: FunctionProcess, body: bytes | str, text: str) -> None:
    answer = hello.ask(body=body.encode() if isinstance(body, str) else body, headers=JSON)
    assert (answer.status, answer.json()) == (200, {"text": text})


def test_it_greets_from_a_browsers_address_line(hello: FunctionProcess) -> None:
    assert hello.ask("/?name=you").json() == {"text": "Hello, you!"}


def test_a_name_that_is_no_text_is_the_callers_mistake(hello: FunctionProcess) -> None:
    answer = hello.ask(body=b'{"name": 5}', headers=JSON)
    assert (answer.status, answer.json()["component"]) == (422, "caller")
    assert "name" in answer.json()["detail"]


def test_a_classified_file_is_noted_and_the_broker_gets_an_empty_answer(hello: FunctionProcess) -> None:
    answer = hello.ask(body=b'{"label": "pdf", "score": 0.99}', headers=EVENT)
    assert (answer.status, answer.body) == (204, b"")
    line = hello.line(logger="hello")
    assert line["message"] == "classified subject=report.pdf label=pdf"
    assert line["request_id"] == answer.headers["x-request-id"]


def test_its_specification_is_valid() -> None:
    spec = load(FOLDER)
    assert spec.name == "hello"
    assert spec.scale.min == 0
