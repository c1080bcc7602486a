"""What each command prints, where, and its exit code; kept in ``golden/``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import shoal
from helpers_cli import Shell, transcript
from helpers_fake_platform import VERSION, spec_failure
from shoal.cli.root import VERBS
from shoal.core.errors import ContractError, DeployError
from shoal.platform.port import HandlerInfo, Reply, TriggerInfo

Golden = Callable[[str, str], None]

PROBLEM = {
    "type": "urn:shoal:problem:model-not-loaded", "title": "Model not loaded", "status": 503, "component": "model",
    "detail": "magika--3f2a9c1d22e0 is not on the pool", "hint": "shoal status",
}  # fmt: skip


def two_revisions(shell: Shell) -> None:
    shell.platform.models = {"magika": VERSION}
    shell.deploy("filetype")
    shell.clock.advance(7_200)
    shell.deploy("filetype", traffic=False)
    shell.clock.advance(200)


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help(shell: Shell, golden: Golden, verb: str) -> None:
    golden(f"help_{verb or 'shoal'}", transcript(shell, f"shoal {verb} --help".replace("  ", " ")))


def test_life(shell: Shell, golden: Golden) -> None:
    shell.platform.is_up = False
    commands = ["shoal status", "shoal up", "shoal up", "shoal up --port 9000", "shoal down", "shoal down"]
    golden("life", transcript(shell, *commands))


def test_life_json(shell: Shell, golden: Golden) -> None:
    shell.platform.is_up = False
    golden("life_json", transcript(shell, "shoal up --json", "shoal down --json", "shoal status --json"))


def test_deploy(shell: Shell, golden: Golden) -> None:
    shell.platform.models = {"magika": VERSION}
    shell.function_folder("filetype")
    commands = [
        "shoal deploy filetype", "shoal deploy filetype --no-traffic --tag canary", "shoal deploy filetype --json",
        "shoal deploy filetype --tag No", "shoal deploy elsewhere", "shoal deploy",
    ]  # fmt: skip
    golden("deploy", transcript(shell, *commands))


def test_deploy_and_the_split(shell: Shell, golden: Golden) -> None:
    """An unchanged folder keeps a split, a changed one replaces it and says so, another folder is named."""
    two_revisions(shell)
    shell.platform.unchanged = True
    kept = transcript(shell, "shoal traffic filetype 1=90 2=10 --tag 2=next", "shoal deploy filetype")
    kept += transcript(shell, "shoal deploy filetype --json", "shoal traffic filetype")
    shell.platform.unchanged = False
    shell.function_folder("other")
    (shell.folder / "other" / "filetype").mkdir()
    moved = ["shoal deploy filetype", "shoal deploy filetype", "shoal deploy other/filetype"]
    golden("deploy_split", kept + transcript(shell, *moved))


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("deploy_spec", spec_failure()),
        (
            "deploy_contract",
            ContractError("model 'magika': no input 'byte'", hint="the model has bytes: INT32[-1,2048]"),
        ),
        ("deploy_failed", DeployError("no instance became ready in 60 s")),
    ],
)
def test_deploy_fails(shell: Shell, golden: Golden, name: str, failure: Exception) -> None:
    shell.platform.failure = failure
    shell.function_folder("f")
    golden(name, transcript(shell, "shoal deploy f", "shoal deploy f --json"))


def test_status(shell: Shell, golden: Golden) -> None:
    empty = transcript(shell, "shoal status")
    two_revisions(shell)
    shell.deploy("hello")
    commands = ["shoal status", "shoal status filetype", "shoal status filtype", "shoal status nothing-like-it"]
    golden("status", empty + transcript(shell, "shoal traffic filetype --tag 2=next", *commands))


HANDLERS = (
    HandlerInfo("size", "http", path="/size", methods=("POST",)),
    HandlerInfo("other", "http", methods=("GET", "PUT")),
    HandlerInfo("any", "http"),
    HandlerInfo("on_upload", "event", type="com.example.uploaded", source="/files"),
    HandlerInfo("rest", "event"),
)
TRIGGERS = (TriggerInfo("default", {"type": "com.example.uploaded", "subject": ""}), TriggerInfo("other", {}))


def test_status_shows_what_a_function_takes(shell: Shell, golden: Golden) -> None:
    shell.platform.handlers, shell.platform.triggers = HANDLERS, TRIGGERS
    shell.deploy("hello")
    golden("status_handlers", transcript(shell, "shoal status hello"))


def test_status_of_parts(shell: Shell, golden: Golden) -> None:
    shell.platform.detail = "the inference server ended: no space left"
    golden("status_parts", transcript(shell, "shoal status"))


def test_status_json(shell: Shell, golden: Golden) -> None:
    two_revisions(shell)
    golden(
        "status_json",
        transcript(shell, "shoal status --json", "shoal status filetype --json", "shoal status x --json"),
    )


def test_traffic(shell: Shell, golden: Golden) -> None:
    two_revisions(shell)
    commands = [
        "shoal traffic filetype", "shoal traffic filetype 1=90 2=10", "shoal traffic filetype @latest=25% 1",
        "shoal traffic filetype filetype-00002", "shoal traffic filetype 1=50 2=50 --tag 2=canary --tag 1=stable",
        "shoal traffic filetype canary=1 stable --untag stable", "shoal traffic filetype --json",
        "shoal rollback filetype", "shoal rollback filetype --json",
        "shoal traffic filetype 1=90 2=20", "shoal traffic filetype 1=110", "shoal traffic filetype 7",
        "shoal traffic filetype 1 2", "shoal traffic filetype 1=50 1=50", "shoal traffic filetype --tag canary",
        "shoal traffic filetype --tag 1=No", "shoal traffic filetype --untag other",
    ]  # fmt: skip
    golden("traffic", transcript(shell, *commands))


def test_rollback_with_nothing_before(shell: Shell, golden: Golden) -> None:
    shell.deploy("hello")
    golden("rollback", transcript(shell, "shoal rollback hello", "shoal rollback helo"))


def test_invoke(shell: Shell, golden: Golden) -> None:
    shell.deploy("hello")
    headers = {
        "content-type": "application/json",
        "shoal-revision": "hello-00001",
        "shoal-models": f"magika={VERSION}",
    }
    shell.platform.reply = Reply(200, headers, b'{"label": "python"}\n', 0.0123)
    commands = ["shoal invoke hello", "shoal invoke hello '{}' --json", "shoal invoke hullo", "shoal invoke"]
    golden("invoke", transcript(shell, *commands))


def test_invoke_problem(shell: Shell, golden: Golden) -> None:
    shell.deploy("hello")
    headers = {"content-type": "application/problem+json", "shoal-revision": "hello-00001"}
    shell.platform.reply = Reply(503, headers, json.dumps(PROBLEM).encode() + b"\n", 1.25)
    golden("invoke_problem", transcript(shell, "shoal invoke hello", "shoal invoke hello --json"))


def refused(shell: Shell, status: int, detail: str, component: str = "caller", **more: str) -> str:
    """Invoke while the function answers with a problem; give what is said about it."""
    problem = {"detail": detail, "component": component, "request_id": "0af7651916cd43dd8448eb211c80319c"}
    headers = {"content-type": "application/problem+json", "shoal-revision": "hello-00001", **more}
    shell.platform.reply = Reply(status, headers, json.dumps(problem).encode(), 0.02)
    return shell.run("invoke", "hello").stderr.partition("\n")[2]


def test_hints_after_an_answer(shell: Shell, golden: Golden) -> None:
    shell.platform.handlers = HANDLERS[:2]
    shell.deploy("hello")
    said = refused(shell, 404, "no handler takes the path '/x'")
    said += refused(shell, 405, "/size takes POST, not GET", allow="POST")
    said += refused(shell, 415, "the body must be application/json")
    said += refused(shell, 422, "field guest.name is a number: it must be a string")
    said += refused(shell, 422, "field name is missing")
    said += refused(shell, 422, "the body is empty: it must be JSON (Guest)")
    said += refused(shell, 500, "the handler raised an exception", "handler")
    said += refused(shell, 503, "model magika--3f2a9c1d22e0 is not loaded", "model")
    golden("invoke_hints", said)


@pytest.mark.parametrize("status", [404, 405, 415])
def test_a_function_of_events_alone_is_sent_events(shell: Shell, status: int) -> None:
    shell.platform.handlers = HANDLERS[3:]
    shell.deploy("hello")
    said = refused(shell, status, "the function takes CloudEvents", allow="POST")
    assert "hint: hello takes events: shoal event com.example.uploaded DATA" in said


def test_a_hint_needs_no_platform(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise ZeroDivisionError

    shell.deploy("hello")
    monkeypatch.setattr(shell.platform, "function", broken)
    assert "hint: shoal status hello" in refused(shell, 404, "no handler takes the path '/x'")


def test_invoke_wrong_usage(shell: Shell, golden: Golden) -> None:
    shell.deploy("hello")
    commands = [
        "shoal invoke hello @nothing.bin", "shoal invoke hello -H nocolon", "shoal invoke hello --path 'a b'",
        "shoal invoke hello --timeout 0", "shoal invoke hello --jsn",
    ]  # fmt: skip
    golden("invoke_usage", transcript(shell, *commands))


def test_event(shell: Shell, golden: Golden) -> None:
    commands = [
        """shoal event com.example.asked '{"name": "Ada"}' --subject s --ext tenant=a --broker other""",
        "shoal event com.example.asked --id 7 --json", "shoal event '' ", "shoal event a --ext Bad=x",
        "shoal event a --ext novalue", "shoal event a '{' --content-type application/json",
    ]  # fmt: skip
    golden("event", transcript(shell, *commands))


def test_event_says_where_it_goes(shell: Shell, golden: Golden) -> None:
    for name, filters in {
        "all": {}, "one": {"type": "com.example.a"}, "two": {"type": "com.example.a", "tenant": ""},
        "else": {"type": "com.example.b"},
    }.items():  # fmt: skip
        shell.platform.triggers = (TriggerInfo("default", filters),)
        shell.deploy(name)
    commands = [
        "shoal event com.example.a", "shoal event com.example.a --ext tenant=x", "shoal event com.example.c --json",
        "shoal event com.example.a --broker other",
    ]  # fmt: skip
    golden("event_goes", transcript(shell, *commands))


def test_logs(shell: Shell, golden: Golden) -> None:
    shell.deploy("hello")
    request = {
        "time": "2026-01-31T12:00:00.123Z", "level": "error", "message": "request", "trace_id": "t",
        "request_id": "r", "service": "hello", "revision": "hello-00001", "method": "POST", "path": "/",
        "status": 500, "duration_ms": 3.21, "queue_ms": 0.01, "component": "handler",
        "code": "handler", "detail": "KeyError: 'x'",
    }  # fmt: skip
    said = {"time": "2026-01-31T12:00:01.5Z", "level": "info", "message": "hi", "service": "hello", "user": "Ada"}
    shell.platform.lines = [json.dumps(request), json.dumps(said), "plain text", '{"no": "message"}', "[1]"]
    commands = [
        "shoal logs hello",
        "shoal logs hello --json -n 2",
        "shoal logs hello --revision 9",
        "shoal logs hello -n 0",
    ]
    golden("logs", transcript(shell, *commands))


def test_logs_of_one_request(shell: Shell, golden: Golden) -> None:
    """Tracebacks lose the frames of the framework, and one request can be picked by the id that is shown."""
    shell.deploy("hello")
    inside = f"{Path(shoal.__file__).parent}/runtime/exchange.py"
    trace = (
        "Traceback (most recent call last):\n"
        f'  File "{inside}", line 1, in serve\n    await self._run()\n    ^^^^^^^^^\n'
        '  File "/usr/lib/python3.11/concurrent/futures/thread.py", line 58, in run\n    self.fn()\n'
        '  File "/home/ada/hello/handler.py", line 7, in hello\n    return names["x"]\n           ~~~~~^^^^^\n'
        "KeyError: 'x'\n"
    )
    common = {"time": "2026-01-31T12:00:00.123Z", "level": "error", "service": "hello"}
    failed = {**common, "message": "handler hello failed", "request_id": "0af7651916cd43dd", "traceback": trace}
    other = {**common, "message": "handler hello failed", "request_id": "b7ad6b7169203331"}
    shell.platform.lines = [json.dumps(failed), json.dumps(other), "0af7651916cd43dd in plain text"]
    commands = ["shoal logs hello", "shoal logs hello --request 0af76519", "shoal logs hello --request 0af --json"]
    golden("logs_request", transcript(shell, *commands).replace(str(Path(shoal.__file__).parent), "SHOAL"))
    assert [call[-1] for call in shell.platform.calls] == [100, 100_000, 100_000]


def test_delete(shell: Shell, golden: Golden) -> None:
    two_revisions(shell)
    shell.deploy("hello")
    commands = ["shoal delete filetype", "shoal delete filetype --yes", "shoal delete filetype --yes"]
    golden("delete", transcript(shell, *commands, "shoal delete hello --yes --json"))


def test_new(shell: Shell, golden: Golden) -> None:
    commands = [
        "shoal new hello", "shoal new hello", "shoal new functions/asks --template model --json", "shoal new Hello",
        "shoal new x --template htp", "shoal new .",
    ]  # fmt: skip
    text = transcript(shell, *commands)
    golden("new", text.replace(repr(shell.folder.name), "'FOLDER'"))


def test_unknown_verb(shell: Shell, golden: Golden) -> None:
    golden("unknown", transcript(shell, "shoal deplyo x", "shoal xyzzy", "shoal --nonsense", "shoal"))
