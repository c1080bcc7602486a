"""A real function process from start to end: what stops it from starting, when it is ready, how it drains."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers_process import (
    PATIENCE_S,
    FunctionProcess,
    environment,
    read_answer,
    served,
    spawned,
    spawned_with,
    until,
    write_handler,
)

PLAIN = """
    from shoal import http

    @http
    async def hello():
        return {"hello": True}
"""
SLOW = """
    import asyncio, pathlib, time
    from shoal import http, stop

    here = pathlib.Path(__file__).parent

    @http
    async def held():
        here.joinpath("running").touch()
        while not here.joinpath("gate").exists():
            await asyncio.sleep(0.02)
        return {"held": True}

    @http(path="/forever")
    async def forever():
        here.joinpath("running").touch()
        await asyncio.sleep(3600)

    @http(path="/stuck")
    def stuck():
        here.joinpath("running").touch()
        time.sleep(3600)

    @http(path="/quick")
    async def quick():
        return {}

    @stop
    def first():
        print("first stop hook")
        raise RuntimeError("the first stop hook breaks")

    @stop
    async def second():
        here.joinpath("stopped").write_text("yes")
"""
# What the data plane may not load for a plain handler; each is measured in tens to hundreds of milliseconds.
FORBIDDEN = {
    "aiohttp", "click", "kubernetes", "numpy", "prometheus_client", "pydantic", "rich", "tritonclient", "yaml",
    "flask", "functions_framework", "starlette", "cloudevents", "multiprocessing",
}  # fmt: skip


def running(home: Path) -> Path:
    return home / "function" / "running"


def test_a_plain_function_loads_none_of_the_forbidden_modules(tmp_path: Path) -> None:
    code = """
        import sys
        from shoal import event, http

        @http
        def modules():
            return sorted(sys.modules)

        @event(type="com.example.x")
        async def on_event(data: dict):
            return None
    """
    with served(tmp_path, code) as function:
        function.ask("/", b"{}")  # the paths of a request are loaded by now
        loaded = {name.partition(".")[0] for name in function.ask().json()}
        assert "uvicorn" in loaded
        assert loaded & FORBIDDEN == set()
        assert "shoal.triton.client" not in function.ask().json()
        function.ask("/metrics")
        assert "prometheus_client" in function.ask().json()


def test_host_and_port_are_where_it_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    env = environment(write_handler(tmp_path / "function", PLAIN), HOST="127.0.0.1", PORT=str(port))
    with spawned_with(tmp_path, env, port) as function:

        def answers() -> bool:
            try:
                return function.ready()
            except ConnectionRefusedError:
                return False

        until(answers, "the port to be open")
        assert function.ask().json() == {"hello": True}


def test_a_port_that_is_taken_is_told_and_exit_code_3(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = environment(write_handler(tmp_path / "function", PLAIN), HOST="127.0.0.1", PORT=str(port))
        with spawned_with(tmp_path, env, port) as function:
            assert function.exit_code() == 3
            assert f"PORT are '127.0.0.1' and '{port}'" in function.error()["message"]


@pytest.mark.parametrize(
    ("name", "value"), [("SHOAL_CONCURRENCY", "many"), ("SHOAL_LISTEN_FD", "900"), ("SHOAL_HANDLER", "other.py")]
)
def test_a_wrong_variable_is_told_and_exit_code_3(tmp_path: Path, name: str, value: str) -> None:
    env = environment(write_handler(tmp_path / "function", PLAIN), PORT="0", **{name: value})
    with spawned_with(tmp_path, env, 0) as function:
        assert function.exit_code() == 3
        assert value in function.error()["message"]
        assert function.error()["level"] == "error"


@pytest.mark.parametrize(
    ("code", "kind", "message", "line"),
    [
        ("import json\n\njson.loads('{')\n", "JSONDecodeError", "Expecting property name", 3),
        ("x = 1\nfrom nowhere import thing\n", "ModuleNotFoundError", "No module named 'nowhere'", 2),
        ("def f(:\n    pass\n", "SyntaxError", "invalid syntax", 1),
        ("import sys\nsys.exit('no licence')\n", "SystemExit", "no licence", 2),
    ],
)
def test_a_handler_that_cannot_be_imported_is_told_with_its_line(
    tmp_path: Path, code: str, kind: str, message: str, line: int
) -> None:
    with spawned(tmp_path, code) as function:
        assert function.exit_code() == 3
        error = function.error()
        assert (error["level"], error["stage"], error["type"]) == ("error", "import", kind)
        assert message in error["message"]
        assert error["where"] == f"{tmp_path}/function/handler.py:{line}"
        assert message in error["last_line"] or kind in error["last_line"]
        assert (error["service"], error["revision"]) == ("echo", "echo-00001")


def test_a_model_without_a_pool_is_told_with_the_variable(tmp_path: Path) -> None:
    code = "from shoal import Model\nmagika = Model('magika')\n"
    with spawned(tmp_path, code) as function:
        assert function.exit_code() == 3
        assert "SHOAL_POOL" in function.error()["message"]


def test_a_start_hook_that_raises_is_told_and_exit_code_3(tmp_path: Path) -> None:
    code = """
        from shoal import http, start

        @start
        async def prepare():
            raise ValueError("no such table")

        @http
        def hello():
            return {}
    """
    with spawned(tmp_path, code) as function:
        assert function.exit_code() == 3
        error = function.error()
        assert (error["stage"], error["type"], error["message"]) == ("start hook", "ValueError", "no such table")
        assert error["where"].endswith("handler.py:6")


def test_requests_get_503_with_the_reason_until_the_start_hooks_are_done(tmp_path: Path) -> None:
    code = """
        import asyncio, pathlib, time
        from shoal import http, start

        here = pathlib.Path(__file__).parent
        order = []

        @start
        def wait():
            while not here.joinpath("gate").exists():
                time.sleep(0.02)
            order.append("sync")

        @start
        async def then():
            order.append("async")

        @http
        async def hello():
            return order
    """
    with spawned(tmp_path, code) as function:
        until(lambda: function.ask("/_shoal/live").status == 200, "the process to answer")
        for path in ("/", "/_shoal/ready"):
            answer = function.ask(path)
            assert answer.status == 503
            assert answer.json()["detail"] == "the start hooks are running"
            assert answer.headers["retry-after"] == "1"
        (tmp_path / "function" / "gate").touch()
        until(function.ready, "the function to be ready")
        assert function.ask().json() == ["sync", "async"]


def test_a_stop_before_the_start_hooks_are_done_ends_with_0(tmp_path: Path) -> None:
    code = """
        import asyncio
        from shoal import start

        @start
        async def wait():
            await asyncio.sleep(3600)
    """
    with spawned(tmp_path, code) as function:
        until(lambda: function.ask("/_shoal/live").status == 200, "the process to answer")
        function.terminate()
        assert function.exit_code() == 0


def test_sigterm_lets_requests_in_flight_finish_runs_the_stop_hooks_and_ends_with_0(tmp_path: Path) -> None:
    with served(tmp_path, SLOW) as function, ThreadPoolExecutor(3) as pool:
        held = pool.submit(function.ask)
        until(running(tmp_path).exists, "the handler to run")
        idle = function.connect()
        idle.request("GET", "/quick")
        assert "connection" not in read_answer(idle).headers
        function.terminate()
        until(lambda: not function.ready(), "the probe to turn")
        answer = function.ask("/_shoal/ready")
        assert answer.json()["detail"] == "the process was told to stop"
        late = function.ask("/quick")  # it still accepts: the word that it goes has not reached everybody
        assert (late.status, late.headers["connection"]) == (200, "close")
        (tmp_path / "function" / "gate").touch()
        assert held.result(PATIENCE_S).json() == {"held": True}
        assert function.exit_code() == 0
        assert (tmp_path / "function" / "stopped").read_text() == "yes"
        assert "the first stop hook breaks" in function.line(message="stop hook first failed")["traceback"]
        assert [one["status"] for one in function.lines() if one.get("path") == "/"] == [200]
        assert "first stop hook" in function.log_path.read_text()


def test_sigint_drains_as_sigterm_does(tmp_path: Path) -> None:
    with served(tmp_path, SLOW) as function:
        function.process.send_signal(signal.SIGINT)
        assert function.exit_code() == 0


def test_a_request_that_outlives_its_deadline_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with served(tmp_path, SLOW, SHOAL_TIMEOUT_SECONDS="1.5") as function, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(function.ask, path) for path in ("/forever", "/stuck")]
        until(running(tmp_path).exists, "a handler to run")
        function.terminate()
        assert function.exit_code() == 0
        assert [one.result(PATIENCE_S).status for one in asked] == [504, 504]


def test_a_second_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    with served(tmp_path, SLOW) as function, ThreadPoolExecutor(1) as pool:
        held = pool.submit(function.ask, "/forever")
        until(running(tmp_path).exists, "the handler to run")
        function.terminate()
        until(lambda: not function.ready(), "the first signal to be heeded")
        function.terminate()
        assert function.exit_code() == 143
        assert held.exception(PATIENCE_S) is not None
        assert not (tmp_path / "function" / "stopped").exists()


def test_as_process_1_it_heeds_sigterm(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    namespace = ("--user", "--map-root-user", "--pid", "--fork", "--kill-child")
    if unshare is None or subprocess.run([unshare, *namespace, "true"], capture_output=True).returncode:
        pytest.skip("this system gives no process namespaces")
    code = PLAIN + '\n    import os\n\n    @http(path="/pid")\n    def pid():\n        return os.getpid()\n'
    with spawned(tmp_path, code, prefix=(unshare, *namespace)) as function:
        until(function.ready, "the function to be ready")
        assert function.ask("/pid").json() == 1
        os.kill(child_of(function), signal.SIGTERM)
        assert function.exit_code() == 0


def test_what_was_sent_before_sigterm_is_answered(tmp_path: Path) -> None:
    with served(tmp_path, PLAIN) as function:
        lines = [function.raw() for _ in range(20)]
        for line in lines:
            line.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        function.terminate()
        answers = [line.recv(65536) for line in lines]
        for line in lines:
            line.close()
        assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
        assert function.exit_code() == 0


def test_no_line_is_lost_at_the_end(tmp_path: Path) -> None:
    with served(tmp_path, PLAIN) as function:
        sent = {function.ask().headers["x-request-id"] for _ in range(50)}
        function.terminate()
        assert function.exit_code() == 0
        assert sent <= {line.get("request_id") for line in function.lines()}


def test_a_reader_that_stalls_does_not_stall_the_function(tmp_path: Path) -> None:
    """Requests go on while nobody reads the log: the pipe is full, lines are dropped and counted."""
    folder = write_handler(tmp_path / "function", PLAIN)
    reading, writing = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listener, open(writing, "wb") as out:
        port = listener.getsockname()[1]
        env = environment(folder, SHOAL_LISTEN_FD=str(listener.fileno()))
        with spawned_with(tmp_path, env, port, fds=(listener.fileno(),), out=out) as function:
            out.close()
            until(function.ready, "the function to be ready")
            connection = function.connect()
            for _ in range(600):  # far more than the pipe's 64 KiB, at 250 bytes a line
                connection.request("GET", "/" + "x" * 1000)
                assert read_answer(connection).status == 200
    os.close(reading)


def child_of(function: FunctionProcess) -> int:
    """Give the one child of the process that was spawned."""
    path = Path(f"/proc/{function.process.pid}/task/{function.process.pid}/children")
    return int(until(lambda: path.read_text().split(), "the child")[0])
