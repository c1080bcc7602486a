"""Options that several verbs share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from shoal.cli import text
from shoal.cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])


def check_path(path: Path) -> Path:
    """Give ``path`` back if the system can look it up at all; UsageError for a loop or a name too long."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return path  # what is missing, the verb says
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise click.UsageError(f"{text.one_line(str(path), 60)!r} is no usable path: {reason}") from None
    return path


def _set(attribute: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def callback(ctx: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        if isinstance(value, Path):
            check_path(value)
        if value:
            setattr(ctx.ensure_object(Session), attribute, value)
        return value

    return callback


def common(function: F) -> F:
    """Add ``--json`` and what says which platform is meant; all end up in the session."""
    function = _text_option("--namespace", "NAME", "Of the cluster.  [default: the context's]")(function)
    function = _text_option("--context", "NAME", "Of the kubeconfig.  [default: its current one]")(function)
    function = click.option(
        "--target",
        type=click.Choice(["local", "cluster"]),
        help="Which platform.  [default: SHOAL_TARGET, then the settings file, then local]",
        expose_value=False,
        callback=_set("target"),
    )(function)
    function = click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="SHOAL_HOME",
        help="Folder of the platform's state.  [default: SHOAL_HOME, then ~/.shoal]",
        expose_value=False,
        callback=_set("home"),
    )(function)
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print JSON on stdout.",
        expose_value=False,
        is_eager=True,
        callback=_set("as_json"),
    )(function)


def _text_option(flag: str, metavar: str, help_text: str) -> Callable[[F], F]:
    return click.option(
        flag, metavar=metavar, help=help_text, expose_value=False, callback=_set(flag.removeprefix("--"))
    )


def function_name(function: F) -> F:
    """Add the argument NAME, a function's name."""
    return click.argument("name", metavar="NAME", callback=_set("function"))(function)


def folder(function: F) -> F:
    """Add the argument FOLDER; the verb itself says what is wrong with it."""
    return click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path), callback=_set("folder"))(
        function
    )


def pairs(values: tuple[str, ...], what: str) -> list[tuple[str, str]]:
    """Split ``key=value`` arguments; UsageError names the one that is none."""
    found = []
    for value in values:
        key, sign, rest = value.partition("=")
        if not key or not sign:
            raise click.UsageError(f"{value!r} is not {what}")
        found.append((key.strip(), rest.strip()))
    return found
