"""Introspection: what a handler declares and does with its models, from a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers_process import environment, write_handler
from shoal.runtime.scan import scan

FILETYPE = """
    import numpy as np
    from dataclasses import dataclass
    from shoal import Model, event, http

    magika = Model("magika", inputs={"bytes": "INT32[-1,2048]"}, outputs={"target_label": "FP32[-1,214]"})
    print("this is not part of the answer")

    @dataclass
    class Upload:
        url: str

    @http
    async def filetype(body: bytes) -> dict:
        out = await magika(bytes=np.zeros((1, 2048), "int32"))
        return {"label": out["target_label"].tolist()}

    @event(type="com.example.file.uploaded", source="/files")
    async def on_upload(data: Upload):
        return None
"""


def describe(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the command; its standard output must be one JSON line."""
    command = [sys.executable, "-m", "shoal.runtime.describe", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, env=environment(folder), timeout=120)
    (line,) = done.stdout.splitlines()
    return done.returncode, json.loads(line)


def test_a_handler_is_described(tmp_path: Path) -> None:
    code, about = describe(write_handler(tmp_path, FILETYPE))
    assert code == 0
    assert about == {
        "handlers": [
            {"name": "filetype", "kind": "http"},
            {"name": "on_upload", "kind": "event", "type": "com.example.file.uploaded", "source": "/files"},
        ],
        "models": [
            {
                "name": "magika",
                "inputs": {"bytes": "INT32[-1,2048]"},
                "outputs": {"target_label": "FP32[-1,214]"},
                "called_inputs": ["bytes"],
                "used_outputs": ["target_label"],
                "complete": True,
            }
        ],
        "modules": ["numpy"],
    }


def test_a_plain_handler_imports_nothing_heavy(tmp_path: Path) -> None:
    code, about = describe(write_handler(tmp_path, "from shoal import http\n@http\ndef a(): ...\n"))
    assert (code, about["modules"], about["models"]) == (0, [], [])


def test_another_file_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("from shoal import http\n@http\ndef other(): ...\n")
    assert describe(tmp_path, "main.py")[1]["handlers"] == [{"name": "other", "kind": "http"}]


def test_paths_and_methods_are_described(tmp_path: Path) -> None:
    code = "from shoal import http\n@http(path='/size', methods=['PUT', 'GET'])\ndef size(): ...\n"
    _, about = describe(write_handler(tmp_path, code))
    assert about["handlers"] == [{"name": "size", "kind": "http", "path": "/size", "methods": ["GET", "PUT"]}]


@pytest.mark.parametrize(
    ("text", "kind", "message", "line"),
    [
        ("import json\njson.loads('{')", "JSONDecodeError", "Expecting property name", 2),
        ("def f(:\n    pass", "SyntaxError", "invalid syntax", 1),
        ("raise SystemExit('no licence')", "SystemExit", "no licence", 1),
        ("from shoal import Model\nm = Model('m', inputs={'x': 'FP99[1]'})", "UsageError", "FP99", 2),
    ],
)
def test_a_handler_that_cannot_be_imported_is_a_problem_with_its_line(
    tmp_path: Path, text: str, kind: str, message: str, line: int
) -> None:
    code, problem = describe(write_handler(tmp_path, text))
    assert code == 1
    assert problem["exception"]["type"] == kind
    assert message in problem["exception"]["message"]
    assert problem["exception"]["where"] == f"{tmp_path}/handler.py:{line}"
    assert problem["exception"]["where"] in problem["detail"]
    ours = kind == "UsageError"  # a rule of ours: told without the name of its class
    assert problem["detail"].startswith("tensor " if ours else "the handler cannot be imported: ")
    assert problem["type"] == f"urn:shoal:problem:{'usage' if ours else 'handler'}"


def test_a_missing_package_comes_with_where_to_pin_it(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    for module, package in {
        "shoal_test_absent": "shoal_test_absent",
        "shoal_test_absent.part": "shoal_test_absent",
    }.items():
        _, problem = describe(write_handler(tmp_path, f"import {module}"))
        assert problem["hint"] == f"add {package}==VERSION to {file}"
    _, problem = describe(write_handler(tmp_path, "raise ModuleNotFoundError('PIL', name='PIL')"))
    assert problem["hint"] == f"add pillow==VERSION to {file}"
    (tmp_path / "requirements.lock").write_text("")
    _, problem = describe(write_handler(tmp_path, "import shoal_test_absent"))
    assert problem["hint"].endswith("requirements.lock")
    _, problem = describe(write_handler(tmp_path, "import json.nothing"))
    assert problem["hint"] == ""


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    code, problem = describe(tmp_path)
    assert code == 1
    assert "handler.py" in problem["detail"]


def test_threads_that_the_import_starts_do_not_hold_it_up(tmp_path: Path) -> None:
    text = "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\n"
    assert describe(write_handler(tmp_path, text))[0] == 0


def uses(tmp_path: Path, code: str, **siblings: str) -> dict[str, tuple[list[str], list[str], bool]]:
    write_handler(tmp_path, code)
    for name, text in siblings.items():
        (tmp_path / f"{name}.py").write_text(text)
    found = scan(tmp_path)
    return {
        name: (sorted(use.called_inputs), sorted(use.used_outputs), use.complete) for name, use in found.items()
    }


HEAD = "from shoal import Model\nm = Model('real-name')\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("out = await m(a=1, b=2)\n    return out['x'], out['y']", (["a", "b"], ["x", "y"], True)),
        ("return (await m(a=1))['x']", (["a"], ["x"], True)),
        ("out = m.sync(a=1)\n    return out.get('x')", (["a"], ["x"], True)),
        ("if (out := await m(a=1)):\n        return out['x']", (["a"], ["x"], True)),
        ("out: dict = await m(a=1)\n    return out['x']", (["a"], ["x"], True)),
        ("await m(**tensors)", ([], [], False)),
        ("return await m(a=1)", (["a"], [], False)),
        ("out = await m(a=1)\n    return out[key]", (["a"], [], False)),
        ("out = await m(a=1)\n    use(out)\n    return out['x']", (["a"], ["x"], False)),
        ("out = await m(a=1)\n    return list(out.values())", (["a"], [], False)),
        ("first, second = await gather(m(a=1), m(b=1))", (["a", "b"], [], False)),
        ("pass", ([], [], True)),
    ],
)
def test_calls_and_results_are_read_from_the_code(
    tmp_path: Path, body: str, expected: tuple[list[str], list[str], bool]
) -> None:
    assert uses(tmp_path, f"{HEAD}async def f(key, tensors):\n    {body}\n") == {"real-name": expected}


def test_a_result_belongs_to_the_function_that_made_the_call(tmp_path: Path) -> None:
    code = (
        HEAD + "async def f():\n    out = await m(a=1)\n    return out['x']\ndef g(out):\n    return out['other']\n"
    )
    assert uses(tmp_path, code) == {"real-name": (["a"], ["x"], True)}


def test_a_model_imported_from_a_sibling_is_followed(tmp_path: Path) -> None:
    code = "from models import m as net\nasync def f():\n    return (await net(a=1))['x']\n"
    assert uses(tmp_path, code, models=HEAD) == {"real-name": (["a"], ["x"], True)}


def test_a_sibling_that_does_not_parse_is_passed_over(tmp_path: Path) -> None:
    assert uses(tmp_path, HEAD, notes="def (:") == {"real-name": ([], [], True)}
