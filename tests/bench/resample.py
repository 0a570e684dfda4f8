"""Speed of resampling: 2,000 weightings x 10,000 rows x 6 groups.

    python tests/bench/resample.py [--rows 10000] [--groups 6] [--replicates 2000] [--times 5]

Prints the median wall time and processor time for each base metric by itself and for the five
together that a group table needs (auc, tpr, fpr, ece, brier), all groups, one pass over the
patients. On a busy machine the processor time is the one to go by.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np

from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.rules import GroupMinimum
from fairtune.evaluation.sampled import Side, sample

FIVE = ("auc", "tpr", "fpr", "ece", "brier")
OTHERS = ("auprc", "nll", "cal_slope", "cal_intercept")


def table(rows: int, groups: int) -> Predictions:
    """A calibrated-ish model of patients with one row each; groups of unequal size."""
    rng = np.random.default_rng(0)
    share = np.arange(1, groups + 1) / np.arange(1, groups + 1).sum()
    codes = rng.choice(groups, rows, p=share)
    label = (rng.random(rows) < 0.3).astype(np.int64)
    score = 1 / (1 + np.exp(-(1.4 * (label - 0.5) - 0.4 + rng.standard_normal(rows))))
    attribute = Attribute("group", tuple(f"g{i}" for i in range(groups)), codes)
    return Predictions(label, score, {"group": attribute}, np.arange(rows))


def seconds(
    p: Predictions, metrics: Sequence[str], replicates: int, times: int
) -> tuple[float, float]:
    """Return the median wall and processor time of drawing `metrics` in every group."""
    wall, busy = [], []
    for _ in range(times):
        began, used = time.perf_counter(), time.process_time()
        drawn = sample(
            {"model": Side([p], 0.5)},
            [],
            [(name, "group") for name in metrics],
            minimum=GroupMinimum(),
            replicates=replicates,
        )["model"]
        wall.append(time.perf_counter() - began)
        busy.append(time.process_time() - used)
        assert len(drawn.groups) == len(metrics)
    return statistics.median(wall), statistics.median(busy)


def main() -> None:
    """Measure and print."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    for name, default in (("rows", 10_000), ("groups", 6), ("replicates", 2000), ("times", 5)):
        reader.add_argument(f"--{name}", type=int, default=default)
    given = reader.parse_args()
    p = table(given.rows, given.groups)
    what = f"{given.replicates} weightings x {given.rows} rows x {given.groups} groups"
    sys.stdout.write(f"{what}: median of {given.times}\n")
    for metrics in (FIVE, *((name,) for name in (*FIVE, *OTHERS))):
        wall, busy = seconds(p, metrics, given.replicates, given.times)
        line = f"{', '.join(metrics):<28} {wall:6.2f} s wall  {busy:6.2f} s of processors"
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
