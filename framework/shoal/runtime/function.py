"""The parts of one function process, put together once at its start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from shoal.core.limits import ROUTES_KEPT_MAX
from shoal.runtime.accesslog import Log
from shoal.runtime.admission import Admission
from shoal.runtime.handlers import Registry
from shoal.runtime.messages import Request
from shoal.runtime.metrics import Metrics
from shoal.runtime.readiness import Readiness
from shoal.runtime.reports import Reports
from shoal.runtime.routes import HttpRoute
from shoal.runtime.settings import Settings
from shoal.runtime.trace import Bits
from shoal.runtime.watch import Watches


@dataclass(slots=True)
class Function:
    """What every request of a process shares."""

    settings: Settings
    registry: Registry
    loop: asyncio.AbstractEventLoop
    executor: ThreadPoolExecutor  # for synchronous handlers
    admission: Admission
    readiness: Readiness
    metrics: Metrics
    log: Log
    reports: Reports
    bits: Bits  # randomness for trace and span ids
    monotonic: Callable[[], float]  # seconds; the loop's own time is cached and counts milliseconds
    watches: Watches
    routes: dict[tuple[str, str], HttpRoute] = field(default_factory=dict)  # method and path -> what dispatch chose
    uploads: int = 0  # bodies on their way in that did not come in one piece

    def remember(self, request: Request, route: HttpRoute) -> None:
        """Keep what dispatch chose for a method and a path; without event handlers nothing else decides."""
        if not self.registry.events and self.registry.sole is None and len(self.routes) < ROUTES_KEPT_MAX:
            self.routes[request.method, request.path] = route
