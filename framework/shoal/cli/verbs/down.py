"""``shoal down``: end the local platform."""

from __future__ import annotations

import click

from shoal.cli import options, terminal
from shoal.cli.session import Session, pass_session


@click.command("down")
@options.common
@pass_session
def command(session: Session) -> None:
    """End the local platform.

    Running requests are answered first. Functions, revisions and events stay and are there again after 'shoal up'.
    """
    was_up = session.platform.down()
    if session.as_json:
        terminal.out_json({"stopped": was_up})
    else:
        terminal.note("the platform is down" if was_up else "the platform was not running")
