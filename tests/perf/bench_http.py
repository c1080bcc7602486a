"""Serving without a model: requests per second on one core, and the time from spawn to the first answer."""

from __future__ import annotations

import time

import bench_servers
from bench_core import Comparison, Row, interleave
from bench_servers import Server


def bench_echo(rounds: int, seconds: int) -> Comparison:
    """JSON echo, requests per second on one core."""
    servers: dict[str, Server] = {
        "shoal": bench_servers.shoal_echo(),
        "bare uvicorn": bench_servers.bare(),
        "functions-framework": bench_servers.functions_framework(),
    }
    rows = [Row(name, "requests/s") for name in servers]
    try:
        for server in servers.values():
            server.start()
        interleave(rows, rounds, lambda name: bench_servers.load(servers[name], seconds))
    finally:
        for server in servers.values():
            server.stop()
    done = Comparison("JSON echo with metrics and access log", rows, "at least 0.6 of bare uvicorn", False)
    done.holds = done.ratio("bare uvicorn") >= 0.6
    return done


def bench_start(rounds: int) -> Comparison:
    """Spawn to first 200, milliseconds."""
    makers = {
        "shoal": bench_servers.shoal_echo,
        "bare uvicorn": bench_servers.bare,
        "functions-framework": bench_servers.functions_framework,
    }

    def measure(name: str) -> float:
        server = makers[name]()
        begun = time.perf_counter()
        try:
            server.start()
            return (time.perf_counter() - begun) * 1000
        finally:
            server.stop()

    rows = [Row(name, "ms") for name in makers]
    interleave(rows, rounds, measure)
    done = Comparison("Spawn to first 200", rows, "at most 1.3 of bare uvicorn", False)
    done.holds = done.ratio("bare uvicorn") <= 1.3
    return done
