"""kill -9 of any part of the local platform in the middle of traffic: it recovers, no accepted event is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from helpers_functions import deploy, until, write_function
from helpers_triton import prepared, write_model
from shoal.core.errors import ConflictError, NotRunningError, ShoalError, UsageError
from shoal.platform.local import sockets
from shoal.platform.local.client import LocalPlatform
from shoal.platform.port import Stage, Target

EVENT_TYPE = "com.example.counted"
COUNTER = """
    import os
    from pathlib import Path
    from shoal import Context, event, http

    record = Path(os.environ["RECORD"])

    @event(type="com.example.counted")
    def take(data: bytes, ctx: Context) -> None:
        with record.open("a") as file:
            file.write(str(ctx.attributes["id"]) + "\\n")

    @http
    def pid():
        return {"pid": os.getpid()}
"""
DELIVERY = "triggers:\n  - filter: {type: com.example.counted}\n    delivery: {retry: 20, backoffDelay: 50ms}\n"


def local(home: Path, *, fake_pool: bool = True) -> LocalPlatform:
    return LocalPlatform(home, gateway_port=0, broker_port=0, fake_pool=fake_pool, dies_with_caller=True)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[LocalPlatform]:
    started = local(tmp_path / "home")
    started.up()
    yield started
    started.down()


def counter(tmp_path: Path) -> tuple[Path, Path]:
    """Write the counting function; gives its folder and the file in which it notes what it saw."""
    record = tmp_path / "record"
    record.touch()
    config = f"env: {{RECORD: {json.dumps(str(record))}}}\n{DELIVERY}"
    return write_function(tmp_path / "counter", COUNTER, config=config), record


def pid_of(platform: LocalPlatform, component: str) -> int:
    return next(part.pid for part in platform.status().components if part.name == component)


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


class Publisher:
    """Publishes without a pause and remembers what was accepted."""

    def __init__(self, platform: LocalPlatform) -> None:
        self.accepted: list[str] = []
        self.refused = 0
        self._platform = platform
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def more(self, count: int) -> None:
        """Wait until ``count`` more events were accepted."""
        wanted = len(self.accepted) + count
        until(lambda: len(self.accepted) >= wanted, f"{count} more accepted events")

    def _run(self) -> None:
        while not self._over.wait(0.01):
            identity = str(uuid.uuid4())
            headers = {"ce-specversion": "1.0", "ce-type": EVENT_TYPE, "ce-source": "/test", "ce-id": identity}
            try:
                self._platform.publish(headers, b"{}")
                self.accepted.append(identity)
            except ShoalError:
                self.refused += 1


def seen(record: Path) -> set[str]:
    return set(record.read_text().split())


def assert_all_seen(publisher: Publisher, record: Path) -> None:
    accepted = set(publisher.accepted)
    until(lambda: accepted <= seen(record), "every accepted event")


@pytest.mark.parametrize("victim", ["gateway", "broker", "pool"])
def test_a_killed_part_comes_back_and_no_accepted_event_is_lost(
    platform: LocalPlatform, tmp_path: Path, victim: str
) -> None:
    folder, record = counter(tmp_path)
    deploy(platform, folder)
    with Publisher(platform) as publisher:
        for _ in range(2):
            publisher.more(10)
            before = pid_of(platform, victim)
            os.kill(before, signal.SIGKILL)
            until(lambda old=before: pid_of(platform, victim) not in (0, old), f"a new {victim}")
        publisher.more(10)
    assert_all_seen(publisher, record)
    part = until(
        lambda: next((part for part in platform.status().components if part.name == victim and part.ready), None),
        f"the {victim} to be ready",
    )
    assert part.restarts >= 2
    assert platform.invoke("counter", method="GET").status == 200


def test_a_killed_instance_is_replaced_and_no_accepted_event_is_lost(
    platform: LocalPlatform, tmp_path: Path
) -> None:
    folder, record = counter(tmp_path)
    deploy(platform, folder)
    with Publisher(platform) as publisher:
        publisher.more(10)
        victim = json.loads(platform.invoke("counter", method="GET").body)["pid"]
        os.kill(victim, signal.SIGKILL)
        publisher.more(10)
    assert_all_seen(publisher, record)
    reply = until(lambda: (r := platform.invoke("counter", method="GET")).status == 200 and r, "an answer")
    assert json.loads(reply.body)["pid"] != victim


def test_a_killed_node_takes_all_along_and_the_next_goes_on(platform: LocalPlatform, tmp_path: Path) -> None:
    folder, record = counter(tmp_path)
    old = deploy(platform, folder).revision
    (folder / "handler.py").write_text((folder / "handler.py").read_text() + "\n# second\n")
    new = deploy(platform, folder, traffic=False).revision
    platform.set_traffic("counter", [Target(old, 60), Target(new, 40, "next")])
    before = platform.status()
    with Publisher(platform) as publisher:
        publisher.more(20)
        node = pid_of(platform, "node")
        family = [node, *children(node)]
        assert len(family) >= 5  # gateway, broker, pool and at least one instance
        os.kill(node, signal.SIGKILL)
        until(lambda: not any(exists(pid) for pid in family), "the end of every process")
    with pytest.raises(NotRunningError):
        platform.functions()
    again = local(tmp_path / "home")
    again.up()
    try:
        addresses = {part.name: part.address for part in again.status().components}
        assert addresses["gateway"] == next(part.address for part in before.components if part.name == "gateway")
        assert addresses["broker"] == next(part.address for part in before.components if part.name == "broker")
        assert set(again.function("counter").traffic) == {Target(old, 60), Target(new, 40, "next")}
        assert again.invoke("counter", tag="next", method="GET").headers["shoal-revision"] == new
        assert_all_seen(publisher, record)
    finally:
        again.down()


@pytest.mark.parametrize("stage", ["check", "revision", "ready", "traffic"])
def test_a_node_killed_in_a_deployment_leaves_what_served_and_a_second_try_converges(
    platform: LocalPlatform, tmp_path: Path, stage: str
) -> None:
    code = "from shoal import http\n@http\ndef f():\n    return {'version': 1}\n"
    folder = write_function(tmp_path / "f", code)
    first = deploy(platform, folder).revision
    write_function(folder, code.replace("1", "2"))
    node, progress = pid_of(platform, "node"), platform.deploy(folder)
    while next(progress) != Stage(stage, "started"):
        pass
    os.kill(node, signal.SIGKILL)
    with suppress(NotRunningError):  # unless it was done before the signal came
        list(progress)
    again = local(tmp_path / "home")
    until(lambda: not again.running(), "the end of the node")
    again.up()
    try:
        before = again.function("f")
        assert sum(target.percent for target in before.traffic) == 100
        assert json.loads(again.invoke("f").body)["version"] in {1, 2}
        done = deploy(again, folder)
        assert json.loads(again.invoke("f").body)["version"] == 2
        assert {item.name for item in again.function("f").revisions} == {first, done.revision}
        kept = {path.name for path in again.home.revisions.iterdir()}
        assert kept == {first, done.revision}
    finally:
        again.down()


@pytest.mark.triton
def test_a_killed_triton_comes_back_with_its_models(tmp_path: Path) -> None:
    prepared()
    write_model(tmp_path / "triton-repo", "same", "identity")
    code = """
        from array import array
        from shoal import Model, http

        model = Model("same")

        @http
        async def call():
            return (await model(x=array("f", [1, 2, 3])))["y"].tolist()
    """
    platform = local(tmp_path / "home", fake_pool=False)
    platform.up()
    try:
        deploy(platform, write_function(tmp_path / "caller", code))
        assert json.loads(platform.invoke("caller").body) == [1, 2, 3]
        (triton,) = children(pid_of(platform, "pool"))
        os.kill(triton, signal.SIGKILL)
        until(lambda: platform.invoke("caller").status == 200, "an answer of the new Triton")
        pool = pid_of(platform, "pool")
        os.kill(pool, signal.SIGKILL)
        until(lambda: pid_of(platform, "pool") not in (0, pool), "a new pool")
        reply = until(
            lambda: (r := platform.invoke("caller")).status == 200 and r, "an answer after the pool's end"
        )
        assert json.loads(reply.body) == [1, 2, 3]
    finally:
        platform.down()


def test_down_leaves_no_process_and_up_goes_on(tmp_path: Path) -> None:
    platform = local(tmp_path / "home")
    platform.up()
    deploy(platform, write_function(tmp_path / "f", "from shoal import http\n@http\ndef f():\n    return {}\n"))
    node = pid_of(platform, "node")
    family = [node, *children(node)]
    assert platform.down() is True
    assert [pid for pid in family if exists(pid)] == []
    assert not platform.running()
    assert platform.down() is False
    platform.up()
    assert platform.invoke("f").status == 200
    platform.down()


def test_a_second_up_says_that_it_runs(platform: LocalPlatform, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="already running"):
        local(tmp_path / "home").up()
    assert platform.status().components


def test_files_of_a_dead_node_confuse_nobody(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)
    (home / "run" / "node.json").write_text(json.dumps({"pid": os.getpid()}))
    for name in ("node", "gateway", "broker", "pool"):
        (home / "run" / f"{name}.sock").write_text("no socket at all")
    (home / "run" / "node.lock").touch()
    platform = local(home)
    assert platform.running() is False
    assert platform.down() is False
    platform.up()
    assert platform.running() is True
    platform.down()


def test_a_port_that_is_taken_is_told_with_the_way_out(tmp_path: Path) -> None:
    taken = sockets.listen()
    try:
        platform = LocalPlatform(
            tmp_path / "home",
            gateway_port=sockets.port_of(taken),
            broker_port=0,
            fake_pool=True,
            dies_with_caller=True,
        )
        with pytest.raises(UsageError, match=f"port {sockets.port_of(taken)} for the gateway is taken") as raised:
            platform.up()
        assert "--port 0" in raised.value.hint
        assert not platform.running()
    finally:
        taken.close()


def test_without_a_platform_every_call_says_how_to_start_it(tmp_path: Path) -> None:
    platform = local(tmp_path / "home")
    for call in (platform.status, platform.functions, lambda: platform.invoke("f")):
        with pytest.raises(NotRunningError, match="not running") as raised:
            call()
        assert raised.value.hint == "shoal up"


_OWNER = """
import sys
from pathlib import Path
from shoal.platform.local.client import LocalPlatform
LocalPlatform(Path(sys.argv[1]), gateway_port=0, broker_port=0, fake_pool=True, dies_with_caller=True).up()
print("up", flush=True)
sys.stdin.read()
"""


def test_a_platform_tied_to_its_caller_ends_with_it(tmp_path: Path) -> None:
    platform = local(tmp_path / "home")
    argv = [sys.executable, "-c", _OWNER, str(tmp_path / "home")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        family = [pid_of(platform, name) for name in ("node", "gateway", "broker", "pool")]
        os.kill(owner.pid, signal.SIGKILL)
    until(lambda: not any(exists(pid) for pid in family), "the end of the platform")
    assert not platform.running()
