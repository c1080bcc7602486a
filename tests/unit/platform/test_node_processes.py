"""Child processes: ends are told, nobody outlives the parent, restarts follow the table."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.core.clock import SystemClock
from shoal.platform.local.processes import Command, Process, describe_end, start
from shoal.platform.local.supervisor import (
    BACKOFF_SECONDS_MAX,
    TRANSITIONS,
    Event,
    State,
    Supervised,
    backoff,
    step,
)


def python(code: str, log: Path, **env: str) -> Command:
    return Command([sys.executable, "-c", code], {**os.environ, **env}, log)


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited 60 s for {what}"
        await asyncio.sleep(0.01)


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_the_end_of_a_process_reaches_all_who_wait(tmp_path: Path) -> None:
    process = Process(python("print('words'); raise SystemExit(7)", tmp_path / "log"))
    assert await asyncio.gather(process.wait(), process.wait()) == [7, 7]
    assert (process.running, process.returncode) == (False, 7)
    assert (tmp_path / "log").read_text() == "words\n"


async def test_stop_ends_politely_and_then_not(tmp_path: Path) -> None:
    polite = Process(python("import time; time.sleep(600)", tmp_path / "a"))
    deaf_code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    deaf = Process(python(deaf_code, tmp_path / "b"))
    await until(lambda: (tmp_path / "b").read_text() == "up\n", "the deaf process")
    assert await polite.stop(60.0) == -signal.SIGTERM
    assert await deaf.stop(0.1) == -signal.SIGKILL
    assert await deaf.stop(0.1) == -signal.SIGKILL


async def test_a_cancelled_wait_leaves_the_process(tmp_path: Path) -> None:
    process = Process(python("import time; time.sleep(600)", tmp_path / "log"))
    waiting = asyncio.create_task(process.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert process.running
    await process.stop(0.0)


def test_children_start_from_the_main_thread_only(tmp_path: Path) -> None:
    seen: list[BaseException] = []

    def work() -> None:
        try:
            start(python("pass", tmp_path / "log"))
        except RuntimeError as error:
            seen.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "main thread" in str(seen[0])


_PARENT = """
import os, sys, time
from pathlib import Path
from shoal.platform.local.processes import Command, start
child = start(Command([sys.executable, "-c", "import time; time.sleep(600)"], os.environ, Path(sys.argv[1])))
print(child.pid, flush=True)
time.sleep(600)
"""


async def test_a_child_dies_with_its_parent_also_after_kill_9(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _PARENT, str(tmp_path / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert exists(child)
        os.kill(parent.pid, signal.SIGKILL)
    await until(lambda: not exists(child), "the end of the child")


def test_every_pair_of_state_and_event_is_in_the_table_or_refused() -> None:
    for state, event in itertools.product(State, Event):
        if (state, event) in TRANSITIONS:
            assert step(state, event) in State
        else:
            with pytest.raises(ValueError, match="cannot be"):
                step(state, event)


def test_stop_is_possible_everywhere_and_only_stopped_is_final() -> None:
    assert all((state, Event.STOP) in TRANSITIONS for state in State)
    assert {target for (state, _), target in TRANSITIONS.items() if state is State.STOPPED} == {State.STOPPED}


def test_delays_double_up_to_the_limit() -> None:
    assert [backoff(count) for count in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert backoff(1000) == BACKOFF_SECONDS_MAX


async def test_a_killed_process_is_started_again_and_its_reason_kept(tmp_path: Path) -> None:
    started: list[int] = []
    code = "import time; print('last words', flush=True); time.sleep(600)"
    part = Supervised("part", python(code, tmp_path / "log"), SystemClock(), started=lambda: started.append(1))
    part.launch()
    first = part.pid
    await until(lambda: (tmp_path / "log").exists() and "words" in (tmp_path / "log").read_text(), "its words")
    os.kill(first, signal.SIGKILL)
    await until(lambda: part.pid not in (0, first), "a second start")
    assert (part.restarts, len(started), part.state) == (1, 2, State.RUNNING)
    assert part.reason == "signal SIGKILL: last words"
    await part.stop()
    assert (part.state, part.pid) == (State.STOPPED, 0)


async def test_a_process_that_keeps_failing_is_tried_again_and_can_be_stopped(tmp_path: Path) -> None:
    prepared: list[int] = []
    command = python("raise SystemExit('no luck')", tmp_path / "log")
    part = Supervised("part", command, SystemClock(), prepare=lambda: prepared.append(1))
    part.launch()
    await until(lambda: part.starts >= 3, "a third start")
    assert part.reason == "exit code 1: no luck"
    await part.stop()
    assert part.state is State.STOPPED
    assert len(prepared) == part.starts


async def test_what_fails_before_a_start_is_a_reason_and_tried_again(tmp_path: Path) -> None:
    failures: list[Exception] = [RuntimeError("a defect"), PermissionError("no entry")]

    def prepare() -> None:
        prepared.append(1)
        if len(prepared) > 1 and failures:
            raise failures.pop()

    prepared: list[int] = []
    command = python("import time; time.sleep(600)", tmp_path / "log")
    part = Supervised("part", command, SystemClock(), prepare=prepare)
    part.launch()
    os.kill(first := part.pid, signal.SIGKILL)
    await until(lambda: "no entry" in part.reason, "the reason")
    await until(lambda: part.pid not in (0, first), "a start after both failures")
    assert (failures, part.state) == ([], State.RUNNING)
    await part.stop()


async def test_a_program_that_is_not_there_is_a_reason_not_a_crash(tmp_path: Path) -> None:
    part = Supervised("part", Command(["/nonexistent"], {}, tmp_path / "log"), SystemClock())
    part.launch()
    assert part.state is State.BACKOFF
    assert "cannot be started" in part.reason
    await part.stop()


@pytest.mark.parametrize(("code", "text"), [(0, "exit code 0"), (-9, "signal SIGKILL"), (-50, "signal 50")])
def test_ends_have_words(code: int, text: str) -> None:
    assert describe_end(code) == text
