"""The command ``shoal``: verbs imported when they are called, errors turned into advice in one place.

A verb's module is ``shoal.cli.verbs.<verb>`` and its command is called ``command``. The texts of ``shoal --help``
are here, so that listing the verbs imports none of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NoReturn

import click
from click.shell_completion import shell_complete

import shoal
from shoal.cli import exits, failures, terminal
from shoal.cli.session import Session
from shoal.cli.text import closest

VERBS: Final = {
    "up": "Start the local platform and wait until functions can be deployed.",
    "down": "End the local platform.",
    "new": "Make a folder with a function that works at once.",
    "check": "Check a function's folder without deploying it.",
    "render": "Print a function's manifests for a cluster.",
    "deploy": "Deploy a function's folder as a revision.",
    "dev": "Deploy a folder again whenever a file in it is saved.",
    "invoke": "Call a function.",
    "event": "Publish a CloudEvent to a broker.",
    "status": "Show the platform, or one function.",
    "traffic": "Show or change how traffic is split between revisions.",
    "rollback": "Bring back the split before the newest change; again goes further back.",
    "logs": "Print a function's log.",
    "delete": "Remove a function with its revisions.",
    "version": "Print the version.",
}
_COMPLETE: Final = "_SHOAL_COMPLETE"


class Root(click.Group):
    """A group whose commands are modules, and whose failures are lines of text and a code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the verbs in the order people need them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb's module and give its command."""
        if cmd_name not in VERBS:
            return None
        command = import_module(f"shoal.cli.verbs.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or say which one was probably meant."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            close = closest(args[0], VERBS)
            error = click.UsageError(f"no verb {args[0]!r}", ctx)
            error.hint = f"did you mean: shoal {close}" if close else "shoal --help"  # type: ignore[attr-defined]
            raise error
        ctx.ensure_object(Session).verb = args[0] if args else ""
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs and the exit codes without importing a verb."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in exits.MEANINGS.items()])

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, obj: Session | None = None, **_: Any
    ) -> NoReturn:
        """Run one command and exit with its code."""
        session = obj if obj is not None else Session()
        name = prog_name or "shoal"
        if instruction := os.environ.get(_COMPLETE):
            sys.exit(shell_complete(self, {}, name, _COMPLETE, instruction))
        terminal.take_any_text()
        try:
            code = self._run(name, list(sys.argv[1:] if args is None else args), session)
            sys.stdout.flush()
        except BrokenPipeError:
            code = failures.broken_pipe()
        sys.exit(code)

    def _run(self, name: str, args: list[str], session: Session) -> int:
        try:
            with self.make_context(name, args, obj=session) as ctx:
                code = self.invoke(ctx)
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:
            return failures.handle(error, session)
        return code if isinstance(code, int) else exits.OK


@click.command(
    "shoal",
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Data goes to stdout, progress to stderr; every verb takes --json.",
)
@click.version_option(shoal.__version__, prog_name="shoal", message="%(prog)s %(version)s")
def root() -> None:
    """Run Python functions that scale to zero and share one pool of models.

    \b
    Start here:
      shoal up
      shoal new greet && shoal deploy greet
      shoal invoke greet '{"name": "Ada"}'
    """
