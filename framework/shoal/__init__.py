"""What a handler imports: ``from shoal import Model, http, event``.

The names resolve on first use, so that ``import shoal`` costs nothing and a handler loads only what it asks for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from shoal.core.errors import ModelError as ModelError
    from shoal.core.errors import NotFoundError as NotFoundError
    from shoal.core.errors import PoolError as PoolError
    from shoal.core.errors import RequestError as RequestError
    from shoal.runtime.events import CloudEvent as CloudEvent
    from shoal.runtime.handlers import event as event
    from shoal.runtime.handlers import http as http
    from shoal.runtime.handlers import start as start
    from shoal.runtime.handlers import stop as stop
    from shoal.runtime.messages import Context as Context
    from shoal.runtime.messages import Request as Request
    from shoal.runtime.messages import Response as Response
    from shoal.runtime.model import Model as Model

_HOMES = {
    "CloudEvent": "shoal.runtime.events",
    "Context": "shoal.runtime.messages",
    "Model": "shoal.runtime.model",
    "ModelError": "shoal.core.errors",
    "NotFoundError": "shoal.core.errors",
    "PoolError": "shoal.core.errors",
    "Request": "shoal.runtime.messages",
    "RequestError": "shoal.core.errors",
    "Response": "shoal.runtime.messages",
    "event": "shoal.runtime.handlers",
    "http": "shoal.runtime.handlers",
    "start": "shoal.runtime.handlers",
    "stop": "shoal.runtime.handlers",
}

__all__ = [
    "CloudEvent", "Context", "Model", "ModelError", "NotFoundError", "PoolError", "Request", "RequestError",
    "Response", "event", "http", "start", "stop",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name from its home the first time it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, those not yet imported too."""
    return [*__all__, "__version__"]
