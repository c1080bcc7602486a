"""The stand-in: a real Triton from a wheel that starts, answers, dies and is cleaned up after as promised."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from helpers_triton import TritonAddress, prepared, running, write_model
from shoal.core.errors import ModelFaultError, PoolError
from shoal.core.packages import cache_folder
from shoal.models import source
from shoal.models.repository import ModelRepository
from shoal.pool import server as module
from shoal.pool.environment import assemble_backends
from shoal.pool.server import TritonServer, sweep_shared_memory
from shoal.triton.control import GrpcControl

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 90.0
pytestmark = pytest.mark.triton


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TritonServer]:
    """A server of this test's own, with one model in its repository, not started."""
    write_model(tmp_path / "models", "one", "identity")
    made = TritonServer(prepared(), repository=tmp_path / "models", state=tmp_path / "state", log=tmp_path / "log")
    try:
        yield made
    finally:
        made.kill()
        made.close()


def load(server: TritonServer, model: str = "one") -> None:
    control = GrpcControl(server.grpc)
    try:
        control.load(model)
    finally:
        control.close()


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def shared_memory(prefix: str = "") -> list[str]:
    return [path.name for path in Path("/dev/shm").glob(f"{prefix or 'shoal_'}*")]


def test_nothing_is_loaded_until_it_is_asked_for(server: TritonServer) -> None:
    server.start()
    server.wait_ready()
    assert server.answers()
    assert server.stubs() == {}
    load(server)
    assert server.stubs() == {"one": 1}


def test_ports_are_kept_over_restarts_and_over_owners(server: TritonServer, tmp_path: Path) -> None:
    server.start()
    server.wait_ready()
    first = (server.http, server.grpc)
    server.start()
    server.wait_ready()
    assert (server.http, server.grpc, server.starts) == (*first, 2)
    server.close()
    again = TritonServer(prepared(), repository=tmp_path / "models", state=tmp_path / "state", log=tmp_path / "log")
    assert (again.http, again.grpc) == first
    again.close()


def test_stopping_leaves_no_process_and_no_shared_memory(server: TritonServer) -> None:
    server.start()
    server.wait_ready()
    load(server)
    pid, stubs = server.pid, [pid for pid in module._children(server.pid) if module._stub_model(pid)]
    assert shared_memory(server._shm_prefix)
    server.stop()
    assert not server.running
    until(lambda: not any(map(alive, [pid, *stubs])), "the processes to end")
    assert shared_memory(server._shm_prefix) == []


def test_a_killed_server_is_seen_and_its_successor_answers(server: TritonServer) -> None:
    server.start()
    server.wait_ready()
    load(server)
    stubs = [pid for pid in module._children(server.pid) if module._stub_model(pid)]
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.running, "the death to be seen")
    assert (server.pid, server.answers()) == (0, False)
    server.start()
    server.wait_ready()
    load(server)
    until(lambda: not any(map(alive, stubs)), "the orphaned stub to end")


def test_a_dead_stub_does_not_hold_up_the_stop(server: TritonServer) -> None:
    server.start()
    server.wait_ready()
    load(server)
    for pid in module._children(server.pid):
        os.kill(pid, signal.SIGKILL)
    until(lambda: server.stubs() == {}, "the stub to be missed")
    begun = time.monotonic()
    server.stop(timeout_s=1.0)
    assert not server.running
    assert time.monotonic() - begun < PATIENCE_SECONDS


OWNER = """
import os, sys, time
from pathlib import Path
from shoal.pool.environment import prepare
from shoal.pool.server import TritonServer
from shoal.triton.control import GrpcControl
home = Path(sys.argv[1])
server = TritonServer(prepare(), repository=home / "models", state=home / "state", log=home / "log")
server.start()
server.wait_ready()
GrpcControl(server.grpc).load("one")
print(server.pid, server._shm_prefix, flush=True)
time.sleep(600)
"""


def test_nothing_outlives_an_owner_that_is_killed(tmp_path: Path) -> None:
    prepared()
    write_model(tmp_path / "models", "one", "identity")
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        pid, prefix = owner.stdout.readline().split()
        children = module._children(int(pid))
        assert alive(int(pid))
        assert shared_memory(prefix)
        owner.kill()
        owner.wait()
    until(lambda: not any(map(alive, [int(pid), *children])), "server and stub to end")
    (Path("/dev/shm") / f"{prefix}leftover").touch()
    sweep_shared_memory()
    assert shared_memory(prefix) == []


def test_the_sweep_spares_the_memory_of_the_living(server: TritonServer) -> None:
    server.start()
    server.wait_ready()
    load(server)
    before = shared_memory(server._shm_prefix)
    sweep_shared_memory()
    assert shared_memory(server._shm_prefix) == before != []


def test_a_server_that_cannot_start_says_why(server: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "state" / "backends").mkdir(parents=True)
    server._arguments = lambda backends: [str(server._environment.binary), "--no-such-flag"]  # type: ignore[method-assign]
    server.start()
    with pytest.raises(PoolError) as caught:
        server.wait_ready()
    assert "ended while starting" in caught.value.message
    assert str(tmp_path / "log") in caught.value.hint


def test_the_log_stays_bounded_while_the_server_writes_it(
    server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.start()
    server.wait_ready()
    before = (tmp_path / "log").read_bytes()
    server.trim_log()
    assert (tmp_path / "log").read_bytes() == before
    monkeypatch.setattr(module, "LOG_BYTES_MAX", 10)
    server.trim_log()
    assert (tmp_path / "log.1").read_bytes() == before
    load(server)
    text = (tmp_path / "log").read_bytes()
    assert b"one" in text
    assert b"\0" not in text, "the server appends, it leaves no hole"


def test_the_backend_folder_is_laid_out_anew_each_time(tmp_path: Path) -> None:
    folder = tmp_path / "backends"
    for _ in range(2):
        assemble_backends(prepared(), folder)
        assert not (folder / "python" / "libtriton_python.so").is_symlink()
        assert (folder / "python" / "triton_python_backend_stub").resolve().is_file()
        assert (folder / "onnxruntime" / "model.py").is_file()


# The onnxruntime backend.


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TritonAddress, str]]:
    """A server with the real model loaded; gives its address and the model's version."""
    prepared()
    home = tmp_path_factory.mktemp("onnx")
    version = ModelRepository(ROOT / "triton-repo").materialise("magika", home / "models").name
    with running(home, [version]) as address:
        yield address, version


@pytest.fixture(scope="module")
def session() -> Any:
    folder = ROOT / "triton-repo" / "magika"
    path = source.fetch(source.load(folder).files[0], folder=folder, cache=cache_folder())
    return onnxruntime.InferenceSession(str(path))


def infer(address: str, model: str, batch: Any, outputs: tuple[str, ...] = ()) -> Any:
    """One call through tritonclient."""
    from tritonclient import grpc

    given = grpc.InferInput("bytes", list(batch.shape), "INT32")
    given.set_data_from_numpy(batch)
    asked = [grpc.InferRequestedOutput(name) for name in outputs] or None
    with grpc.InferenceServerClient(address) as client:
        return client.infer(model, [given], outputs=asked, client_timeout=60).as_numpy("target_label")


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_answers_are_those_of_the_model_run_directly(
    rows: int, onnx: tuple[TritonAddress, str], session: Any
) -> None:
    batch = np.random.default_rng(rows).integers(0, 257, (rows, 2048), dtype=np.int32)
    expected = session.run(["target_label"], {"bytes": batch})[0]
    np.testing.assert_allclose(infer(onnx[0].grpc, onnx[1], batch), expected, atol=1e-5)


def test_requests_that_meet_in_a_batch_get_their_own_rows(onnx: tuple[TritonAddress, str], session: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    generator = np.random.default_rng(7)
    batches = [generator.integers(0, 257, (1 + n % 3, 2048), dtype=np.int32) for n in range(24)]
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(lambda batch: infer(onnx[0].grpc, onnx[1], batch), batches))
    for batch, got in zip(batches, found, strict=True):
        np.testing.assert_allclose(got, session.run(["target_label"], {"bytes": batch})[0], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('name: "bytes"', 'name: "octets"'), "octets"),
        (('name: "target_label"', 'name: "label"'), "label"),
        (("TYPE_FP32", "TYPE_BF16"), "BF16"),
    ],
)
def test_a_configuration_that_is_not_the_models_fails_the_load(
    change: tuple[str, str], told: str, onnx: tuple[TritonAddress, str], tmp_path: Path
) -> None:
    folder = onnx[0].repository / f"wrong-{told}"
    (folder / "1").mkdir(parents=True)
    weights = onnx[0].repository / onnx[1]
    (folder / "1" / "model.onnx").write_bytes((weights / "1" / "model.onnx").read_bytes())
    (folder / "config.pbtxt").write_text((weights / "config.pbtxt").read_text().replace(*change))
    control = GrpcControl(onnx[0].grpc)
    try:
        with pytest.raises(ModelFaultError, match=told):
            control.load(folder.name)
        assert control.server_ready(), "one bad model does not take the server out"
    finally:
        control.close()


# The pool process.


def control_call(socket: Path, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    import asyncio

    import aiohttp

    async def call() -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
            session.request(method, f"http://pool{path}", json=body) as answer,
        ):
            return answer.status, await answer.json(content_type=None)

    return asyncio.run(call())


@pytest.fixture(params=["--fake", ""])
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The socket of a pool process, fake and real."""
    if not request.param:
        prepared()
    write_model(tmp_path / "models", "one--1", "identity")
    socket = tmp_path / "run" / "pool.sock"
    arguments = ["--home", str(tmp_path), *([request.param] if request.param else [])]
    with (tmp_path / "pool.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "shoal.pool", *arguments], stdout=log, stderr=log)
    try:
        until(socket.exists, "the control socket")
        yield socket
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0, (tmp_path / "pool.log").read_text()
    finally:
        process.kill()
        process.wait()


def test_the_pool_process_does_what_its_socket_is_told(pool: Path) -> None:
    assert pool.stat().st_mode & 0o077 == 0, "only its owner may open the socket"
    status, answer = control_call(pool, "PUT", "/models", {"models": ["one--1"]})
    assert (status, answer) == (200, {"models": {"one--1": {"state": "READY", "reason": ""}}})
    status, said = control_call(pool, "GET", "/status")
    assert (status, said["ready"], said["restarts"], said["models"]) == (200, True, 0, answer["models"])
    assert alive(said["pid"])
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [2.5]}]})
    host, port = said["http"].split(":")
    assert post(host, int(port), "/v2/models/one--1/infer", body)["outputs"][0]["data"] == [2.5]


def post(host: str, port: int, path: str, body: str) -> Any:
    import http.client

    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection.request("POST", path, body)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def test_float_bits_survive_the_way_through(triton_server: TritonAddress) -> None:
    bits = struct.pack("<4I", 0x7FC00001, 0x80000000, 0x00000001, 0xFF800000)  # NaN, -0, the smallest, -inf
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    request = service_pb2.ModelInferRequest(model_name="identity_fp32", raw_input_contents=[bits])
    request.inputs.add(name="x", datatype="FP32", shape=[4])
    with grpc.insecure_channel(triton_server.grpc) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    assert answer.raw_output_contents[0] == bits
