"""One handler, one small model, one real Triton: shoal's client against tritonclient's asyncio gRPC client.

Both handlers run on shoal's runtime and the model only copies its input, so what differs is the client. The
function has one core; Triton and the load generator share the other.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bench_servers
from bench_core import Comparison, Row, interleave
from bench_servers import Server

from helpers_triton import TritonAddress, running, write_model

MODEL = "batching_identity"
BODY = struct.pack("<256f", *(n / 256 for n in range(256)))
OURS, THEIRS = "shoal", "tritonclient.grpc.aio"
CONNECTIONS = {"one connection": 1, "sixteen connections": 16}


def bench_model(rounds: int, seconds: int) -> list[Comparison]:
    """Requests per second, and processor time per request in the function's process."""
    with triton() as server:
        servers = {OURS: shoal_model(server), THEIRS: grpc_model(server)}
        try:
            for item in servers.values():
                item.start()
            return [
                done
                for title, count in CONNECTIONS.items()
                for done in measure(servers, title, count, rounds, seconds)
            ]
        finally:
            for item in servers.values():
                item.stop()


@contextmanager
def triton() -> Iterator[TritonAddress]:
    """Run a real Triton with the one model, on the load generator's core."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_model(home / "models", MODEL, "identity", dim=256, max_batch_size=64, count=2)
        os.sched_setaffinity(0, {int(bench_servers.LOAD_CORE)})  # children inherit it
        with running(home, [MODEL]) as server:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
            yield server


def shoal_model(server: TritonAddress) -> Server:
    """The handler that calls through shoal."""
    models = {"SHOAL_MODELS": f'{{"{MODEL}": "{MODEL}"}}', "SHOAL_POOL": server.http}
    return binary(bench_servers.shoal_function("shoal_model", **models))


def grpc_model(server: TritonAddress) -> Server:
    """The handler that calls through tritonclient."""
    return binary(bench_servers.shoal_function("grpc_model", BENCH_TRITON_GRPC=server.grpc))


def binary(server: Server) -> Server:
    """Let the load generator send 256 floats to it."""
    server.body, server.content_type = BODY, "application/octet-stream"
    return server


def measure(
    servers: dict[str, Server], title: str, connections: int, rounds: int, seconds: int
) -> list[Comparison]:
    """Measure throughput and processor time at one concurrency, in the same rounds."""
    cpu = {name: Row(name, "µs CPU") for name in servers}

    def one(name: str) -> float:
        begun = servers[name].cpu_seconds()
        rate = bench_servers.load(servers[name], seconds, connections)
        cpu[name].rounds.append((servers[name].cpu_seconds() - begun) * 1e6 / (rate * seconds))
        return rate

    rates = [Row(name, "requests/s") for name in servers]
    interleave(rates, rounds, one)
    through = Comparison(f"Function → Triton, {title}", rates, "at least 1.3 of tritonclient.grpc.aio", False)
    through.holds = through.ratio(THEIRS) >= 1.3
    cost = Comparison(
        f"Function → Triton, {title}: CPU of the function", list(cpu.values()), "at most 1/1.3", False
    )
    cost.holds = cost.ratio(THEIRS) <= 1 / 1.3
    return [through, cost]
