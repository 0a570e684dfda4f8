"""Measure how often an interval holds the truth: `python tests/bench/covering.py coverage.json`.

Scores are normal in both classes, so the truth of every group is known: AUC Phi(mu / sqrt 2) and,
at the threshold t, TPR Phi(mu - t). A cell is a number of groups, equal or unequal ones, rows per
group, share of positives, and rows that are patients of their own or clustered in patients (1 to 4
rows of one label whose scores correlate by .5). In each of 1,000 tables per cell the intervals are
those that the tool reports: of every group, of the difference of the first two groups (named
beforehand), of the worst group and of the gap. In the first 200 tables the percentile interval of
the Bayesian bootstrap, which the tool does not offer, is computed beside the last two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from machine import surroundings
from scipy.special import ndtr, ndtri

from fairtune.evaluation.intervals import (
    TAIL,
    Ends,
    Estimate,
    auc_estimate,
    gap_interval,
    mover,
    rate_estimate,
    worst_interval,
)
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.rules import GroupMinimum
from fairtune.evaluation.sampled import Side, sample

METRICS = ("auc", "tpr")
AUCS = {2: (0.70, 0.85), 5: (0.70, 0.75, 0.80, 0.85, 0.90)}
EQUAL = 0.80
CORRELATION = 0.5
THRESHOLD = float(ndtri(EQUAL) / np.sqrt(2))
"""Half-way between the class means of a group with AUC .80."""
LEAST = 10
REPLICATES = 400


@dataclass(frozen=True)
class Cell:
    """What the tables of a cell have in common.

    Attributes:
        groups: Number of groups.
        equal: Whether all groups have one truth.
        rows: Rows of each group.
        positives: Share of positives.
        clustered: Whether patients have several rows.
    """

    groups: int
    equal: bool
    rows: int
    positives: float
    clustered: bool

    @property
    def truth(self) -> dict[str, np.ndarray]:
        """True values by metric, `(groups,)`."""
        auc = np.full(self.groups, EQUAL) if self.equal else np.array(AUCS[self.groups])
        return {"auc": auc, "tpr": ndtr(self.shift - THRESHOLD)}

    @property
    def shift(self) -> np.ndarray:
        """Distance of the class means of each group in SDs, `(groups,)`."""
        auc = np.full(self.groups, EQUAL) if self.equal else np.array(AUCS[self.groups])
        return np.asarray(np.sqrt(2) * ndtri(auc))


def cells() -> list[Cell]:
    """Return every cell whose groups have ten rows of each class."""
    ways = product((2, 5), (True, False), (40, 100, 400), (0.1, 0.5), (False, True))
    return [cell for way in ways if (cell := Cell(*way)).rows * cell.positives >= LEAST]


def table(cell: Cell, rng: np.random.Generator) -> Predictions:
    """Return one table of a cell."""
    labels, scores, codes, patients = [], [], [], []
    for group, shift in enumerate(cell.shift):
        positives = round(cell.rows * cell.positives)
        for label, count in ((1, positives), (0, cell.rows - positives)):
            patient = np.arange(count)
            if cell.clustered:
                patient = np.repeat(np.arange(count), rng.integers(1, 5, count))[:count]
            shared = rng.standard_normal(count)[patient]
            noise = rng.standard_normal(count)
            weight = CORRELATION if cell.clustered else 0.0
            scores.append(shift * label + np.sqrt(weight) * shared + np.sqrt(1 - weight) * noise)
            labels.append(np.full(count, label))
            codes.append(np.full(count, group))
            patients.append(patient + 10_000 * (2 * group + label))
    names = tuple(f"g{i}" for i in range(cell.groups))
    attribute = Attribute("group", names, np.concatenate(codes))
    return Predictions(
        np.concatenate(labels),
        np.concatenate(scores),
        {"group": attribute},
        np.concatenate(patients),
    )


def estimates(p: Predictions, metric: str) -> list[Estimate]:
    """Return the closed forms of every group."""
    found = []
    named = p.attribute("group")
    for code in range(named.size):
        rows = np.flatnonzero(named.codes == code)
        if metric == "auc":
            found.append(auc_estimate(p.label[rows], p.score[rows], p.patient[rows]))
        else:
            rows = rows[p.label[rows] == 1]
            hits = (p.score[rows] >= THRESHOLD).astype(np.float64)
            found.append(rate_estimate(hits, p.patient[rows]))
    return found


def percentile(p: Predictions) -> dict[tuple[str, str], Ends]:
    """Return the percentile intervals of the worst group and of the gap, by metric."""
    asked = {
        (metric, kind): Objective(metric, kind, "group")
        for metric in METRICS
        for kind in ("worst", "gap")
    }
    side = {"model": Side([p], THRESHOLD)}
    minimum = GroupMinimum()
    drawn = sample(side, [*asked.values()], minimum=minimum, replicates=REPLICATES)["model"]
    found = {}
    for key, objective in asked.items():
        low, high = np.quantile(drawn.of(objective).draws, [TAIL, 1 - TAIL])
        found[key] = float(low), float(high)
    return found


def tallies(cell: Cell, tables: int, compared: int, seed: int) -> list[dict[str, Any]]:
    """Return one row per metric and kind of interval."""
    rng = np.random.default_rng(
        [seed, *np.uint32([round(100 * v) for v in asdict(cell).values()])]
    )
    hits: dict[tuple[str, str], list[float]] = {}
    widths: dict[tuple[str, str], list[float]] = {}
    plain: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for number in range(tables):
        p = table(cell, rng)
        other = percentile(p) if number < compared else {}
        for metric in METRICS:
            for kind, truth, ends in intervals(cell, p, metric):
                key = (metric, kind)
                hits.setdefault(key, []).append(float(ends[0] <= truth <= ends[1]))
                widths.setdefault(key, []).append(ends[1] - ends[0])
                if key in other:
                    low, high = other[key]
                    plain.setdefault(key, []).append((float(low <= truth <= high), high - low))
    rows = []
    for (metric, kind), held in hits.items():
        row = {**asdict(cell), "metric": metric, "kind": kind, "intervals": len(held)}
        row |= {"coverage": statistics.fmean(held)}
        row |= {"width": statistics.fmean(widths[metric, kind])}
        if (metric, kind) in plain:
            beside = plain[metric, kind]
            ours = statistics.fmean(widths[metric, kind][: len(beside)])
            row["ratio"] = ours / statistics.fmean(width for _, width in beside)
            row["percentile"] = statistics.fmean(hit for hit, _ in beside)
        rows.append(row)
    return rows


def intervals(cell: Cell, p: Predictions, metric: str) -> Iterator[tuple[str, float, Ends]]:
    """Yield kind, truth and interval of all that is reported of one metric."""
    truth, found = cell.truth[metric], estimates(p, metric)
    for value, estimate in zip(truth, found):
        yield "group", float(value), estimate.bound(TAIL)
    yield "difference", float(truth[0] - truth[1]), mover(found[0], found[1])
    yield "worst", float(truth.min()), worst_interval(found)
    yield "gap", float(truth.max() - truth.min()), gap_interval(found)


def main(words: Sequence[str] | None = None) -> None:
    """Measure and write."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("out", type=Path, help="JSON to write")
    reader.add_argument("--tables", type=int, default=1000, help="tables of a cell")
    reader.add_argument("--compared", type=int, default=200, help="of them with percentiles")
    reader.add_argument("--seed", type=int, default=0)
    given = reader.parse_args(words)
    every = cells()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        n = len(every)
        done = pool.map(tallies, every, [given.tables] * n, [given.compared] * n, [given.seed] * n)
        rows = []
        for i, found in enumerate(done):
            rows += found
            sys.stdout.write(f"{i + 1}/{n} {every[i]}\n")
            sys.stdout.flush()
    result = {
        **surroundings("covering.py"),
        "tables": given.tables,
        "compared": given.compared,
        "seed": given.seed,
        "rows": rows,
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
