"""``shoal delete``: remove a function."""

from __future__ import annotations

import click

from shoal.cli import options, terminal
from shoal.cli.session import Session, pass_session
from shoal.cli.text import count
from shoal.core.errors import UsageError
from shoal.platform.port import FunctionStatus


@click.command("delete")
@options.function_name
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@options.common
@pass_session
def command(session: Session, name: str, yes: bool) -> None:
    """Remove a function with its revisions, its triggers and its claim on models.

    Says what it will remove and asks; where nobody can answer, --yes is needed. The folder it was deployed from
    stays.
    """
    function = session.platform.function(name)
    terminal.note(_consequence(function))
    if not yes:
        _ask(name)
    session.platform.delete(name)
    if session.as_json:
        terminal.out_json({"deleted": name, "revisions": len(function.revisions)})
    else:
        terminal.note(f"{name} is deleted")


def _consequence(function: FunctionStatus) -> str:
    versions = sorted({version for one in function.revisions for version in one.models.values()})
    models = f", and its claim on {', '.join(versions)}" if versions else ""
    revisions = count(len(function.revisions), "revision")
    return f"removes {function.name} at {function.url}: {revisions}, its triggers{models}"


def _ask(name: str) -> None:
    if not terminal.is_person():
        raise UsageError("not confirmed, and nobody to ask", hint=f"shoal delete {name} --yes")
    if not click.confirm(f"remove {name}?", err=True):
        raise click.Abort
