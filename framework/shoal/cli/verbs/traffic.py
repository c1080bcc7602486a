"""``shoal traffic``: show or change the split."""

from __future__ import annotations

from dataclasses import asdict

import click

from shoal.cli import options, show, split, terminal
from shoal.cli.session import Session, pass_session
from shoal.platform.port import FunctionStatus


@click.command("traffic")
@options.function_name
@click.argument("shares", metavar="[REVISION=PERCENT]...", nargs=-1)
@click.option("--tag", "tags", metavar="REVISION=TAG", multiple=True, help="Give a revision an address of its own.")
@click.option("--untag", metavar="TAG", multiple=True, help="Remove a tag.")
@options.common
@pass_session
def command(
    session: Session, name: str, shares: tuple[str, ...], tags: tuple[str, ...], untag: tuple[str, ...]
) -> None:
    """Show or change how traffic is split between revisions.

    A REVISION is its name, its number, a tag, or @latest. Percents sum to 100; one revision may go without and gets
    the rest. Tags stay until moved or removed.

    \b
      shoal traffic filetype 1=90 2=10
      shoal traffic filetype @latest=5 1
      shoal traffic filetype --tag 2=canary
    """
    function = session.platform.function(name)
    if shares or tags or untag:
        function = _change(session, function, shares, tags, untag)
    if session.as_json:
        terminal.out_json({"function": function.name, "traffic": [asdict(target) for target in function.traffic]})
        return
    for line in show.traffic(function):
        terminal.out(line)


def _change(
    session: Session,
    function: FunctionStatus,
    shares: tuple[str, ...],
    tags: tuple[str, ...],
    untag: tuple[str, ...],
) -> FunctionStatus:
    wanted = split.percents(shares, function) if shares else split.shares_of(function)
    kept = split.retagged(function, options.pairs(tags, "REVISION=TAG"), untag)
    return session.platform.set_traffic(function.name, split.targets(function, wanted, kept))
