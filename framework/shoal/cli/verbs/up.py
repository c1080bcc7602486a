"""``shoal up``: start the local platform."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import click

from shoal.cli import options, progress, show, terminal
from shoal.cli.main import check_extra
from shoal.cli.session import Session, pass_session
from shoal.cli.text import table
from shoal.core.clock import Clock
from shoal.platform.port import PlatformStatus, Stage

_PORT = click.IntRange(0, 65535)


@click.command("up")
@click.option(
    "--port",
    type=_PORT,
    metavar="PORT",
    help="Of the gateway; 0: any free one.  [default: last, or 8080]",
)
@click.option(
    "--broker-port",
    type=_PORT,
    metavar="PORT",
    help="Of the broker; 0: any free one.  [default: last, or 8081]",
)
@click.option("--fake-pool", is_flag=True, help="Answer from the models' contracts, without an inference server.")
@options.common
@pass_session
def command(session: Session, port: int | None, broker_port: int | None, fake_pool: bool) -> None:
    """Start the local platform and wait until functions can be deployed.

    That is when gateway and broker answer. The pool may still be starting then: a deployment that needs a model
    waits for it. The platform listens on loopback only and goes on after this command ends, until 'shoal down'.
    State and logs are in one folder, SHOAL_HOME.
    """
    check_extra()
    asked = port is not None or broker_port is not None or fake_pool
    if session.platform.running() and not asked:
        terminal.note("the platform is already up")
        _show(session, session.platform.status())
        return
    session.platform = session.open(
        home=session.home, gateway_port=port, broker_port=broker_port, fake_pool=fake_pool or None
    )
    (status,) = progress.follow(start(session))
    _show(session, status)


def start(session: Session) -> Iterator[Stage | PlatformStatus]:
    """Start the platform as one stage, then give its status."""
    clock: Clock = session.clock
    begun = clock.monotonic()
    yield Stage("start", "started")
    try:
        status = session.platform.up()
    except BaseException:
        yield Stage("start", "failed", clock.monotonic() - begun)
        raise
    yield Stage("start", "done", clock.monotonic() - begun)
    yield status


def _show(session: Session, status: PlatformStatus) -> None:
    if session.as_json:
        terminal.out_json(asdict(status))
        return
    for line in table([show.state(part) for part in status.components]):
        terminal.out(line)
