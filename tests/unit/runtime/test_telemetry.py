"""Counters, log lines and the writer under them, each by itself."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shoal.core.clock import FakeClock
from shoal.core.errors import ModelOverloadError
from shoal.core.limits import HANDLER_SERIES_MAX
from shoal.runtime import current, lines
from shoal.runtime.accesslog import Log, Timestamps
from shoal.runtime.lines import LineWriter
from shoal.runtime.messages import Context, Request
from shoal.runtime.metrics import BOUNDS, UNMATCHED, Histogram, Metrics

PATIENCE_S = 60.0


@pytest.fixture
def output(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    yield fd, path
    os.close(fd)


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = metrics.render("")[0].decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels(**more: str) -> frozenset[tuple[str, str]]:
    return frozenset({"service": "s", "revision": "s-1", **more}.items())


def test_a_bucket_holds_what_is_at_most_its_bound() -> None:
    histogram = Histogram()
    for value in (0.0, BOUNDS[0], BOUNDS[0] + 1e-9, BOUNDS[-1], BOUNDS[-1] + 1):
        histogram.add(value)
    cumulative = histogram.cumulative()
    assert cumulative[0] == (str(BOUNDS[0]), 2)
    assert cumulative[1][1] == 3
    assert cumulative[-2:] == [(str(BOUNDS[-1]), 4), ("+Inf", 5)]


def test_requests_are_counted_by_handler_and_status_class() -> None:
    metrics = Metrics("s", "s-1")
    metrics.request("echo", 200, 0.002, 0.0)
    metrics.request("echo", 204, 0.004, 0.2)
    metrics.request("echo", 499, 0.5, 0.0)
    found = samples(metrics)
    assert found["shoal_requests_total", labels(handler="echo", status="2xx")] == 2
    assert found["shoal_requests_total", labels(handler="echo", status="4xx")] == 1
    assert found["shoal_request_duration_seconds_count", labels(handler="echo")] == 3
    assert found["shoal_request_duration_seconds_sum", labels(handler="echo")] == pytest.approx(0.506)
    assert found["shoal_request_duration_seconds_bucket", labels(handler="echo", le="0.0025")] == 1
    assert found["shoal_request_queue_seconds_bucket", labels(handler="echo", le="0.001")] == 2
    assert found["shoal_request_queue_seconds_count", labels(handler="echo")] == 3


def test_model_calls_are_counted_by_outcome() -> None:
    metrics = Metrics("s", "s-1")
    metrics.model_call("m--1", "ok", 0.01)
    metrics.model_call("m--1", "model-overload", 0.01)
    found = samples(metrics)
    assert found["shoal_model_calls_total", labels(model="m--1", outcome="model-overload")] == 1
    assert found["shoal_model_call_duration_seconds_count", labels(model="m--1")] == 2


def test_gauges_are_read_at_the_scrape() -> None:
    now = [1.0]
    metrics = Metrics("s", "s-1", {"shoal_queue_depth": ("Waiting.", lambda: now[0])})
    assert samples(metrics)["shoal_queue_depth", labels()] == 1
    now[0] = 2.0
    assert samples(metrics)["shoal_queue_depth", labels()] == 2


def test_names_without_end_share_a_series() -> None:
    metrics = Metrics("s", "s-1")
    for number in range(HANDLER_SERIES_MAX + 50):
        metrics.request(f"handler{number}", 200, 0.0, 0.0)
    handlers = {dict(key)["handler"] for name, key in samples(metrics) if name == "shoal_requests_total"}
    assert len(handlers) == HANDLER_SERIES_MAX + 1
    assert UNMATCHED in handlers


def test_times_are_utc_with_milliseconds() -> None:
    clock = FakeClock(1_700_000_000.25)
    times = Timestamps(clock)
    assert times.now() == "2023-11-14T22:13:20.250Z"
    clock.advance(0.7499)
    assert times.now() == "2023-11-14T22:13:20.999Z"
    clock.advance(0.001)
    assert times.now() == "2023-11-14T22:13:21.000Z"


def make_log(fd: int, level: str = "info") -> Log:
    return Log(LineWriter(fd), FakeClock(), "s", "s-1", level)


async def test_lines_wait_a_moment_and_leave_together(output: tuple[int, Path]) -> None:
    fd, path = output
    log = make_log(fd)
    log.writer.attach(asyncio.get_running_loop())
    for status in (200, 404, 500):
        log.request("t" * 32, "r", "GET", "/", status, 0.0015, 0.0, None)
    assert path.read_bytes() == b""
    async with asyncio.timeout(PATIENCE_S):
        while path.read_bytes().count(b"\n") < 3:
            await asyncio.sleep(0.01)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["level"] for line in found] == ["info", "warning", "error"]
    assert [line["duration_ms"] for line in found] == [1.5] * 3
    log.writer.close(PATIENCE_S)


async def test_an_errors_component_code_and_message_are_in_its_line(output: tuple[int, Path]) -> None:
    fd, path = output
    log = make_log(fd)
    log.writer.attach(asyncio.get_running_loop())
    log.request("t" * 32, "r", "GET", "/", 503, 0.1, 0.05, ModelOverloadError('the "queue" is full'))
    log.writer.close(PATIENCE_S)
    line = json.loads(path.read_text())
    assert (line["component"], line["code"], line["detail"]) == ("model", "model-overload", 'the "queue" is full')
    assert line["queue_ms"] == 50.0


async def test_closing_writes_what_is_left_and_later_lines_at_once(output: tuple[int, Path]) -> None:
    fd, path = output
    log = make_log(fd)
    log.writer.attach(asyncio.get_running_loop())
    log.say("info", "kept")
    log.writer.close(PATIENCE_S)
    log.say("info", "direct")
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["kept", "direct"]


async def test_lines_from_other_threads_arrive(output: tuple[int, Path]) -> None:
    fd, path = output
    log = make_log(fd)
    log.writer.attach(asyncio.get_running_loop())
    threads = [threading.Thread(target=log.say, args=("info", f"from {number}")) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    await asyncio.sleep(0)
    log.writer.close(PATIENCE_S)
    found = {json.loads(line)["message"] for line in path.read_text().splitlines()}
    assert found == {f"from {number}" for number in range(5)}


async def test_past_its_bound_lines_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LOG_BUFFER_BYTES_MAX", 1000)
    reading, writing = os.pipe()
    writer = LineWriter(writing)
    writer.attach(asyncio.get_running_loop())
    for _ in range(3):
        writer.write("x" * 100_000 + "\n")  # more than a pipe holds, and nobody reads
        writer.flush()
    assert writer.dropped > 0
    drain = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reading, 65536), b"")])
    drain.start()
    writer.close(PATIENCE_S)
    os.close(writing)
    await asyncio.to_thread(drain.join)
    os.close(reading)


def test_lines_below_the_level_are_not_written(output: tuple[int, Path]) -> None:
    fd, path = output
    log = make_log(fd, "warning")
    log.say("info", "quiet")
    log.say("warning", "loud")
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["loud"]


def test_what_a_handler_logs_carries_the_requests_ids(output: tuple[int, Path]) -> None:
    fd, path = output
    log = make_log(fd)
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    trace = "0af7651916cd43dd8448eb211c80319c"
    context = Context("r-1", f"00-{trace}-b7ad6b7169203331-00", 0.0, "s", "s-1", Request("GET", "/", b"", [], b""))
    token = current.context.set(context)
    try:
        log.adopt_logging()
        logging.getLogger("mine").error("broken: %s", {"a": 1}, exc_info=ValueError("x"))
        logging.getLogger("mine").debug("too quiet")
    finally:
        current.context.reset(token)
        root.handlers[:] = before
        root.setLevel(level)
    (line,) = [json.loads(text) for text in path.read_text().splitlines()]
    assert (line["logger"], line["level"], line["message"]) == ("mine", "error", "broken: {'a': 1}")
    assert (line["trace_id"], line["request_id"], line["service"]) == (trace, "r-1", "s")
    assert "ValueError: x" in line["traceback"]
