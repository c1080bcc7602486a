"""Starting and ending the node from outside: a process of its own that outlives the command that started it."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from shoal.core import lifeline, limits, proctree
from shoal.core.errors import ConflictError, NotRunningError, PlatformError, UsageError
from shoal.core.problems import from_problem
from shoal.platform.local import logfiles, unixhttp
from shoal.platform.local.layout import HOME_VARIABLE, Home

START_SECONDS_MAX: Final = 120.0
KILL_SECONDS_MAX: Final = 30.0
_REASON_LINES: Final = 5
_POLL_SECONDS: Final = 0.02


def is_alive(home: Home) -> bool:
    """Say whether a node runs in this home: whether somebody holds its lock."""
    try:
        descriptor = os.open(home.lock, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UsageError(f"{home.lock} cannot be opened: {error.strerror}", hint=f"{HOME_VARIABLE}=DIR") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def start(home: Home, arguments: Sequence[str], *, dies_with_caller: bool) -> None:
    """Start a node and wait until gateway and broker serve; raises why it does not start."""
    home.make()
    if is_alive(home):
        raise ConflictError(f"the platform in {home.root} is already running", hint="shoal status")
    reader, writer = os.pipe()
    try:
        _spawn(home, [*arguments, "--report-fd", str(writer)], writer, dies_with_caller=dies_with_caller)
        os.close(writer)
        message = _report(reader)
    finally:
        os.close(reader)
    if "problem" in message:
        raise from_problem(message["problem"])
    if not message:
        said = "".join(f"\n  | {line}" for line in logfiles.tail([home.log("node")], _REASON_LINES))
        raise PlatformError(f"the node ended while it started{said}", hint="shoal logs node")


def stop(home: Home) -> bool:
    """End the node and wait until each process of the platform is gone; says whether there was one.

    Asks first; a node that does not answer is ended by SIGTERM, and by SIGKILL when even that does not help.
    """
    if not is_alive(home):
        _clear(home)
        return False
    node = _node_pid(home)
    family = proctree.family(node)
    with suppress(NotRunningError):
        unixhttp.call(home.socket("node"), "POST", "/v1/stop", timeout_s=KILL_SECONDS_MAX)
    if not _until(lambda: not is_alive(home), limits.NODE_STOP_SECONDS_MAX):
        _end(node, signal.SIGTERM)
        if not _until(lambda: not is_alive(home), KILL_SECONDS_MAX):
            _end(node, signal.SIGKILL)
            _until(lambda: not is_alive(home), KILL_SECONDS_MAX)
    for pid, born in family.items():
        if pid != node and not is_alive(home):
            proctree.kill(pid, born)  # a node that was killed leaves what functions started
    if not _until(lambda: not any(proctree.same(pid, born) for pid, born in family.items()), KILL_SECONDS_MAX):
        left = [pid for pid, born in family.items() if proctree.same(pid, born)]
        raise PlatformError(f"processes of the platform are still there: {left}")
    _clear(home)
    return True


def _clear(home: Home) -> None:
    """End and remove what a node that was killed left; nothing while another starts, which does so itself."""
    from shoal.pool.server import sweep_shared_memory  # not needed by any other command

    try:
        descriptor = os.open(home.lock, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _until(lambda: not proctree.end_orphans(home.run, 0), KILL_SECONDS_MAX)
        sweep_shared_memory()
        for left in home.run.glob("*.sock"):
            left.unlink(missing_ok=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


def _spawn(home: Home, arguments: Sequence[str], fd: int, *, dies_with_caller: bool) -> None:
    argv = [sys.executable, "-P", "-m", "shoal.platform.local.node", "--home", str(home.root), *arguments]
    with home.log("node").open("ab") as log:
        child = subprocess.Popen(
            lifeline.tied(argv) if dies_with_caller else argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=home.root,
            pass_fds=(fd,),
            start_new_session=True,
        )
    child.returncode = 0  # nobody waits for it here: it is meant to outlive this process


def _report(reader: int) -> dict[str, Any]:
    """Read the node's one line; empty when it ended without a word."""
    ready, _, _ = select.select([reader], [], [], START_SECONDS_MAX)
    if not ready:
        raise PlatformError(f"the node did not start within {START_SECONDS_MAX:g} s", hint="shoal logs node")
    line = os.read(reader, 64 * 2**10)
    found: dict[str, Any] = json.loads(line) if line.strip() else {}
    return found


def _node_pid(home: Home) -> int:
    """Give the pid the node wrote down; only true while the lock is held."""
    try:
        return int(json.loads(home.card.read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return 0


def _end(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        if pid:
            os.kill(pid, number)


def _until(condition: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
