"""Measure shoal beside the alternatives: interleaved rounds in one run, ratios of medians, into bench/results.

Run by ``make bench``. Servers get one processor core and the load generator the other. Absolute figures belong to
the machine; the ratios are what is claimed. A run during which the host withheld the processor is refused.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

import bench_http
import bench_model
from bench_core import Comparison, undisturbed

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
STOLEN_PERCENT_MAX = 5.0


def report(comparisons: list[Comparison], stolen: float) -> str:
    """Write the results as text."""
    lines = [
        f"# Results of {time.strftime('%Y-%m-%d')}",
        "",
        f"Python {platform.python_version()}, {platform.machine()}; the host withheld {stolen:.1f} % of the time.",
        "Median over interleaved rounds; ± is half the distance between the quartiles. A ratio is ours over the",
        "other, the median of the rounds' ratios. Absolute figures say nothing about another machine.",
    ]
    for item in comparisons:
        lines += ["", f"## {item.title}", "", "| | median | ± | ours over it |", "|---|---|---|---|"]
        for row in item.rows:
            ratio = "" if row is item.rows[0] else f"{item.ratio(row.name):.2f}"
            lines.append(f"| {row.name} | {row.median:,.1f} {row.unit} | {row.spread_percent:.0f} % | {ratio} |")
        lines += ["", f"Claim: {item.claim}. {'Holds.' if item.holds else '**Does not hold.**'}"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the comparisons asked for; exit code 1 when a claim does not hold, 3 when the machine was disturbed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3, help="of load, per subject and round")
    parser.add_argument("--only", choices=["echo", "start", "model"], action="append")
    options = parser.parse_args()
    wanted = options.only or ["echo", "start", "model"]
    comparisons: list[Comparison] = []
    with undisturbed() as share:
        if "echo" in wanted:
            comparisons.append(bench_http.bench_echo(options.rounds, options.seconds))
        if "start" in wanted:
            comparisons.append(bench_http.bench_start(options.rounds * 2))
        if "model" in wanted:
            comparisons += bench_model.bench_model(options.rounds, options.seconds)
    text = report(comparisons, share[0])
    print(text)
    if share[0] > STOLEN_PERCENT_MAX:
        print(
            f"error: the host withheld {share[0]:.1f} % of the processor; these figures are refused",
            file=sys.stderr,
        )
        return 3
    if not options.only:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "latest.md").write_text(text)
        record = [{**asdict(item), "medians": {row.name: row.median for row in item.rows}} for item in comparisons]
        (RESULTS / "latest.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(item.holds for item in comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
