"""The state file: every change whole or not at all, rules of splits, the way back."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal.core.errors import ConflictError, NotFoundError, PlatformError, StoreError, UsageError
from shoal.platform.local.events_store import EventStore
from shoal.platform.local.records import RunSpec, TriggerSpec
from shoal.platform.local.state import SCHEMA_VERSION, State
from shoal.platform.port import Target


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path / "platform.db")
    yield opened
    opened.close()


def deploy(state: State, function: str = "f", digest: str = "d", *, traffic: bool = True) -> str:
    made = state.add_revision(function, digest=digest, spec=RunSpec(), models={"m": "m--1"}, now=1.0)
    targets = [Target(made.name, 100)] if traffic else None
    state.publish_revision(made.name, targets, 2.0)
    return made.name


def test_a_revision_comes_back_as_it_was_put(state: State) -> None:
    spec = RunSpec(concurrency=3, env={"A": "b"}, triggers=(TriggerSpec(filter={"type": "x"}, retry=2),))
    made = state.add_revision("f", digest="abc", spec=spec, models={"m": "m--1"}, now=5.0)
    assert (made.name, made.number, made.spec, made.models) == ("f-00001", 1, spec, {"m": "m--1"})
    assert (made.digest, made.created, made.ready) == ("abc", 5.0, False)


def test_a_revision_counts_only_once_it_is_published(state: State) -> None:
    made = state.add_revision("f", digest="d", spec=RunSpec(), models={}, now=1.0)
    assert state.function_names() == []
    assert [item.name for item in state.unfinished()] == [made.name]
    state.publish_revision(made.name, None, 2.0)
    assert state.function_names() == ["f"]
    assert state.unfinished() == []


def test_numbers_of_failed_revisions_are_not_used_again(state: State) -> None:
    deploy(state)
    failed = state.add_revision("f", digest="d", spec=RunSpec(), models={}, now=1.0)
    state.remove_revision(failed.name)
    assert deploy(state) == "f-00003"


def test_a_function_whose_only_revision_failed_is_forgotten(state: State, tmp_path: Path) -> None:
    failed = state.add_revision("f", digest="d", spec=RunSpec(), models={}, now=1.0)
    state.remove_revision(failed.name)
    with sqlite3.connect(tmp_path / "platform.db") as other:
        assert other.execute("SELECT count(*) FROM functions").fetchone() == (0,)
    other.close()


def test_a_revision_in_the_split_cannot_be_removed(state: State) -> None:
    name = deploy(state)
    with pytest.raises(ConflictError, match="in the traffic"):
        state.remove_revision(name)


def test_an_unknown_function_names_those_there_are(state: State) -> None:
    deploy(state, "alpha")
    with pytest.raises(NotFoundError, match=r"no function 'beta'; there is alpha"):
        state.require("beta")


@pytest.mark.parametrize(
    ("targets", "error", "text"),
    [
        ([Target("f-00001", 90)], UsageError, "sum to 90"),
        ([Target("f-00001", 101)], UsageError, "between 0 and 100"),
        ([Target("f-00009", 100)], NotFoundError, "it has f-00002, f-00001"),
        ([Target("f-00001", 50, "a"), Target("f-00002", 50, "a")], UsageError, "one revision"),
        ([Target("f-00001", 100, "Bad Tag")], UsageError, "tag name"),
        ([], UsageError, "sum to 0"),
    ],
)
def test_a_split_that_breaks_a_rule_is_refused(
    state: State, targets: list[Target], error: type[Exception], text: str
) -> None:
    deploy(state)
    deploy(state, digest="e")
    before = state.traffic("f")
    with pytest.raises(error, match=text):
        state.set_traffic("f", targets, 3.0)
    assert state.traffic("f") == before


def test_rollback_goes_back_and_further_back_but_never_forward(state: State) -> None:
    first, second, third = deploy(state), deploy(state, digest="e"), deploy(state, digest="g")
    assert state.rollback("f", 3.0) == (Target(second, 100),)
    assert state.rollback("f", 4.0) == (Target(first, 100),)
    with pytest.raises(ConflictError, match="nothing before"):
        state.rollback("f", 5.0)
    state.set_traffic("f", [Target(third, 100)], 6.0)
    assert state.rollback("f", 7.0) == (Target(first, 100),)


def test_rollback_skips_changes_of_tags_and_keeps_the_tags(state: State) -> None:
    first, second = deploy(state), deploy(state, digest="e")
    state.set_traffic("f", [Target(second, 100), Target(first, 0, "old")], 3.0)
    assert state.rollback("f", 4.0) == (Target(first, 100, "old"),)


def test_setting_the_same_split_again_leaves_the_history(state: State) -> None:
    first, second = deploy(state), deploy(state, digest="e")
    for _ in range(3):
        state.set_traffic("f", [Target(second, 100)], 3.0)
    assert state.rollback("f", 4.0) == (Target(first, 100),)


def test_removing_a_function_removes_all_of_it(state: State, tmp_path: Path) -> None:
    deploy(state)
    deploy(state, "other")
    state.remove_function("f")
    assert state.function_names() == ["other"]
    with sqlite3.connect(tmp_path / "platform.db") as other:
        for table in ("revisions", "traffic"):
            assert other.execute(f"SELECT count(*) FROM {table} WHERE function = 'f'").fetchone() == (0,)
    other.close()


def test_a_full_disk_is_a_store_error_and_leaves_what_was(tmp_path: Path) -> None:
    state = State(tmp_path / "platform.db")
    name = deploy(state)
    state._db.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size for a limit below it
    with pytest.raises(StoreError, match=r"platform\.db cannot be read or written: .*full") as raised:
        state.remember("large", "x" * 100_000)
    assert raised.value.hint
    assert state.traffic("f") == (Target(name, 100),)
    state.close()


@pytest.mark.parametrize("damage", ["garbage", "truncated", "folder"])
@pytest.mark.parametrize(("store", "file"), [(State, "platform.db"), (EventStore, "broker.db")])
def test_a_broken_file_is_told_with_the_way_on(
    tmp_path: Path, damage: str, store: Callable[[Path], State | EventStore], file: str
) -> None:
    path = tmp_path / file
    store(path).close()
    match damage:
        case "garbage":
            path.write_text("words, and more than a header's worth of them " * 100)
        case "truncated":
            path.write_bytes(path.read_bytes()[:5000])
        case "folder":
            path.unlink()
            path.mkdir()
    Path(f"{path}-wal").write_bytes(b"")
    with pytest.raises(PlatformError, match="not a usable database") as raised:
        store(path)
    assert not isinstance(raised.value, StoreError)  # which may pass
    assert f"mv {path} {path}.broken && rm {path}-wal" in raised.value.hint
    assert "lost with it" in raised.value.hint


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    State(tmp_path / "platform.db").close()
    with sqlite3.connect(tmp_path / "platform.db") as other:
        other.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    other.close()
    with pytest.raises(PlatformError, match="newer shoal"):
        State(tmp_path / "platform.db")


_WRITER = """
import sys
from pathlib import Path
from shoal.platform.local.records import RunSpec
from shoal.platform.local.state import State
from shoal.platform.port import Target
state = State(Path(sys.argv[1]))
while True:
    made = state.add_revision("f", digest="d", spec=RunSpec(), models={}, now=1.0)
    state.publish_revision(made.name, [Target(made.name, 100)], 2.0)
    print(made.name, flush=True)
"""


def test_what_was_reported_before_kill_9_is_there_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "platform.db"
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        reported = [writer.stdout.readline().strip() for _ in range(20)][-1]
        os.kill(writer.pid, signal.SIGKILL)
        reported = ([line.strip() for line in writer.stdout.read().split("\n") if len(line) == 7] or [reported])[-1]
    state = State(path)
    assert state.revision(reported).ready
    assert [target.percent for target in state.traffic("f")] == [100]
    assert state.traffic("f")[0].revision >= reported
    state.close()
