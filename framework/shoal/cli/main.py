"""The console entry: ``shoal``, which says how to get what it lacks instead of failing with an import error."""

from __future__ import annotations

import sys
from importlib.util import find_spec

_EXTRA = ("click", "rich", "yaml", "pydantic", "pydantic_core", "aiohttp", "watchfiles", "tritonclient", "grpc")


def run() -> None:
    """Run the command line and exit with its code (``shoal --help`` lists the codes)."""
    try:
        from shoal.cli.root import root
    except ModuleNotFoundError as error:
        sys.exit(explain_missing(error))
    root.main()


def check_extra() -> None:
    """Raise ModuleNotFoundError for the first absent package of the extra, before any process is started."""
    for name in _EXTRA:
        if find_spec(name) is None:
            raise ModuleNotFoundError(name=name)


def explain_missing(error: ModuleNotFoundError) -> int:
    """Tell on stderr which package is missing and how to get it; re-raise when it is none of the extra's."""
    name = (error.name or "").partition(".")[0]
    if name not in _EXTRA:
        raise error
    print(f"error: the package {name!r} is not installed, which the command line needs", file=sys.stderr)
    print("hint: pip install 'shoal[platform]'", file=sys.stderr)
    return 1


if __name__ == "__main__":
    run()
