"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers_triton import TritonAddress, write_repository
from shoal.pool import environment
from shoal.pool.server import TritonServer


@pytest.fixture(scope="session")
def shoal_cache() -> Path:
    """The cache shared by all runs: Triton's environment and model files are made there once."""
    return Path(os.environ.get("SHOAL_CACHE") or Path.home() / ".cache" / "shoal")


@pytest.fixture(scope="session")
def triton_environment(shoal_cache: Path) -> environment.TritonEnvironment:
    """The stand-in's environment; tests that need it are skipped, with the reason, where it cannot run."""
    if reason := environment.unavailable():
        pytest.skip(reason)
    return environment.prepare(shoal_cache)


@pytest.fixture(scope="session")
def triton_server(
    triton_environment: environment.TritonEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonAddress]:
    """A real Triton with every test model loaded; one per test process, gone with it."""
    home = tmp_path_factory.mktemp("triton")
    names = write_repository(home / "models")
    server = TritonServer(triton_environment, repository=home / "models", state=home / "state", log=home / "log")
    try:
        server.start()
        server.wait_ready()
        _load(server.grpc, names)
        yield TritonAddress(http=server.http, grpc=server.grpc, repository=home / "models")
    finally:
        server.close()


def _load(address: str, names: list[str]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import tritonclient.grpc

    with tritonclient.grpc.InferenceServerClient(address) as client, ThreadPoolExecutor(4) as threads:
        list(threads.map(client.load_model, names))
