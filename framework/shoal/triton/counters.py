"""What a pool client counts: plain numbers, so that a call pays nothing for metrics that nobody reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.core.errors import ShoalError


@dataclass(slots=True)
class Counters:
    """What happened so far, for metrics; plain numbers, read whenever asked."""

    calls: int = 0
    retries: int = 0
    in_flight: int = 0
    cancelled: int = 0
    batches: int = 0  # requests that carried more than one call
    errors: dict[str, int] = field(default_factory=dict)  # ShoalError.code -> count

    def count(self, error: ShoalError) -> None:
        """Count one failed call."""
        self.errors[error.code] = self.errors.get(error.code, 0) + 1
