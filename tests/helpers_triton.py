"""A real Triton for tests, and its models: small ones in Python over every datatype, and ones that misbehave."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from shoal.pool import environment
from shoal.pool.server import TritonServer
from shoal.triton.control import GrpcControl
from shoal.triton.tensors import DATATYPE_BYTES

SOURCES = Path(__file__).with_name("triton_models")
IDENTITIES = {f"identity_{datatype.lower()}": datatype for datatype in DATATYPE_BYTES}
UNLOADED = "unloaded"  # in the repository; loaded once, then unloaded
UNLOAD_SECONDS = 90.0
SLOW_QUEUE_MAX = 2  # requests waiting for the slow model before Triton refuses more

_CONFIG = """\
backend: "python"
max_batch_size: {max_batch_size}
input [ {{ name: "x" data_type: TYPE_{datatype} dims: [ {dim} ] }} ]
output [ {{ name: "y" data_type: TYPE_{datatype} dims: [ {dim} ] }} ]
instance_group [ {{ count: {count} kind: KIND_CPU }} ]
dynamic_batching {{
  default_queue_policy {{
    default_timeout_microseconds: 60000000
    allow_timeout_override: true
    max_queue_size: {queue}
  }}
}}
"""


@dataclass(frozen=True)
class TritonAddress:
    """A running Triton: ``http`` and ``grpc`` are ``host:port``, ``url`` is http://host:port."""

    http: str
    grpc: str
    repository: Path

    @property
    def url(self) -> str:
        return f"http://{self.http}"


def write_model(
    repository: Path,
    name: str,
    source: str,
    *,
    datatype: str = "FP32",
    dim: int = -1,
    max_batch_size: int = 0,
    queue: int = 256,
    count: int = 1,
) -> Path:
    """Add one model whose code is ``triton_models/<source>.py``; give its folder."""
    folder = repository / name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(SOURCES / f"{source}.py", folder / "1" / "model.py")
    dtype = "STRING" if datatype == "BYTES" else datatype
    config = _CONFIG.format(max_batch_size=max_batch_size, datatype=dtype, dim=dim, queue=queue, count=count)
    (folder / "config.pbtxt").write_text(config)
    return folder


def write_repository(repository: Path) -> list[str]:
    """Write every test model below ``repository`` and give their names."""
    for name, datatype in IDENTITIES.items():
        write_model(repository, name, "identity", datatype=datatype)
    write_model(repository, "batching_identity", "identity", dim=256, max_batch_size=64)
    write_model(repository, "slow", "slow", dim=1, max_batch_size=1, queue=SLOW_QUEUE_MAX)
    write_model(repository, "failing", "failing")
    write_model(repository, UNLOADED, "identity")
    return sorted(path.name for path in repository.iterdir())


def prepared() -> environment.TritonEnvironment:
    """Give the stand-in's environment; skips the test, with the reason, where it cannot run, but fails it in CI."""
    if reason := environment.unavailable():
        if os.environ.get("CI"):  # there a stand-in that broke must not pass for one that is not there
            pytest.fail(f"no Triton to test with: {reason}")
        pytest.skip(reason)
    return environment.prepare()


@contextmanager
def running(home: Path, models: Iterable[str]) -> Iterator[TritonAddress]:
    """Run a Triton over ``home/models`` with these models loaded; it is gone afterwards."""
    server = TritonServer(prepared(), repository=home / "models", state=home / "state", log=home / "log")
    try:
        server.start()
        server.wait_ready()
        control = GrpcControl(server.grpc)
        control.server_ready()  # connects once, before threads do
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(control.load, models))
        if UNLOADED in control.index():
            _unload(control, UNLOADED)
        control.close()
        yield TritonAddress(http=server.http, grpc=server.grpc, repository=home / "models")
    finally:
        server.kill()  # an orderly end takes Triton two seconds
        server.close()


def _unload(control: GrpcControl, model: str) -> None:
    control.unload(model)
    deadline = time.monotonic() + UNLOAD_SECONDS
    while control.index()[model][0] != "UNAVAILABLE":
        assert time.monotonic() < deadline, f"{model} does not unload: {control.index()[model]}"
        time.sleep(0.05)
