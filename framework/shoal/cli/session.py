"""What every verb shares: which platform, which home, the clock; made once per run, replaced whole by tests."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import click

from shoal.core.clock import Clock, SystemClock

if TYPE_CHECKING:
    from shoal.platform.port import Platform, PlatformStatus

    class LocalPlatform(Platform, Protocol):
        """The port, on a machine where the command line may start and end it."""

        def up(self) -> PlatformStatus:
            """Start it; ConflictError when it runs already."""
            ...

        def down(self) -> bool:
            """End it with everything it runs; False when it was not running."""
            ...

        def running(self) -> bool:
            """Say whether it is up."""
            ...


def open_local(**options: Any) -> LocalPlatform:
    """Open the platform of this machine; costs no import before it is needed."""
    from shoal.platform import open_platform

    return cast("LocalPlatform", open_platform("local", **options))


def open_target(session: Session) -> LocalPlatform:
    """Open the platform that flags, environment or settings file choose; none of them: this machine's."""
    from shoal.platform import open_platform
    from shoal.platform.knative.settings import load

    settings = load(target=session.target, context=session.context, namespace=session.namespace)
    if settings.target == "local":
        return session.open(home=session.home)
    return cast("LocalPlatform", open_platform(settings.target, settings=settings))


def watch_folder(folder: Path) -> Iterable[object]:
    """Yield whenever files below ``folder`` may have been saved: at once on a save, else every second."""
    import watchfiles

    return watchfiles.watch(folder, raise_interrupt=True, yield_on_timeout=True, rust_timeout=1_000)


@dataclass
class Session:
    """One run of the command line."""

    home: Path | None = None
    target: str = ""  # local or cluster; default: the settings'
    context: str = ""  # of the kubeconfig
    namespace: str = ""  # of the cluster
    as_json: bool = False
    verb: str = ""
    function: str = ""  # the function the command names, for advice on a misspelt one
    folder: Path | None = None  # the function's folder the command names
    clock: Clock = field(default_factory=SystemClock)
    new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    open: Callable[..., LocalPlatform] = open_local  # this machine's
    choose: Callable[[Session], LocalPlatform] = open_target  # the target's
    watch: Callable[[Path], Iterable[object]] = watch_folder

    @functools.cached_property
    def platform(self) -> LocalPlatform:
        """The platform, opened on first use."""
        return self.choose(self)


pass_session = click.make_pass_decorator(Session)

__all__ = ["Session", "open_local", "pass_session"]
