"""What the platform is asked for, and bytes that must come through unchanged."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from helpers_cli import Shell
from helpers_fake_platform import spec_failure
from shoal.platform.port import Reply, Target

BYTES = bytes(range(256))


@pytest.fixture(autouse=True)
def hello(shell: Shell) -> None:
    shell.deploy("hello")


def test_invoke_sends_what_was_typed(shell: Shell) -> None:
    result = shell.run(
        "invoke",
        "hello",
        '{"a": 1}',
        "--tag",
        "canary",
        "--path",
        "x?y=1",
        "-H",
        "X-Me: you: and me",
        "--timeout",
        "7",
    )
    assert result.exit_code == 0
    (call,) = shell.platform.calls
    assert call == (
        "invoke",
        "hello",
        {
            "tag": "canary",
            "method": "POST",
            "path": "/x?y=1",
            "headers": {"content-type": "application/json", "x-me": "you: and me"},
            "body": b'{"a": 1}',
            "timeout_s": 7.0,
        },
    )


@pytest.mark.parametrize(
    ("args", "method"), [((), "GET"), (("",), "POST"), (("-X", "put"), "PUT"), (("x", "-X", "DELETE"), "DELETE")]
)
def test_invoke_chooses_the_method(shell: Shell, args: tuple[str, ...], method: str) -> None:
    shell.run("invoke", "hello", *args)
    assert shell.platform.calls[0][2]["method"] == method


def test_invoke_with_another_media_type(shell: Shell) -> None:
    shell.run("invoke", "hello", "{}", "-H", "Content-Type: text/x")
    assert shell.platform.calls[0][2]["headers"] == {"content-type": "text/x"}


def test_stdin_and_answer_are_bytes(shell: Shell) -> None:
    shell.platform.reply = Reply(200, {}, BYTES, 0.1)
    result = shell.run("invoke", "hello", "-", input=BYTES)
    assert shell.platform.calls[0][2]["body"] == BYTES
    assert shell.platform.calls[0][2]["headers"] == {"content-type": "application/octet-stream"}
    assert result.stdout_bytes == BYTES


def test_bytes_in_json_are_base64(shell: Shell) -> None:
    shell.platform.reply = Reply(200, {"content-type": "application/json"}, BYTES, 0.1)
    found = json.loads(shell.run("invoke", "hello", "--json").stdout)
    assert base64.b64decode(found["body_base64"]) == BYTES


def test_json_that_is_none_is_text(shell: Shell) -> None:
    shell.platform.reply = Reply(200, {"content-type": "application/json"}, b"{", 0.1)
    assert json.loads(shell.run("invoke", "hello", "--json").stdout)["body"] == "{"


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"null"])
def test_a_problem_that_is_none_does_no_harm(shell: Shell, body: bytes) -> None:
    shell.platform.reply = Reply(500, {"content-type": "application/problem+json"}, body, 0.1)
    result = shell.run("invoke", "hello")
    assert (result.exit_code, result.stdout_bytes) == (1, body)


def test_a_functions_own_404_is_an_answer(shell: Shell) -> None:
    shell.platform.reply = Reply(404, {"shoal-revision": "hello-00001"}, b"nothing here", 0.1)
    result = shell.run("invoke", "hello")
    assert (result.exit_code, result.stdout) == (1, "nothing here")


def test_an_event_in_headers(shell: Shell) -> None:
    shell.run("event", "com.example.a", '{"a": 1}', "--subject", "s", "--ext", "tenant=x", "--broker", "b")
    (call,) = shell.platform.calls
    _, headers, body, broker = call
    assert headers == {
        "ce-specversion": "1.0",
        "ce-id": "00000000-0000-4000-8000-000000000001",
        "ce-source": "/shoal/cli",
        "ce-type": "com.example.a",
        "ce-subject": "s",
        "ce-time": headers["ce-time"],
        "ce-tenant": "x",
        "content-type": "application/json",
    }
    assert headers["ce-time"].startswith("2023-11-14T22:13:20")
    assert json.loads(body) == {"a": 1}
    assert broker == "b"


def test_an_event_whose_attributes_no_header_takes(shell: Shell) -> None:
    shell.run("event", "com.example.a", "@data", "--subject", "Grüße")
    assert shell.platform.calls == []
    (shell.folder / "data").write_bytes(BYTES)
    shell.run("event", "com.example.a", "@data", "--subject", "Grüße")
    (_, headers, body, _) = shell.platform.calls[0]
    assert headers["content-type"].startswith("application/cloudevents+json")
    event = json.loads(body)
    assert event["subject"] == "Grüße"
    assert base64.b64decode(event["data_base64"]) == BYTES


def test_an_event_without_data(shell: Shell) -> None:
    shell.run("event", "a")
    (_, headers, body, _) = shell.platform.calls[0]
    assert (body, "content-type" in headers) == (b"", False)


def test_deploy_with_a_tag_keeps_the_others(shell: Shell) -> None:
    shell.run("traffic", "hello", "--tag", "1=stable")
    shell.platform.calls.clear()
    result = shell.run("deploy", "hello", "--no-traffic", "--tag", "canary")
    assert result.exit_code == 0, result.output
    assert shell.platform.calls == [
        ("deploy", Path("hello"), False),
        ("set_traffic", "hello", (Target("hello-00001", 100, "stable"), Target("hello-00002", 0, "canary"))),
    ]
    assert result.stdout == "http://canary-hello.localhost:8080\n"


def test_logs_of_one_revision(shell: Shell) -> None:
    shell.run("logs", "hello", "--revision", "@latest", "-f", "-n", "5")
    assert shell.platform.calls == [("logs", "hello", "hello-00001", True, 5)]


def test_up_passes_its_options_on(shell: Shell) -> None:
    shell.platform.is_up = False
    shell.run("up", "--port", "0", "--broker-port", "9", "--fake-pool", "--home", "h")
    assert shell.platform.options == {"home": Path("h"), "gateway_port": 0, "broker_port": 9, "fake_pool": True}


def test_home_comes_from_the_environment(shell: Shell) -> None:
    shell.run("status", env={"SHOAL_HOME": "/elsewhere"})
    assert shell.platform.options == {"home": Path("/elsewhere")}


def test_a_deployment_that_fails_changes_nothing(shell: Shell) -> None:
    shell.platform.failure = spec_failure()
    assert shell.run("deploy", "hello", "--tag", "t").exit_code == 2
    assert shell.platform.known["hello"].traffic == (Target("hello-00001", 100),)
