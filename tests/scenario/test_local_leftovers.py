"""What a function starts ends with it, and what nobody waits for any more ends and is not published."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from helpers_functions import deploy, until, write_function
from shoal.platform.local import unixhttp
from shoal.platform.local.client import LocalPlatform

STAY = "import os, time; open(os.environ['PIDS'], 'a').write(f'{os.getpid()}\\n'); time.sleep(600)"
STARTS = {
    "fork": f"if os.fork() == 0:\n    exec({STAY!r})",
    "daemon": f"if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    exec({STAY!r})\n  os._exit(0)",
    "program": f"subprocess.Popen([sys.executable, '-c', {STAY!r}], start_new_session=True)",
}
HANDLER = "import os, subprocess, sys\nfrom shoal import http\n{}\n@http\ndef f():\n    return 'up'\n"
SLOW = """
    import os, time
    from pathlib import Path
    from shoal import http
    if {condition}:
        with Path(os.environ["PIDS"]).open("a") as file:
            file.write(str(os.getpid()) + "\\n")
        while not Path(os.environ["PIDS"] + ".open").exists():
            time.sleep(0.1)

    @http
    def f():
        return "up"
"""


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[LocalPlatform]:
    started = LocalPlatform(tmp_path / "home", gateway_port=0, broker_port=0, fake_pool=True, dies_with_caller=True)
    started.up()
    yield started
    started.down()


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    """The file in which the processes that stay note their ids; none is left after the test."""
    file = tmp_path / "pids"
    file.touch()
    yield file
    for pid in noted(file):
        if exists(pid):
            os.kill(pid, signal.SIGKILL)


def noted(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().splitlines()]


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def alive(file: Path) -> list[int]:
    return [pid for pid in noted(file) if exists(pid)]


def function(tmp_path: Path, pids: Path, code: str, name: str = "f") -> Path:
    return write_function(tmp_path / name, code, config=f"env: {{PIDS: {json.dumps(str(pids))}}}\n")


@pytest.mark.parametrize("kind", STARTS)
@pytest.mark.parametrize("end", ["delete", "down"])
def test_what_a_handler_starts_ends_with_its_instance(
    platform: LocalPlatform, tmp_path: Path, pids: Path, kind: str, end: str
) -> None:
    folder = function(tmp_path, pids, HANDLER.format(STARTS[kind]))
    neighbour = function(tmp_path, tmp_path / "others", HANDLER.format(STARTS["daemon"]), "other")
    try:
        deploy(platform, neighbour)
        deploy(platform, folder)
        until(lambda: alive(pids), "the process the instance started")
        until((tmp_path / "others").exists, "its neighbour's")
        until(lambda: alive(tmp_path / "others"), "its neighbour's")
        if end == "delete":
            platform.delete("f")
            assert alive(tmp_path / "others")
        else:
            platform.down()
        assert alive(pids) == []
        platform.down()
        assert alive(tmp_path / "others") == []
    finally:
        for pid in alive(tmp_path / "others"):
            os.kill(pid, signal.SIGKILL)


def test_what_the_check_of_a_deployment_starts_ends_with_it(
    platform: LocalPlatform, tmp_path: Path, pids: Path
) -> None:
    only_there = f"if 'K_REVISION' not in os.environ:\n    {STARTS['program']}; import time; time.sleep(0.5)"
    deploy(platform, function(tmp_path, pids, HANDLER.format(only_there)))
    assert alive(pids) == []


@pytest.mark.parametrize("kind", STARTS)
def test_down_ends_what_a_killed_node_left(platform: LocalPlatform, tmp_path: Path, pids: Path, kind: str) -> None:
    deploy(platform, function(tmp_path, pids, HANDLER.format(STARTS[kind])))
    until(lambda: alive(pids), "the process the instance started")
    os.kill(next(part.pid for part in platform.status().components if part.name == "node"), signal.SIGKILL)
    until(lambda: not platform.running(), "the end of the node")
    assert platform.down() is False
    assert alive(pids) == []
    assert list(platform.home.run.glob("*.sock")) == []


def test_down_leaves_no_socket(platform: LocalPlatform) -> None:
    until(lambda: platform.home.socket("pool").exists(), "the pool's socket")
    assert platform.down()
    assert list(platform.home.run.glob("*.sock")) == []


@pytest.mark.parametrize(("stage", "condition"), [("check", "True"), ("ready", "'K_REVISION' in os.environ")])
def test_a_deployment_whose_caller_leaves_ends_and_is_not_published(
    platform: LocalPlatform, tmp_path: Path, pids: Path, stage: str, condition: str
) -> None:
    folder = function(tmp_path, pids, SLOW.format(condition=condition))
    order = {"source": str(folder), "repository": None, "cache": str(tmp_path / "cache"), "traffic": True}
    with closing(unixhttp.stream(platform.home.socket("node"), "POST", "/v1/deployments", order)) as lines:
        for line in lines:
            if line["stage"]["name"] == stage:
                break
        until(lambda: alive(pids), "the process that imports the handler")
    if stage == "ready":
        Path(f"{pids}.open").touch()  # it becomes ready now, and could be published
    until(lambda: not alive(pids), "its end")
    until(lambda: list(platform.home.scratch.iterdir()) == [], "the end of the deployment's folders")
    assert platform.functions() == []
    assert "Traceback" not in platform.home.log("node").read_text()
