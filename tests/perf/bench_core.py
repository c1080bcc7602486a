"""What every comparison is made of: subjects measured in turn, ratios round by round, a watch on the machine."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Row:
    """One subject of a comparison: its figure in every round."""

    name: str
    unit: str
    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.rounds)

    @property
    def spread_percent(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        if len(self.rounds) < 4:
            return 0.0
        low, _, high = statistics.quantiles(self.rounds, n=4)
        return 50 * (high - low) / self.median


@dataclass
class Comparison:
    """Several subjects measured in turn, the first one being ours."""

    title: str
    rows: list[Row]
    claim: str  # what must hold, in words
    holds: bool

    def ratio(self, other: str) -> float:
        """Median of the round-by-round ratios, ours over the other's: a drift of the machine cancels out."""
        theirs = next(row for row in self.rows if row.name == other)
        pairs = zip(self.rows[0].rounds, theirs.rounds, strict=True)
        return statistics.median(ours / other for ours, other in pairs)


def stolen_jiffies() -> tuple[int, int]:
    """Give (stolen, all) processor time so far, from /proc/stat."""
    fields = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[7], sum(fields)


@contextmanager
def undisturbed() -> Iterator[list[float]]:
    """Measure the share of the processor that the host withheld meanwhile, in percent."""
    share: list[float] = []
    stolen, total = stolen_jiffies()
    yield share
    stolen_after, total_after = stolen_jiffies()
    share.append(100 * (stolen_after - stolen) / max(1, total_after - total))


def interleave(rows: list[Row], rounds: int, measure: Callable[[str], float]) -> None:
    """Measure each subject once a round, in turn."""
    for number in range(rounds):
        for row in rows:
            row.rounds.append(measure(row.name))
            print(
                f"  round {number + 1}/{rounds}  {row.name:<28} {row.rounds[-1]:10.1f} {row.unit}", file=sys.stderr
            )
