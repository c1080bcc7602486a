"""``shoal status``: the platform, or one function."""

from __future__ import annotations

from dataclasses import asdict

import click

from shoal.cli import options, show, terminal
from shoal.cli.session import Session, pass_session


@click.command("status")
@click.argument("name", metavar="[NAME]", required=False)
@options.common
@pass_session
def command(session: Session, name: str | None) -> None:
    """Show the platform's parts, the models and the functions, or one function with all its revisions."""
    for line in _one(session, name) if name else _all(session):
        terminal.out(line)


def _one(session: Session, name: str) -> list[str]:
    session.function = name
    function = session.platform.function(name)
    if session.as_json:
        terminal.out_json(asdict(function))
        return []
    return show.whole(function, session.clock.now())


def _all(session: Session) -> list[str]:
    status, functions = session.platform.status(), session.platform.functions()
    if session.as_json:
        terminal.out_json(asdict(status) | {"functions": [asdict(one) for one in functions]})
        return []
    return show.overview(status, functions, session.clock.now())
