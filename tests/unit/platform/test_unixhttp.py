"""The command line's calls to the node: whatever comes back, they end, and say why."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal.core import limits
from shoal.core.errors import NotRunningError, PlatformError
from shoal.platform.local import engine, supervisor, unixhttp
from shoal.platform.local.client import LocalPlatform

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
Answering = Callable[..., Path]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Answering]:
    """Give a function that answers one connection with these bytes, and then hangs up, or says no more."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    done = threading.Event()
    threads: list[threading.Thread] = []

    def serve(answer: bytes, hangs: bool) -> None:
        with listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(answer)
            if hangs:
                done.wait()

    def answering(answer: bytes, *, hangs: bool = False) -> Path:
        threads.append(threading.Thread(target=serve, args=(answer, hangs)))
        threads[-1].start()
        return tmp_path / "s"

    yield answering
    done.set()
    for thread in threads:
        thread.join()
    listener.close()


def test_an_answer_comes_whole(node: Answering) -> None:
    assert unixhttp.call(node(HEAD % 7 + b'{"a":1}'), "GET", "/") == {"a": 1}
    assert list(unixhttp.stream(node(STREAM + b'{"a":1}\n{"a":2}\n'), "GET", "/")) == [{"a": 1}, {"a": 2}]


def test_a_node_that_falls_silent_is_not_waited_for_without_end(node: Answering) -> None:
    with pytest.raises(NotRunningError, match="stopped in the middle"):
        unixhttp.call(node(HEAD % 100 + b"{", hangs=True), "GET", "/", timeout_s=0.1)
    lines = unixhttp.stream(node(STREAM + b'{"a":1}\n', hangs=True), "GET", "/", silence_s=0.1)
    with pytest.raises(NotRunningError, match="stopped in the middle"):
        list(lines)


def test_a_frozen_node_is_told_as_such_when_asked_what_it_knows(
    node: Answering, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(limits, "NODE_READ_SECONDS_MAX", 0.1)
    platform = LocalPlatform(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "node.sock").symlink_to(node(b"", hangs=True))
    with pytest.raises(NotRunningError, match="the node does not answer") as raised:
        platform.status()
    assert "shoal down" in raised.value.hint


def test_a_frozen_node_is_not_waited_for_to_begin_a_deployment(
    node: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONTROL_SECONDS_MAX", 0.1)
    with pytest.raises(NotRunningError, match="the node does not answer"):
        list(unixhttp.stream(node(b"", hangs=True), "POST", "/v1/deployments", {}))


def test_a_node_that_ends_in_the_middle_is_not_running(node: Answering) -> None:
    with pytest.raises(NotRunningError, match="ended in the middle"):
        unixhttp.call(node(HEAD % 100 + b"{}"), "GET", "/")


def test_an_answer_has_a_limit(node: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONTROL_BODY_BYTES_MAX", 10)
    assert unixhttp.call(node(HEAD % 10 + b'"12345678"'), "GET", "/") == "12345678"
    with pytest.raises(PlatformError, match="limit of 10 bytes"):
        unixhttp.call(node(HEAD % 11 + b'"123456789"'), "GET", "/")
    with pytest.raises(PlatformError, match="limit of 10 bytes"):
        list(unixhttp.stream(node(STREAM + b'"123456789"\n'), "GET", "/"))


def test_an_answer_without_a_body_is_whole(node: Answering) -> None:
    connection = unixhttp.UnixConnection(node(HEAD % 100), 30.0)
    connection.request("HEAD", "/")
    assert unixhttp.read(connection.getresponse(), 1) == b""
    connection.close()
    connection = unixhttp.UnixConnection(node(HEAD % 100 + b"1"), 30.0)
    connection.request("GET", "/")
    with pytest.raises(http.client.IncompleteRead):
        unixhttp.read(connection.getresponse(), 1000)
    connection.close()


def test_the_nodes_time_to_stop_covers_its_parts() -> None:
    parts = 3 * supervisor.STOP_SECONDS_MAX + engine._END_SECONDS  # broker, gateway and pool, then the instances
    assert parts < limits.NODE_STOP_SECONDS_MAX
    assert supervisor.STOP_SECONDS_MAX > limits.GATEWAY_DRAIN_SECONDS_MAX
