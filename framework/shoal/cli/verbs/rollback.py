"""``shoal rollback``: back to where traffic was."""

from __future__ import annotations

from dataclasses import asdict

import click

from shoal.cli import options, show, terminal
from shoal.cli.session import Session, pass_session


@click.command("rollback")
@options.function_name
@options.common
@pass_session
def command(session: Session, name: str) -> None:
    """Send all traffic back to the revision that had it before the newest change."""
    function = session.platform.rollback(name)
    if session.as_json:
        terminal.out_json({"function": function.name, "traffic": [asdict(target) for target in function.traffic]})
        return
    for line in show.traffic(function):
        terminal.out(line)
