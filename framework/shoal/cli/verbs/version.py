"""``shoal version``."""

from __future__ import annotations

import platform

import click

import shoal
from shoal.cli import options, terminal
from shoal.cli.session import Session, pass_session


@click.command("version")
@options.common
@pass_session
def command(session: Session) -> None:
    """Print the version of shoal and of the Python that runs it."""
    if session.as_json:
        terminal.out_json({"shoal": shoal.__version__, "python": platform.python_version()})
    else:
        terminal.out(f"shoal {shoal.__version__} (Python {platform.python_version()})")
