"""The platforms the contract suite runs against: each real, started once, in a place of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import helpers_cluster
from helpers_functions import Make, write_function
from helpers_wheels import offline
from shoal.core.errors import NotFoundError
from shoal.platform.local.client import LocalPlatform
from shoal.platform.port import Platform

TARGETS = ["local", pytest.param("cluster", marks=pytest.mark.cluster)]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the platforms look for packages, instead of an index."""
    return tmp_path_factory.mktemp("wheels")


@pytest.fixture(scope="session", params=TARGETS)
def platform(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, wheels: Path
) -> Iterator[Platform]:
    """A running platform; models on it answer from their contract, packages come from the folder ``wheels``."""
    if request.param == "cluster":
        with helpers_cluster.platform("contract") as cluster:
            yield cluster
        return
    home = tmp_path_factory.mktemp(request.param) / "home"
    local = LocalPlatform(home, gateway_port=0, broker_port=0, fake_pool=True, dies_with_caller=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in offline(wheels).items():
            patch.setenv(name, value)
        local.up()
    try:
        yield local
    finally:
        local.down()


@pytest.fixture
def make(platform: Platform, tmp_path: Path) -> Iterator[Make]:
    """Write function folders with names nobody else uses; the functions are gone when the test is over."""
    made: list[str] = []

    def write(code: str, *, config: str = "", name: str = "") -> Path:
        if not name:
            name = f"t-{uuid.uuid4().hex[:10]}"
            made.append(name)
        return write_function(tmp_path / name, code, config=config)

    yield write
    for name in made:
        with suppress(NotFoundError):
            platform.delete(name)
