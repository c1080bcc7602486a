"""The real ``shoal`` process on the real local platform: what a person types on the first day, one after the other.

The pool is the contracts' fake: the functions here ask no model, and the command line is the subject.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

WAIT_SECONDS = 120.0
FRAMEWORK = Path(__file__).parents[2] / "framework"
SHOAL = (sys.executable, "-m", "shoal.cli.main")

# Ends the platform when its standard input ends: in the fixture's end, or with the test's process however it ends.
GUARD = """
import os, subprocess, sys
os.setsid()
sys.stdin.read()
subprocess.run([sys.executable, "-m", "shoal.cli.main", "down"], stderr=subprocess.DEVNULL)
"""


@dataclass
class Terminal:
    """A folder and an environment to type commands in."""

    folder: Path
    env: dict[str, str]

    def run(self, *args: str, code: int = 0, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run ``shoal``; fails unless it ends with ``code``, and if it ever shows a traceback."""
        ended = subprocess.run(
            [*SHOAL, *args],
            cwd=self.folder,
            env=self.env,
            input=input,
            capture_output=True,
            timeout=600,
            check=False,
        )
        assert b"Traceback" not in ended.stderr, ended.stderr.decode()
        assert ended.returncode == code, (args, ended.stdout.decode(), ended.stderr.decode())
        return ended

    def text(self, *args: str, code: int = 0) -> str:
        """Give what a command prints on stdout."""
        return self.run(*args, code=code).stdout.decode()

    def json(self, *args: str) -> dict[str, object]:
        """Give what a command prints with ``--json``."""
        found = json.loads(self.text(*args, "--json"))
        assert isinstance(found, dict)
        return found

    def traffic(self, name: str) -> dict[str, int]:
        """Give the split as revision -> percent."""
        entries = self.json("traffic", name)["traffic"]
        assert isinstance(entries, list)
        return {entry["revision"]: entry["percent"] for entry in entries if entry["percent"]}


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    env = os.environ | {"SHOAL_HOME": str(tmp_path / "h"), "PYTHONPATH": str(FRAMEWORK), "NO_COLOR": "1"}
    guard = subprocess.Popen([sys.executable, "-c", GUARD], stdin=subprocess.PIPE, env=env)
    try:
        yield Terminal(tmp_path, env)
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        assert guard.wait(300) == 0


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < WAIT_SECONDS, f"waited {WAIT_SECONDS:.0f} s for {what}"
        time.sleep(0.05)


def up(terminal: Terminal) -> None:
    lines = terminal.text("up", "--port", "0", "--broker-port", "0", "--fake-pool").splitlines()
    assert {"gateway", "broker", "pool"} <= {line.split()[0] for line in lines}
    assert {line.split()[1] for line in lines} <= {"ready", "starting"}, lines


def greeting(terminal: Terminal, *args: str) -> str:
    reply = terminal.json("invoke", "hello", '{"name": "Ada"}', *args)
    assert reply["status"] == 200
    body = reply["body"]
    assert isinstance(body, dict)
    return str(body["message"])


def edit(terminal: Terminal, old: str, new: str) -> None:
    handler = terminal.folder / "hello" / "handler.py"
    text = handler.read_text()
    assert old in text
    handler.write_text(text.replace(old, new))


def test_day(terminal: Terminal) -> None:
    """up, new, check, deploy, invoke, second version, tag, split, rollback, logs, status, delete, down."""
    assert terminal.run("status", code=3).stderr.endswith(b"hint: shoal up\n")
    up(terminal)
    terminal.run("new", "hello")
    assert terminal.text("check", "hello") == "hello: any request\n"

    first = terminal.run("deploy", "hello")
    assert first.stdout.startswith(b"http://hello.localhost:")
    assert b"hello-00001 is ready" in first.stderr
    assert greeting(terminal) == "Hello, Ada!"
    assert b"hello-00001 is up to date" in terminal.run("deploy", "hello").stderr

    edit(terminal, "Hello, {name}!", "Good day, {name}!")
    tagged = terminal.text("deploy", "hello", "--no-traffic", "--tag", "next")
    assert tagged.startswith("http://next-hello.localhost:")
    assert greeting(terminal) == "Hello, Ada!"
    assert greeting(terminal, "--tag", "next") == "Good day, Ada!"

    terminal.run("traffic", "hello", "@latest=100")
    assert greeting(terminal) == "Good day, Ada!"
    terminal.run("traffic", "hello", "1=90", "2=10")
    kept = terminal.run("deploy", "hello").stderr
    assert b"hello-00002 exists already; the split stays: 90 % hello-00001, 10 % hello-00002" in kept
    assert terminal.traffic("hello") == {"hello-00001": 90, "hello-00002": 10}
    terminal.run("rollback", "hello")
    assert terminal.traffic("hello") == {"hello-00002": 100}

    until(lambda: "POST / 200" in terminal.text("logs", "hello", "--revision", "1"), "the access log")
    status = terminal.text("status")
    assert "hello-00002" in status
    assert "tag next" in status

    terminal.run("delete", "hello", code=2)
    terminal.run("delete", "hello", "--yes")
    assert b"hello" in terminal.run("invoke", "hello", code=4).stderr
    terminal.run("traffic", "hello", code=4)
    terminal.run("down")
    terminal.run("invoke", "hello", code=3)


def test_state(terminal: Terminal) -> None:
    """What was deployed is there again after down and up, on the same addresses."""
    up(terminal)
    terminal.run("new", "hello")
    before = terminal.text("deploy", "hello")
    terminal.run("down")
    assert b"already" not in terminal.run("up", "--fake-pool").stderr
    assert b"already up" in terminal.run("up").stderr
    assert greeting(terminal) == "Hello, Ada!"
    assert terminal.json("status", "hello")["url"] == before.strip()


def test_mistake(terminal: Terminal) -> None:
    """A deployment that fails says where and why, and leaves what served before."""
    up(terminal)
    terminal.run("new", "hello")
    terminal.run("deploy", "hello")
    edit(terminal, "return {", "return undefined_name, {")
    edit(terminal, "from shoal import http", "from shoal import http\n\nraise RuntimeError('no luck')")
    broken = terminal.run("deploy", "hello", code=1).stderr.decode()
    assert "RuntimeError" in broken
    assert "no luck" in broken
    (terminal.folder / "hello" / "function.yaml").write_text("name: hello\ntimeout: 60\n")
    assert b"function.yaml:2:10: timeout: 60 has no unit" in terminal.run("deploy", "hello", code=2).stderr
    assert b"function.yaml:2:10: timeout: 60 has no unit" in terminal.run("check", "hello", code=2).stderr
    assert greeting(terminal) == "Hello, Ada!"


def test_request(terminal: Terminal) -> None:
    """A failed call names the command that shows its lines, and these show the function's own frames only."""
    up(terminal)
    terminal.run("new", "hello")
    edit(terminal, "    return {", '    raise RuntimeError("no luck")\n    return {')
    terminal.run("deploy", "hello")
    failed = terminal.run("invoke", "hello", code=1).stderr.decode()
    *_, request = failed.partition("hint: shoal logs hello --request ")
    assert len(request.strip()) == 8, failed
    until(
        lambda: "no luck" in terminal.text("logs", "hello", "--request", request.strip()), "the line of the request"
    )
    said = terminal.text("logs", "hello", "--request", request.strip())
    assert f"request={request.strip()}" in said
    assert "handler.py" in said
    assert "shoal/runtime" not in said
    assert terminal.text("logs", "hello", "--request", "ffffffff-none") == ""


def test_ports(terminal: Terminal) -> None:
    """Ports that are taken are named together, with the command that takes others."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [str(taken.getsockname()[1]) for taken in (one, two)]
        refused = terminal.run("up", "--port", ports[0], "--broker-port", ports[1], "--fake-pool", code=2)
    said = refused.stderr.decode()
    assert all(f"port {port} for the " in said for port in ports)
    assert "hint: shoal up --port 0 --broker-port 0" in said


def test_event(terminal: Terminal) -> None:
    """An event reaches the function that waits for its type; a handler's print is in the log."""
    up(terminal)
    terminal.run("new", "greeter", "--template", "event")
    handler = terminal.folder / "greeter" / "handler.py"
    handler.write_text(
        handler.read_text().replace("    greeting =", "    print('asked by', data['name'])\n    greeting =")
    )
    terminal.run("deploy", "greeter")
    status = terminal.text("status", "greeter")
    assert "greeter: event com.example.greeting.asked" in status
    assert "trigger: broker default, type=com.example.greeting.asked" in status
    sent = terminal.run("event", "com.example.greeting.asked", '{"name": "Ada"}')
    assert len(sent.stdout.strip()) == 36
    assert sent.stderr == b"accepted by broker 'default'; goes to greeter\n"
    assert b"no function waits for this type" in terminal.run("event", "com.example.greeting.lost").stderr
    assert b"hint: greeter takes events: shoal event" in terminal.run("invoke", "greeter", "{}", code=1).stderr
    until(lambda: "asked by Ada" in terminal.text("logs", "greeter"), "the event's delivery")


def test_model(terminal: Terminal) -> None:
    """The model template keeps its model's contract, and a revision says which version it was made with."""
    terminal.env["SHOAL_MODEL_REPOSITORY"] = str(FRAMEWORK.parent / "triton-repo")
    up(terminal)
    terminal.run("new", "asks", "--template", "model")
    checked = terminal.text("check", "asks")
    version = checked.partition("model magika: ")[2].strip()
    assert version.startswith("magika--")
    terminal.run("deploy", "asks")
    reply = terminal.json("invoke", "asks", "import os")
    assert reply["status"] == 200
    assert isinstance(reply["body"], dict)
    assert set(reply["body"]) == {"class", "score"}
    assert version in terminal.text("status", "asks")

    handler = terminal.folder / "asks" / "handler.py"
    handler.write_text(handler.read_text().replace("INT32[-1,2048]", "FP32[-1,2048]"))
    wrong = terminal.run("check", "asks", code=2).stderr
    assert b"FP32" in wrong
    assert b"INT32" in wrong
    assert b"INT32" in terminal.run("deploy", "asks", code=2).stderr
    assert terminal.json("invoke", "asks", "import os")["status"] == 200


def test_dev(terminal: Terminal) -> None:
    """A save is a new revision; a mistake is told and the last good revision goes on; Ctrl-C ends the watching."""
    up(terminal)
    terminal.run("new", "hello")
    process = subprocess.Popen(
        [*SHOAL, "dev", "hello"],
        cwd=terminal.folder,
        env=terminal.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"hello-00001")
        while b"watching" not in process.stderr.readline():
            pass
        edit(terminal, "Hello", "Good day")
        assert process.stdout.readline().startswith(b"hello-00002")
        assert greeting(terminal) == "Good day, Ada!"
        edit(terminal, "return {", "return {{")
        while b"goes on serving" not in process.stderr.readline():
            assert process.poll() is None
        assert greeting(terminal) == "Good day, Ada!"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().endswith(b"stopped watching\n")
        assert process.wait(60) == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()
