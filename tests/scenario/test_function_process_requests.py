"""A real function process and its requests: answers, headers, errors, limits, deadlines, logs, metrics."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from helpers_process import Answer, FunctionProcess, read_answer, served, until
from shoal.core import limits

CODE = """
    import asyncio, logging, pathlib, sys, time
    from shoal import Context, Response, http

    state = {"cancelled": 0, "running": 0}
    gate = pathlib.Path(__file__).with_name("gate")  # made by a test that lets handlers go on

    @http
    async def echo(body: dict) -> dict:
        return body

    @http(path="/size")
    async def size(body: bytes) -> dict:
        return {"bytes": len(body)}

    @http(path="/modules")
    def modules():
        return sorted(sys.modules)

    @http(path="/state")
    async def state_now():
        return {"cancelled": state["cancelled"], "running": state["running"]}

    @http(path="/sleep")
    async def sleep():
        state["running"] += 1
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            state["cancelled"] += 1
            raise
        finally:
            state["running"] -= 1

    @http(path="/hold")
    def hold():
        state["running"] += 1
        try:
            while not gate.exists():
                time.sleep(0.02)
            return {"held": True}
        finally:
            state["running"] -= 1

    @http(path="/stubborn")
    async def stubborn():
        while not gate.exists():
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                state["cancelled"] += 1
        return {"too": "late"}

    @http(path="/crash")
    async def crash():
        logging.getLogger("mine").warning("about to crash")
        raise KeyError("the password is hunter2")

    @http(path="/exit")
    def leave():
        sys.exit(5)

    @http(path="/interrupt")
    async def interrupt():
        raise KeyboardInterrupt

    @http(path="/interrupt-thread")
    def interrupt_thread():
        raise KeyboardInterrupt

    class Outside(BaseException):
        pass

    @http(path="/outside")
    async def outside():
        raise Outside

    @http(path="/stop-iteration")
    def stop_iteration():
        next(iter(()))

    @http(path="/context")
    async def context(ctx: Context):
        left = ctx.deadline - asyncio.get_running_loop().time()
        return {"id": ctx.request_id, "traceparent": ctx.traceparent, "left": left, "revision": ctx.revision}

    @http(path="/header")
    async def header():
        return Response(b"x", headers={"x-bad": "a\\r\\nb: c"})

    @http(path="/status")
    async def status():
        return Response(b"", 99)

    @http(path="/own")
    async def own():
        fake = {"Content-Length": "99", "Connection": "close", "shoal-revision": "no"}
        fake |= {"X-Mine": "1", "set-cookie": "a=b"}
        return Response(b"four", 201, fake)

    @http(path="/nothing")
    async def nothing():
        return None

    @http(path="/stream")
    async def stream():
        for number in range(5):
            yield f"line {number}\\n".encode()

    @http(path="/broken-stream")
    async def broken_stream():
        yield b"first"
        raise ValueError("in the middle")

    @http(path="/dead-stream")
    async def dead_stream():
        raise ValueError("before the first byte")
        yield b""

    @http(path="/get-only", methods=["GET"])
    async def get_only():
        return {"got": True}

    @http(path="/blob")
    async def blob():
        return Response(b"x" * 3_000_000)
"""
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FunctionProcess]:
    home = tmp_path_factory.mktemp("requests")
    with served(home, CODE, SHOAL_TIMEOUT_SECONDS="30", SHOAL_BODY_BYTES_MAX="100000") as process:
        yield process


def problem(answer: Answer, status: int, code: str, component: str) -> dict[str, Any]:
    """Check an answer to be this problem, and give its document."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["type"] == f"urn:shoal:problem:{code}"
    assert (document["status"], document["code"], document["component"]) == (status, code, component)
    assert document["request_id"] == answer.headers["x-request-id"]
    assert {"title", "detail"} <= document.keys()
    return document


def test_an_answer_carries_the_body_and_the_headers_of_every_answer(function: FunctionProcess) -> None:
    answer = function.ask(body=b'{"a": [1, "\xc3\xa9"]}', headers=JSON)
    assert (answer.status, answer.json()) == (200, {"a": [1, "é"]})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["shoal-revision"] == "echo-00001"
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert "date" in answer.headers
    assert "server" not in answer.headers


def test_many_requests_travel_on_one_connection(function: FunctionProcess) -> None:
    connection = function.connect()
    for number in range(50):
        connection.request("POST", "/", json.dumps({"n": number}), JSON)
        assert read_answer(connection).json() == {"n": number}


def test_pipelined_requests_are_answered_in_order(function: FunctionProcess) -> None:
    with function.raw() as line:
        first = b"GET /state HTTP/1.1\r\nhost: x\r\n\r\n"
        line.sendall(first + b"GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        text = read_all(line)
    assert re.findall(rb"HTTP/1.1 (\d+)", text) == [b"200", b"204"]


def test_the_callers_request_id_and_trace_are_kept_and_passed_on(function: FunctionProcess) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    sent = {"x-request-id": "mine-1", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    answer = function.ask("/context", headers=sent)
    assert answer.headers["x-request-id"] == answer.json()["id"] == "mine-1"
    version, trace_id, span, flags = answer.json()["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", trace, "01")
    assert span != "b7ad6b7169203331"
    line = function.line(request_id="mine-1")
    assert (line["trace_id"], line["path"], line["status"]) == (trace, "/context", 200)


@pytest.mark.parametrize("value", ["", "a b", "x" * 200, "caf\xe9"])
def test_an_unusable_request_id_is_replaced(function: FunctionProcess, value: str) -> None:
    answer = function.ask("/context", headers={"x-request-id": value})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_the_log_line_says_what_happened(function: FunctionProcess) -> None:
    answer = function.ask("/size?q=1", b"12345")
    line = function.line(request_id=answer.headers["x-request-id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line.pop("duration_ms") > 0
    assert line == {
        "level": "info",
        "message": "request",
        "trace_id": answer.headers["x-request-id"],
        "request_id": answer.headers["x-request-id"],
        "service": "echo",
        "revision": "echo-00001",
        "method": "POST",
        "path": "/size",
        "status": 200,
        "queue_ms": 0.0,
    }


def test_a_path_that_needs_escaping_keeps_the_log_valid(function: FunctionProcess) -> None:
    answer = function.ask("/%22%0a%5c%e2%82%ac", headers={"x-request-id": 'a"\\b'})
    line = function.line(request_id='a"\\b')
    assert line["path"] == '/"\n\\€'
    assert line["status"] == answer.status


def test_an_exception_is_a_problem_without_internals_and_a_log_line_with_all_of_them(
    function: FunctionProcess,
) -> None:
    answer = function.ask("/crash")
    document = problem(answer, 500, "handler", "handler")
    assert "hunter2" not in answer.body.decode()
    assert "Key" not in answer.body.decode()
    assert "hint" not in document
    request_id = answer.headers["x-request-id"]
    failure = function.line(message="handler crash failed", request_id=request_id)
    assert 'raise KeyError("the password is hunter2")' in failure["traceback"]
    assert failure["level"] == "error"
    line = function.line(message="request", request_id=request_id)
    assert (line["level"], line["component"], line["code"]) == ("error", "handler", "handler")
    mine = function.line(logger="mine", request_id=request_id)
    assert (mine["message"], mine["level"]) == ("about to crash", "warning")


@pytest.mark.parametrize(
    "path",
    [
        "/exit", "/interrupt", "/interrupt-thread", "/outside",
        "/stop-iteration", "/dead-stream", "/header", "/status",
    ],
)  # fmt: skip
def test_whatever_a_handler_does_its_caller_gets_a_500_and_the_process_lives(
    function: FunctionProcess, path: str
) -> None:
    answer = function.ask(path)
    problem(answer, 500, "handler", "handler")
    failure = function.line(level="error", request_id=answer.headers["x-request-id"])
    assert failure["traceback"]
    assert function.ready()


def test_a_stream_that_breaks_after_its_first_byte_is_cut_off_not_ended(function: FunctionProcess) -> None:
    with function.raw() as line:
        line.sendall(b"GET /broken-stream HTTP/1.1\r\nhost: x\r\nx-request-id: broken\r\n\r\n")
        text = read_all(line)
    assert b"first" in text
    assert not text.endswith(b"0\r\n\r\n")
    assert function.line(message="request", request_id="broken")["component"] == "handler"


def test_an_async_generator_streams(function: FunctionProcess) -> None:
    answer = function.ask("/stream")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.body == b"".join(b"line %d\n" % number for number in range(5))


def test_headers_that_are_the_servers_are_not_the_handlers(function: FunctionProcess) -> None:
    answer = function.ask("/own")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (201, b"four", "4")
    assert (answer.headers["x-mine"], answer.headers["set-cookie"]) == ("1", "a=b")
    assert answer.headers["shoal-revision"] == "echo-00001"
    assert "connection" not in answer.headers


def test_nothing_is_204_without_length(function: FunctionProcess) -> None:
    answer = function.ask("/nothing")
    assert (answer.status, answer.body) == (204, b"")
    assert "content-length" not in answer.headers


def test_a_large_answer_arrives_whole(function: FunctionProcess) -> None:
    assert len(function.ask("/blob").body) == 3_000_000


def test_head_is_get_without_the_body(function: FunctionProcess) -> None:
    for path in ("/get-only", "/stream", "/_shoal/ready"):
        connection = function.connect()
        connection.request("HEAD", path)
        answer = read_answer(connection)
        assert (answer.status, answer.body) == (200, b""), path
        connection.request("GET", "/nothing")  # the connection is still in step
        assert read_answer(connection).status == 204
    assert function.ask("/get-only", method="HEAD").headers["content-length"] == str(len(b'{"got":true}'))


def test_options_names_the_methods(function: FunctionProcess) -> None:
    answer = function.ask("/get-only", method="OPTIONS")
    assert (answer.status, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert "POST" in function.ask("/", method="OPTIONS").headers["allow"]


def test_a_method_a_handler_does_not_take_is_405_with_allow(function: FunctionProcess) -> None:
    answer = function.ask("/get-only", b"x")
    problem(answer, 405, "method", "caller")
    assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize("path", ["/robots.txt", "/favicon.ico", "/_shoal/nothing"])
def test_paths_that_are_nobodys_are_404(function: FunctionProcess, path: str) -> None:
    problem(function.ask(path), 404, "not-found", "caller")


def test_live_answers(function: FunctionProcess) -> None:
    assert function.ask("/_shoal/live").json() == {"live": True}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_past_its_limit_is_413(function: FunctionProcess, chunked: bool) -> None:
    connection = function.connect()
    body: Any = (b"x" * 10_000 for _ in range(20)) if chunked else b"x" * 200_000
    headers = {"transfer-encoding": "chunked"} if chunked else {}
    connection.request("POST", "/size", body, headers, encode_chunked=chunked)
    answer = read_answer(connection)
    assert "100000 bytes" in problem(answer, 413, "body-too-large", "caller")["detail"]
    assert answer.headers["connection"] == "close"


def test_a_caller_that_asks_first_is_refused_before_it_sends(function: FunctionProcess) -> None:
    with function.raw() as line:
        line.sendall(b"POST /size HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 200000\r\n\r\n")
        assert read_all(line).startswith(b"HTTP/1.1 413 ")


def test_a_caller_that_asks_first_is_told_to_go_on(function: FunctionProcess) -> None:
    with function.raw() as line:
        asking = b"POST /size HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
        line.sendall(asking + b"content-length: 3\r\nconnection: close\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 100 ")
        line.sendall(b"abc")
        assert b'{"bytes":3}' in read_all(line).replace(b" ", b"")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_up_to_its_limit_arrives_whole(function: FunctionProcess, chunked: bool) -> None:
    connection = function.connect()
    body: Any = (b"x" * 10_000 for _ in range(10)) if chunked else b"x" * 100_000
    headers = {"transfer-encoding": "chunked"} if chunked else {}
    connection.request("POST", "/size", body, headers, encode_chunked=chunked)
    assert read_answer(connection).json() == {"bytes": 100_000}


@pytest.mark.parametrize("whole", [True, False])
def test_headers_past_their_limit_are_431(function: FunctionProcess, whole: bool) -> None:
    head = b"GET / HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * (limits.HEADER_BYTES_MAX + 100)
    with function.raw() as line:
        line.sendall(head + (b"\r\n\r\n" if whole else b""))
        text = read_all(line)
    assert text.startswith(b"HTTP/1.1 431 ")
    assert json.loads(text.partition(b"\r\n\r\n")[2])["code"] == "headers-too-large"


def test_headers_up_to_their_limit_are_taken(function: FunctionProcess) -> None:
    assert function.ask("/state", headers={"x-long": "a" * (limits.HEADER_BYTES_MAX - 1000)}).status == 200


JUNK = [b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"GET  HTTP/9\r\n\r\n"]


@pytest.mark.parametrize("junk", JUNK)
def test_what_is_not_http_is_a_400_problem(function: FunctionProcess, junk: bytes) -> None:
    with function.raw() as line:
        line.sendall(junk)
        text = read_all(line)
    head, _, body = text.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert json.loads(body)["component"] == "caller"


def test_a_body_that_does_not_come_is_408(function: FunctionProcess) -> None:
    with function.raw() as line:
        line.sendall(b"POST /size HTTP/1.1\r\nhost: x\r\nshoal-timeout-ms: 200\r\ncontent-length: 10\r\n\r\nabc")
        text = read_all(line)  # the connection ends with the answer
    assert text.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in text


def test_past_the_deadline_the_handler_is_cancelled_and_the_answer_504(function: FunctionProcess) -> None:
    before = function.ask("/state").json()["cancelled"]
    document = problem(function.ask("/sleep", headers={"shoal-timeout-ms": "150"}), 504, "deadline", "handler")
    assert "0.150 s" in document["detail"]
    until(lambda: function.ask("/state").json()["cancelled"] == before + 1, "the handler to be cancelled")


def test_a_deadline_that_is_already_over_is_504(function: FunctionProcess) -> None:
    assert function.ask("/sleep", headers={"shoal-timeout-ms": "0"}).status in (408, 504)


def test_a_caller_cannot_ask_for_more_time_than_the_function_has(function: FunctionProcess) -> None:
    assert function.ask("/context", headers={"shoal-timeout-ms": "99999999"}).json()["left"] <= 30
    assert function.ask("/context", headers={"shoal-timeout-ms": "5000"}).json()["left"] <= 5


@pytest.mark.parametrize("value", ["1s", "-1", "1.5", "9" * 30])
def test_a_timeout_that_is_no_number_is_400(function: FunctionProcess, value: str) -> None:
    document = problem(function.ask("/context", headers={"shoal-timeout-ms": value}), 400, "request", "caller")
    assert "shoal-timeout-ms" in document["detail"]


def test_a_caller_that_hangs_up_cancels_the_handler(function: FunctionProcess) -> None:
    before = function.ask("/state").json()["cancelled"]
    with function.raw() as line:
        line.sendall(b"GET /sleep HTTP/1.1\r\nhost: x\r\nx-request-id: gone\r\n\r\n")
        until(lambda: function.ask("/state").json()["running"] > 0, "the handler to run")
    until(lambda: function.ask("/state").json()["cancelled"] == before + 1, "the handler to be cancelled")
    assert function.line(request_id="gone", message="request")["status"] == 499


def test_a_caller_that_hangs_up_in_its_body_leaves_only_a_log_line(function: FunctionProcess) -> None:
    with function.raw() as line:
        line.sendall(b"POST /size HTTP/1.1\r\nhost: x\r\nx-request-id: half\r\ncontent-length: 10\r\n\r\nabc")
    assert function.line(request_id="half", message="request")["status"] == 499


def test_metrics_count_by_handler_and_status(function: FunctionProcess) -> None:
    function.ask("/size", b"1")
    function.ask("/crash")
    answer = function.ask("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.body.decode()
    assert sample(text, "shoal_requests_total", handler="crash", status="5xx") >= 1
    sized = sample(text, "shoal_request_duration_seconds_count", handler="size")
    assert sized >= 1
    assert sample(text, "shoal_request_duration_seconds_bucket", handler="size", le="+Inf") == sized
    assert sample(text, "shoal_request_queue_seconds_count", handler="size") == sized
    assert sample(text, "shoal_ready") == 1
    assert sample(text, "shoal_queue_depth") == 0
    assert "process_cpu_seconds_total" in text


def test_metrics_speak_openmetrics_when_asked(function: FunctionProcess) -> None:
    answer = function.ask("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")


def test_overload_is_refused_at_once_and_the_rest_waits_its_turn(tmp_path: Path) -> None:
    settings = {"SHOAL_CONCURRENCY": "1", "SHOAL_TIMEOUT_SECONDS": "80"}
    with served(tmp_path, CODE, **settings) as function, ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(function.ask, "/hold")]
        until(lambda: gauge(function, "shoal_requests_in_flight") == 1, "the slot to be taken")
        sent += [pool.submit(function.ask, "/hold") for _ in range(limits.QUEUE_FACTOR)]
        until(lambda: gauge(function, "shoal_queue_depth") == limits.QUEUE_FACTOR, "the queue to be full")
        refused = function.ask("/hold")
        problem(refused, 503, "overload", "handler")
        assert int(refused.headers["retry-after"]) >= 1
        open_gate(tmp_path)
        assert [one.result().status for one in sent] == [200] * (1 + limits.QUEUE_FACTOR)
        queued = [line["queue_ms"] for line in wait_for_lines(function, "/hold", 200, 1 + limits.QUEUE_FACTOR)]
        assert sum(1 for value in queued if value > 0) == limits.QUEUE_FACTOR


def test_a_request_whose_deadline_passes_in_the_queue_is_504(tmp_path: Path) -> None:
    with served(tmp_path, CODE, SHOAL_CONCURRENCY="1") as function, ThreadPoolExecutor(2) as pool:
        held = pool.submit(function.ask, "/sleep", headers={"shoal-timeout-ms": "3000"})
        until(lambda: gauge(function, "shoal_requests_in_flight") == 1, "the slot to be taken")
        document = problem(function.ask("/state", headers={"shoal-timeout-ms": "100"}), 504, "deadline", "handler")
        assert "no slot" in document["detail"]
        assert held.result().status == 504
        assert function.ask("/state").status == 200


def test_a_thread_that_does_not_end_keeps_its_slot_until_it_does(tmp_path: Path) -> None:
    with served(tmp_path, CODE, SHOAL_CONCURRENCY="2", SHOAL_THREADS="2") as function:
        problem(function.ask("/hold", headers={"shoal-timeout-ms": "150"}), 504, "deadline", "handler")
        assert gauge(function, "shoal_requests_in_flight") == 1
        assert function.ask("/state").json()["running"] == 1
        open_gate(tmp_path)
        until(lambda: gauge(function, "shoal_requests_in_flight") == 0, "the slot to come back")


def test_a_handler_that_ignores_its_cancellation_does_not_keep_its_caller(tmp_path: Path) -> None:
    with served(tmp_path, CODE, SHOAL_CONCURRENCY="2") as function:
        connection = function.connect()
        connection.request("GET", "/stubborn", headers={"shoal-timeout-ms": "150", "x-request-id": "stubborn"})
        problem(read_answer(connection), 504, "deadline", "handler")
        assert gauge(function, "shoal_requests_in_flight") == 1
        open_gate(tmp_path)
        connection.request("GET", "/state")  # the connection is in step
        assert read_answer(connection).status == 200
        until(lambda: gauge(function, "shoal_requests_in_flight") == 0, "the handler to end")
        function.ask("/state", headers={"x-request-id": "later"})
        function.line(request_id="later")
        done = [line for line in function.lines() if line.get("request_id") == "stubborn"]
        assert [line["status"] for line in done] == [504]


def test_the_log_level_silences_what_is_below_it(tmp_path: Path) -> None:
    with served(tmp_path, CODE, SHOAL_LOG_LEVEL="error") as function:
        function.ask("/state")
        function.ask("/robots.txt")
        request_id = function.ask("/crash").headers["x-request-id"]
        function.line(message="request", request_id=request_id)
        assert {line["level"] for line in function.lines()} == {"error"}


def open_gate(home: Path) -> None:
    """Let held handlers go on."""
    (home / "function" / "gate").touch()


def wait_for_lines(function: FunctionProcess, path: str, status: int, count: int) -> list[dict[str, Any]]:
    """Wait for that many request lines and give them."""

    def find() -> list[dict[str, Any]] | None:
        found = [one for one in function.lines() if one.get("path") == path and one.get("status") == status]
        return found if len(found) == count else None

    return until(find, f"{count} lines of {path}")


def gauge(function: FunctionProcess, name: str) -> float:
    """Read one gauge."""
    return sample(function.ask("/metrics").body.decode(), name)


def sample(text: str, name: str, **labels: str) -> float:
    """Read one sample of the metrics' text."""
    everywhere = {"service": "echo", "revision": "echo-00001"}
    wanted = {f'{key}="{value}"' for key, value in {**everywhere, **labels}.items()}
    for line in text.splitlines():
        head, _, rest = line.partition("{")
        found, _, value = rest.rpartition("} ")
        if head == name and set(found.split(",")) == wanted:
            return float(value)
    raise AssertionError(f"no sample {name} {labels} in\n{text}")


def read_all(line: socket.socket) -> bytes:
    """Read until the other side closes; a reset ends it too."""
    text = b""
    while True:
        try:
            chunk = line.recv(65536)
        except ConnectionResetError:
            return text
        if not chunk:
            return text
        text += chunk
