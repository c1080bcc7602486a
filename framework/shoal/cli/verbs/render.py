"""``shoal render``: a function's manifests, for a repository that is applied by something else."""

from __future__ import annotations

from pathlib import Path

import click

from shoal.cli import options, terminal
from shoal.cli.session import Session, pass_session


@click.command("render")
@options.folder
@click.option(
    "--image", metavar="NAME@DIGEST", default="", help="Built and pushed already.  [default: build and push]"
)
@options.common
@pass_session
def command(session: Session, folder: Path, image: str) -> None:
    """Print a function's manifests for a cluster: its Knative Service and its Triggers.

    The same folder, image and models give the same bytes. The revision is named by its content and has all the
    traffic; nothing on a cluster is read or changed.
    """
    from shoal.platform.knative import render
    from shoal.platform.knative.manifests import of_folder
    from shoal.platform.knative.settings import load

    settings = load(target="cluster", context=session.context, namespace=session.namespace)
    documents = of_folder(folder, settings, image, terminal.note)
    if session.as_json:
        terminal.out_json(documents)
    else:
        terminal.out(render.text(documents).rstrip("\n"))
