"""From an exception to what a person reads: ``error:``, ``hint:`` with the next command, and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import click

from shoal.cli import exits, terminal
from shoal.cli.main import explain_missing
from shoal.cli.session import Session
from shoal.cli.text import closest, instant, one_line
from shoal.core import errors

_ADVICE: dict[type[errors.ShoalError], str] = {
    errors.NotRunningError: "shoal up",
    errors.NotFoundError: "shoal status",
    errors.ConflictError: "shoal status",
    errors.DeployError: "shoal check FOLDER",
    errors.PoolUnreachableError: "shoal status",
}


def handle(error: BaseException, session: Session) -> int:
    """Report ``error`` and give the exit code; what is not an error to report is raised again."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case KeyboardInterrupt() | click.Abort() | EOFError():
            terminal.note("\ninterrupted")
            return exits.INTERRUPTED
        case BrokenPipeError():
            return broken_pipe()
        case click.exceptions.NoArgsIsHelpError():
            terminal.note(error.format_message())
            return exits.USAGE
        case click.ClickException():
            return _usage(error, session)
        case errors.ShoalError():
            _tell(error.message, error.hint or _advice(error, session), session, error.code)
            return exits.code_of(error)
        case ModuleNotFoundError() if not (error.name or "").startswith("shoal"):
            with suppress(ModuleNotFoundError):
                return explain_missing(error)
            return _internal(error, session)
        case Exception():
            return _internal(error, session)
    raise error


def _usage(error: click.ClickException, session: Session) -> int:
    message = error.format_message().rstrip(".")
    if message[1:2].islower():
        message = message[:1].lower() + message[1:]
    hint = getattr(error, "hint", "") or _help_of(error)
    _tell(message, hint, session, "usage")
    return exits.USAGE


def _help_of(error: click.ClickException) -> str:
    ctx = getattr(error, "ctx", None)
    return f"{ctx.command_path if ctx else 'shoal'} --help"


def _advice(error: errors.ShoalError, session: Session) -> str:
    if isinstance(error, errors.NotFoundError) and (close := _close_function(session)):
        return f"did you mean {close!r}? 'shoal status' lists all functions"
    advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), "")
    if advice.startswith("shoal check") and session.verb == "check":
        return ""  # what was just run
    return advice.replace("FOLDER", str(session.folder or "FOLDER"))


def _close_function(session: Session) -> str:
    with suppress(Exception):  # advice must not fail the report
        names = [one.name for one in session.platform.functions()]
        return "" if session.function in names else closest(session.function, names)
    return ""


def _tell(message: str, hint: str, session: Session, code: str) -> None:
    if session.as_json:
        terminal.out_json({"error": {"code": code, "message": message, "hint": hint}})
    first, *rest = message.splitlines() or [""]
    terminal.note(f"{terminal.bad('error:')} {first}")
    for line in rest:
        terminal.note(f"       {line}")
    if hint:
        terminal.note(f"{terminal.strong('hint:')} {hint}")


def broken_pipe() -> int:
    """Whoever read our output has gone: say nothing, also not when Python flushes on exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return exits.BROKEN_PIPE


def _internal(error: Exception, session: Session) -> int:
    message = f"internal: {type(error).__name__}: {one_line(str(error)) or 'no message'}"
    path = log_file(session.home)
    try:
        _write_traceback(path, error, instant(session.clock.now()))
    except OSError:
        _tell(message, "", session, "internal")
    else:
        _tell(message, f"the traceback is in {path}", session, "internal")
    return exits.FAILED


def log_file(home: Path | None) -> Path:
    """Where tracebacks of unexpected exceptions go."""
    root = home or Path(os.environ.get("SHOAL_HOME") or Path.home() / ".shoal")
    return root / "logs" / "cli.log"


def _write_traceback(path: Path, error: Exception, moment: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = "".join(traceback.format_exception(error))
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as file:
        file.write(f"{moment} shoal {' '.join(sys.argv[1:2])}\n{text}\n")
