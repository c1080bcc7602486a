"""``shoal deploy``: a folder becomes a revision."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from shoal.cli import options, progress, split, terminal
from shoal.cli.session import Session, pass_session
from shoal.core.errors import DeployError
from shoal.core.names import check_tag
from shoal.platform.port import Deployment


@click.command("deploy")
@options.folder
@click.option("--no-traffic", is_flag=True, help="Leave the split as it is; reach the revision by a tag.")
@click.option("--tag", metavar="TAG", default="", help="Give the revision an address of its own.")
@options.common
@pass_session
def command(session: Session, folder: Path, no_traffic: bool, tag: str) -> None:
    """Deploy a function's folder as a revision.

    The folder is checked, its models are loaded, handler and models are held against each other, and one instance
    must become ready; only then does all traffic move to it. When anything fails, what served before still serves.
    The same content as the newest revision makes nothing new and leaves the split as it is.
    """
    if tag:
        check_tag(tag)
    deployment = run(session, folder, traffic=not no_traffic)
    if tag:
        set_tag(session, deployment, tag)
    url = tag_url(deployment.url, tag) if tag else deployment.url
    if session.as_json:
        tell(deployment)
        terminal.out_json(asdict(deployment) | {"url": url, "tag": tag})
        return
    if deployment.created:
        terminal.note(f"{deployment.revision} is ready")
    elif not _stays(deployment):
        terminal.note(f"{deployment.revision} is up to date")
    for alias, version in deployment.models.items():
        terminal.note(terminal.faint(f"  model {alias} = {version}"))
    tell(deployment)
    terminal.out(url)


def tell(deployment: Deployment) -> None:
    """Say on stderr what a person may not expect: a split kept or replaced, a name taken over."""
    name, revision = deployment.function, deployment.revision
    if deployment.source_before:
        terminal.note(f"{name} was deployed from {deployment.source_before} before")
    if _stays(deployment):
        terminal.note(f"{revision} exists already; the split stays: {split.told(deployment.traffic)}")
        terminal.note(terminal.faint(f"  shoal traffic {name} {revision}=100 gives it all traffic"))
    if len(before := split.percents_of(deployment.replaced)) > 1:
        parts = "/".join(str(percent) for percent in sorted(before.values(), reverse=True))
        terminal.note(f"the split {parts} was replaced; shoal rollback {name} brings it back")


def _stays(deployment: Deployment) -> bool:
    """Whether the revision was there before, and not all traffic goes to it."""
    shares = split.percents_of(deployment.traffic)
    return not deployment.created and bool(shares) and shares != {deployment.revision: 100}


def run(session: Session, folder: Path, *, traffic: bool) -> Deployment:
    """Deploy, showing each stage; DeployError when the platform ends without a revision."""
    ended = progress.follow(session.platform.deploy(folder, traffic=traffic))
    if not ended:
        raise DeployError(f"the deployment of {folder} ended without a revision", hint="shoal status")
    return ended[-1]


def tag_url(url: str, tag: str) -> str:
    """Give the address of a tag: ``http://canary-filetype.localhost:8080``."""
    scheme, _, host = url.partition("://")
    return f"{scheme}://{tag}-{host}"


def set_tag(session: Session, deployment: Deployment, tag: str) -> None:
    """Point a tag at the deployed revision, moving it from another one if need be."""
    function = session.platform.function(deployment.function)
    tags = split.retagged(function, [(deployment.revision, tag)])
    session.platform.set_traffic(function.name, split.targets(function, split.shares_of(function), tags))
