"""What a command imports is what its user waits for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "pydantic",
    "aiohttp",
    "rich",
    "kubernetes",
    "tritonclient",
    "grpc",
    "numpy",
    "yaml",
    "watchfiles",
    "uvicorn",
}
SCRIPT = """
import json, sys
from shoal.cli.main import run
sys.argv = ["shoal", *json.loads(sys.argv[1])]
try:
    run()
except SystemExit:
    pass
print()
print(json.dumps(sorted(sys.modules)))
"""


def imported(*args: str) -> set[str]:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(args)], capture_output=True, text=True, timeout=60, check=True
    )
    return set(json.loads(ended.stdout.splitlines()[-1]))


@pytest.mark.parametrize("args", [("--help",), ("--version",), ("version",), ("nonsense",), ("new", "--help")])
def test_what_needs_no_platform_imports_none_of_it(args: tuple[str, ...]) -> None:
    assert not {name.partition(".")[0] for name in imported(*args)} & HEAVY


def test_the_package_lists_its_public_names_before_they_are_imported() -> None:
    code = "import sys, shoal; print(*dir(shoal)); assert 'shoal.runtime.model' not in sys.modules"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert {"Model", "CloudEvent", "http", "event", "start", "stop", "__version__"} <= set(ended.stdout.split())


def test_help_imports_no_verb() -> None:
    assert not {name for name in imported("--help") if name.startswith("shoal.cli.verbs")}


def test_a_verb_imports_no_other_verb() -> None:
    verbs = {name for name in imported("status", "--help") if name.startswith("shoal.cli.verbs.")}
    assert verbs == {"shoal.cli.verbs.status"}


@pytest.mark.parametrize("verb", ["status", "traffic", "rollback", "logs", "delete", "invoke", "event", "deploy"])
def test_help_of_a_verb_is_quick_too(verb: str) -> None:
    assert not {name.partition(".")[0] for name in imported(verb, "--help")} & HEAVY
