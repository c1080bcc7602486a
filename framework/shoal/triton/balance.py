"""Which replica gets a call, and whether a failed call may be tried once more: both without any I/O."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from shoal.core.limits import POOL_RETRY_BURST_MAX, POOL_RETRY_RATIO
from shoal.triton.replica import Replica


def choose(
    replicas: Sequence[Replica], model: str, now: float, rng: Random, avoid: Replica | None = None
) -> Replica:
    """Pick the less busy of two replicas drawn at random, among those not passed over; ``avoid`` only if alone.

    Two random picks keep the load even without a global view, and no herd runs to the one idle replica.
    """
    others = [replica for replica in replicas if replica is not avoid] or list(replicas)
    good = [replica for replica in others if not replica.is_passed_over(now, model)] or others
    if len(good) == 1:
        return good[0]
    first, second = rng.sample(good, 2)
    return first if first.in_flight <= second.in_flight else second


class RetryBudget:
    """Retries allowed over the whole process: a share of recent requests, so that an outage is not multiplied."""

    def __init__(self, ratio: float = POOL_RETRY_RATIO, burst: float = POOL_RETRY_BURST_MAX) -> None:
        self._ratio = ratio
        self._burst = burst
        self._saved = burst

    def earn(self) -> None:
        """Count one request."""
        self._saved = min(self._burst, self._saved + self._ratio)

    def spend(self) -> bool:
        """Take one retry if there is one."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
