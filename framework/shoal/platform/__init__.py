"""Where functions run: the port, a laptop in ``local``, a cluster in ``knative``; ``open_platform`` chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.core.errors import UsageError

if TYPE_CHECKING:
    from shoal.platform.port import Platform

TARGETS = ("local", "cluster")


def open_platform(target: str = "local", **options: Any) -> Platform:
    """Give the platform behind ``target``; nothing is started, asked or waited for.

    ``options`` go to the platform's class (local: ``home``, ``gateway_port``, ``broker_port``, ``fake_pool``;
    cluster: ``settings``, ``cluster``, ``supply``).
    Raises UsageError for a target there is none of.
    """
    if target == "local":
        from shoal.platform.local.client import LocalPlatform

        return LocalPlatform(**options)
    if target == "cluster":
        from shoal.platform.knative.adapter import KnativePlatform

        return KnativePlatform(**options)
    raise UsageError(f"there is no target {target!r}; there is {', '.join(TARGETS)}", hint="shoal --target local …")
