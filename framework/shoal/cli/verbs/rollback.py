"""``shoal rollback``: back to the split before."""

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
    """Bring back the split before the newest change; again goes further back.

    The percents return as they were, 90/10 as 90/10; tags stay where they are. Never forward: after a rollback
    'shoal traffic' sends traffic to the newer revision again.
    """
    function = session.platform.rollback(name)
    if session.as_json:
        terminal.out_json({"function": function.name, "traffic": [asdict(target) for target in function.traffic]})
        return
    for line in show.traffic(function):
        terminal.out(line)
