"""The pool's ports stay its own."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from shoal.pool.ports import LOOPBACK, Ports


def test_a_reserved_port_is_nobody_elses(tmp_path: Path) -> None:
    ports = Ports(tmp_path)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((LOOPBACK, ports.http))
    ports.close()


def test_a_reserved_port_refuses_callers_until_somebody_listens(tmp_path: Path) -> None:
    ports = Ports(tmp_path)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, ports.http), timeout=30)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((LOOPBACK, ports.http))
        listener.listen()
        for _ in range(20):  # every connection reaches the one that listens
            socket.create_connection((LOOPBACK, ports.http), timeout=30).close()
            listener.accept()[0].close()
    ports.close()


def test_the_ports_are_remembered(tmp_path: Path) -> None:
    first = Ports(tmp_path)
    kept = (first.http, first.grpc)
    assert kept[0] != kept[1]
    first.close()
    second = Ports(tmp_path)
    assert (second.http, second.grpc) == kept
    second.close()


@pytest.mark.parametrize("memory", ["", "nonsense", "-1", "99999999", "70000"])
def test_a_memory_that_is_no_port_is_replaced(tmp_path: Path, memory: str) -> None:
    (tmp_path / "http.port").write_text(memory)
    ports = Ports(tmp_path)
    assert 0 < ports.http < 65_536
    assert (tmp_path / "http.port").read_text() == str(ports.http)
    ports.close()


def test_a_port_taken_meanwhile_is_given_up(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        taken = other.getsockname()[1]
        (tmp_path / "http.port").write_text(str(taken))
        ports = Ports(tmp_path)
        assert ports.http != taken
        ports.close()
