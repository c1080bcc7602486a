"""``shoal dev``: deploy again on every save."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click

from shoal.cli import exits, failures, options, progress, terminal
from shoal.cli.session import Session, pass_session
from shoal.cli.verbs import deploy, up
from shoal.core.errors import ShoalError, UsageError
from shoal.core.hashing import tree_files
from shoal.platform.port import Deployment


@click.command("dev")
@options.folder
@options.common
@pass_session
def command(session: Session, folder: Path) -> int:
    """Deploy a folder again whenever a file in it is saved.

    Starts the platform if need be. Each save that changes something sends all traffic to its revision; a folder
    that is deployed as it is leaves the split alone. A mistake is shown and the last good revision goes on serving.
    Ctrl-C stops watching; function and platform stay up.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="shoal dev functions/NAME")
    if not session.platform.running():
        progress.follow(up.start(session))
    seen = fingerprint(folder)
    good = _attempt(session, folder, None)
    terminal.note(terminal.faint(f"watching {folder}; Ctrl-C ends"))
    try:
        for _ in session.watch(folder):
            if (now := fingerprint(folder)) != seen:
                seen = now
                terminal.note()
                good = _attempt(session, folder, good)
    except KeyboardInterrupt:
        terminal.note("\nstopped watching")
    return exits.OK


def fingerprint(folder: Path) -> frozenset[tuple[str, int, int]]:
    """Tell states of a folder apart: each file that counts with its time of change and size.

    What was saved while a deployment ran is seen afterwards, which a watcher's notices alone would not promise.
    """
    found = set()
    for file in tree_files(folder):
        with suppress(OSError):  # gone since it was listed: an editor replaces files
            stat = (folder / file).stat()
            found.add((str(file), stat.st_mtime_ns, stat.st_size))
    return frozenset(found)


def _attempt(session: Session, folder: Path, good: Deployment | None) -> Deployment | None:
    """Deploy once; on a mistake show it and keep the last good revision."""
    try:
        deployment = deploy.run(session, folder, traffic=True)
    except ShoalError as error:
        failures.handle(error, session)
        if good is not None:
            terminal.note(f"{good.revision} goes on serving at {good.url}")
        return good
    deploy.tell(deployment)
    if session.as_json:
        terminal.out_json({"revision": deployment.revision, "created": deployment.created, "url": deployment.url})
    else:
        terminal.out(f"{deployment.revision}  {deployment.url}")
    return deployment
