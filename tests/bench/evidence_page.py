"""The sections of docs/measured.md from the files of covering.py and picking.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

KINDS = {
    "group": "one group",
    "difference": "difference of two groups named beforehand",
    "worst": "worst group",
    "gap": "gap",
}
PLAIN = ("group", "difference")
BOUNDS = {**dict.fromkeys(PLAIN, (0.92, 0.98)), "worst": (0.93, 1.0), "gap": (0.93, 1.0)}
"""Coverage that is asked of 95 % intervals, by kind."""
WIDEST = 1.6


def coverage(found: Mapping[str, Any]) -> list[str]:
    """Return the section of `coverage.json`."""
    rows: Sequence[Row] = found["rows"]
    heads = [
        "interval",
        "metric",
        "rows are",
        "coverage by cell: median (least to most)",
        "asked",
        "cells outside",
        "width / percentile's",
        "percentile's coverage",
    ]
    ways = [
        (kind, metric, clustered)
        for kind in KINDS
        for metric in dict.fromkeys(row["metric"] for row in rows)
        for clustered in (False, True)
    ]
    body = [_kind(way, [row for row in rows if _way(row) == way]) for way in ways]
    outside = [row for row in rows if _outside(row)]
    return [
        "## Coverage of intervals",
        "",
        "95 % intervals on simulated tables whose truth is known, defined in "
        "`tests/bench/covering.py`: 2 and 5 groups, equal and unequal, 40, 100 and 400 rows each, "
        "10 % and 50 % positives with at least ten of each class; rows are patients of their own, "
        "or clustered in patients of 1 to 4 rows whose scores correlate by .5. "
        f"{found['tables']:,} tables a cell, of which {found['compared']} are compared with the "
        "percentile interval of the Bayesian bootstrap, which the tool does not offer for these. "
        f"Seed {found['seed']}.",
        "",
        *source(found),
        "",
        *table(heads, body),
        "",
        *_missed(outside),
    ]


def _way(row: Row) -> tuple[str, str, bool]:
    return row["kind"], row["metric"], row["clustered"]


def _outside(row: Row) -> bool:
    low, high = BOUNDS[row["kind"]]
    return not low <= row["coverage"] <= high or row.get("ratio", 0.0) > WIDEST


def _kind(way: tuple[str, str, bool], rows: Sequence[Row]) -> list[str]:
    kind, metric, clustered = way
    low, high = BOUNDS[kind]
    compared = [row for row in rows if "ratio" in row]
    asked = f"{low:.2f} to {high:.2f}" if kind in PLAIN else f"≥ {low:.2f}, width ≤ {WIDEST}"
    return [
        KINDS[kind],
        metric,
        "clustered" if clustered else "patients",
        _spread(row["coverage"] for row in rows),
        asked,
        f"{sum(map(_outside, rows))} of {len(rows)}",
        _spread(row["ratio"] for row in compared),
        _spread(row["percentile"] for row in compared),
    ]


def _missed(rows: Sequence[Row]) -> list[str]:
    """Return every cell that is outside of what is asked."""
    if not rows:
        return ["No cell lies outside.", ""]
    heads = ["outside", "metric", "groups", "rows", "positives", "rows are", "coverage", "width"]
    body = [
        [
            KINDS[row["kind"]],
            row["metric"],
            f"{row['groups']} {'equal' if row['equal'] else 'unequal'}",
            str(row["rows"]),
            f"{row['positives']:.0%}",
            "clustered" if row["clustered"] else "patients",
            f"{row['coverage']:.3f}",
            f"{row['ratio']:.2f}" if "ratio" in row else "–",
        ]
        for row in rows
    ]
    return [*table(heads, body), ""]


def _spread(values: Iterable[float]) -> str:
    found = sorted(values)
    if not found:
        return "–"
    return f"{found[len(found) // 2]:.2f} ({found[0]:.2f} to {found[-1]:.2f})"


NAMES = {
    "gain": "true value of the confirmed pick − of the naive pick",
    "random": "true value of a random recipe − of the naive pick",
    "naive": "naive pick: reported − true",
    "naive corrected": "naive pick: corrected − true",
    "confirmed": "confirmed pick: reported − true",
    "among confirmed": "confirmed pick: corrected for the choice among the confirmed − true",
    "among searched": "confirmed pick: corrected for the choice among all searched − true",
}


def picking(found: Mapping[str, Any]) -> list[str]:
    """Return the section of `picking.json`."""
    rows, made = found["rows"], found["pool"]
    heads = ["", *(f"{row['objective']}, {row['way']}" for row in rows)]

    as_good = "share of repeats in which it is at least as good"
    body = [[name, *(_mean(row[key]) for row in rows)] for key, name in NAMES.items()]
    body.insert(1, [as_good, *(f"{row['as good']:.2f}" for row in rows)])
    return [
        "## What confirming is worth",
        "",
        f"Played on stored runs, as `tests/bench/picking.py` defines it: {found['recipes']} "
        f"recipes (masks of the last block, learning rates, loss) x {found['seeds']} seeds on "
        f"a pass over 2,000 lesions of HAM10000; {found['validation']} other lesions are "
        "validation, drawn anew in every repeat by age group and label, and the remaining "
        f"{found['truth']:,} the truth, read from two seeds that no pick saw. "
        f"Both sides make {found['recipes']} runs. "
        f"{rows[0]['repeats']} repeats; mean ± standard error over them, all on one pool.",
        "",
        f"- command: `{made['command']}`, then `{found['command']}`",
        f"- commit: `{found['commit'] or 'unknown'}`",
        "",
        *table(heads, body),
        "",
    ]


def _mean(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:+.4f} ± {figure['se']:.4f}"


def source(found: Mapping[str, Any]) -> list[str]:
    return [f"- command: `{found['command']}`", f"- commit: `{found['commit'] or 'unknown'}`"]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows]]
