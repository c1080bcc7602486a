"""The call that is being served, for what has no other way to know it: models and log lines."""

from __future__ import annotations

from contextvars import ContextVar

from shoal.runtime.messages import Context

context: ContextVar[Context | None] = ContextVar("shoal_context", default=None)
