"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from helpers_triton import TritonAddress, prepared, running, write_repository
from shoal.pool.environment import TritonEnvironment

# A script's background job ignores SIGINT, and its children inherit that: tests that press Ctrl-C would wait.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def triton_environment() -> TritonEnvironment:
    """The stand-in's environment; tests that need it are skipped, with the reason, where it cannot run."""
    return prepared()


@pytest.fixture(scope="session")
def triton_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonAddress]:
    """A real Triton with every test model loaded; one per test process, gone with it.

    Tests that unload its models or kill it start one of their own with ``helpers_triton.running``.
    """
    prepared()
    home = tmp_path_factory.mktemp("triton")
    with running(home, write_repository(home / "models")) as address:
        yield address
