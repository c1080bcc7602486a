"""Exit codes: what a script may rely on."""

from __future__ import annotations

from typing import Final

from shoal.core import errors

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_RUNNING: Final = 3
NOT_FOUND: Final = 4
CONFLICT: Final = 5
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141  # 128 + SIGPIPE, as of a program the signal ended

MEANINGS: Final = {
    OK: "done",
    FAILED: "the operation failed",
    USAGE: "the command, a file or a name breaks a rule",
    NOT_RUNNING: "the platform is not running",
    NOT_FOUND: "no such function or revision",
    CONFLICT: "the state is not what the command needs",
    INTERRUPTED: "interrupted by Ctrl-C",
}

_CODES: Final[tuple[tuple[type[errors.ShoalError], int], ...]] = (
    (errors.UsageError, USAGE),
    (errors.NotRunningError, NOT_RUNNING),
    (errors.NotFoundError, NOT_FOUND),
    (errors.ConflictError, CONFLICT),
)


def code_of(error: errors.ShoalError) -> int:
    """Give the exit code for an error of the tree."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)
