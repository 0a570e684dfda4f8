"""Methods compared over blocks (data sets x attributes): signed ranks, and mean ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from fairtune.errors import DataError
from fairtune.evaluation.arrays import FloatArray

LEVEL = 0.05
LEAST_BLOCKS = 6
"""Blocks from which on mean ranks are compared: 5 methods on 3 blocks have a critical difference
of 3.5, of 4 that are possible."""

LEAST_METHODS = 3


@dataclass(frozen=True)
class Pair:
    """Two methods.

    Args:
        a: Name of one.
        b: Name of the other.
        difference: Median over the blocks of a - b, better counted up.
        wins: Blocks in which a is better.
        losses: Blocks in which b is better.
        p: Two-sided p-value of the Wilcoxon signed-rank test; 1 where all blocks are equal.
        adjusted: The same after Holm over all pairs.
    """

    a: str
    b: str
    difference: float
    wins: int
    losses: int
    p: float
    adjusted: float


@dataclass(frozen=True)
class MeanRanks:
    """What a critical-difference diagram shows.

    Args:
        ranks: Mean rank of each method, 1 for the best.
        statistic: Friedman's chi-squared.
        p: Its p-value.
        critical: Nemenyi's critical difference of two mean ranks at 5 %.
        alike: Sets of methods whose mean ranks all lie within the critical difference.
    """

    ranks: dict[str, float]
    statistic: float
    p: float
    critical: float
    alike: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Ranking:
    """A comparison of methods over blocks.

    Args:
        methods: Their names.
        blocks: Number of blocks.
        pairs: Every pair.
        means: Mean ranks; None where there are too few blocks or methods.
        why: Why there are none.
    """

    methods: tuple[str, ...]
    blocks: int
    pairs: tuple[Pair, ...]
    means: MeanRanks | None
    why: str | None


def compare_methods(values: FloatArray, methods: Sequence[str], sign: int = 1) -> Ranking:
    """Return Wilcoxon signed-rank tests of all pairs, with Holm, and mean ranks if they may be.

    Demsar 2006, "Statistical comparisons of classifiers over multiple data sets". Deviations: zero
    differences are left out, so that p-values of few blocks stay exact, and below six blocks no
    mean ranks are compared, since hardly any difference could be told. Blocks are taken for
    independent: two attributes of the same patients are not, so p-values then come out too small.

    Args:
        values: `(blocks, methods)`, all known.
        methods: Names of the columns.
        sign: 1 when larger is better, -1 when smaller is.

    Raises:
        DataError: No blocks, or fewer than two methods.
    """
    good = sign * np.asarray(values, dtype=float)
    if good.ndim != 2 or good.shape[0] < 1 or good.shape[1] < 2:
        raise DataError(
            "a comparison needs at least one block and two methods",
            found=f"{good.shape[0]} blocks, {len(methods)} methods",
        )
    if not np.isfinite(good).all():
        raise DataError("every method needs a finite value in every block")
    blocks, count = good.shape
    why = None
    if blocks < LEAST_BLOCKS:
        why = f"{blocks} blocks, and fewer than {LEAST_BLOCKS} tell hardly any mean ranks apart"
    elif count < LEAST_METHODS:
        why = "two methods are compared by their signed ranks alone"
    means = None if why else _means(good, methods)
    return Ranking(tuple(methods), blocks, _pairs(good, methods), means, why)


def critical_difference(methods: int, blocks: int, level: float = LEVEL) -> float:
    r"""Return Nemenyi's critical difference of two mean ranks.

    $q \sqrt{k (k + 1) / (6 N)}$ with k methods, N blocks and q the quantile of the studentised
    range with infinite degrees of freedom over $\sqrt 2$.
    """
    q = float(stats.studentized_range.ppf(1 - level, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * blocks))


def signed_rank(differences: FloatArray) -> float:
    """Return the two-sided p-value of the Wilcoxon signed-rank test; zeros are left out.

    As scipy's `wilcoxon` has it: exact up to 50 differences, with equal ones among them up to 13,
    else by the normal approximation.
    """
    d = differences[differences != 0]
    return float(stats.wilcoxon(d).pvalue) if len(d) else 1.0


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the same order."""
    count, running = len(p_values), 0.0
    found = [0.0] * count
    for rank, i in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (count - rank) * p_values[i]))
        found[i] = running
    return found


def _pairs(good: FloatArray, methods: Sequence[str]) -> tuple[Pair, ...]:
    found = []
    for i, j in combinations(range(len(methods)), 2):
        d = good[:, i] - good[:, j]
        wins, losses = int((d > 0).sum()), int((d < 0).sum())
        found.append((methods[i], methods[j], float(np.median(d)), wins, losses, signed_rank(d)))
    adjusted = holm_adjusted([one[-1] for one in found])
    return tuple(Pair(*one, adjusted=a) for one, a in zip(found, adjusted))


def _means(good: FloatArray, methods: Sequence[str]) -> MeanRanks:
    ranks = stats.rankdata(-good, axis=1).mean(axis=0)
    tied = bool((good == good[:, :1]).all())
    statistic, p = (0.0, 1.0) if tied else map(float, stats.friedmanchisquare(*good.T))
    critical = critical_difference(len(methods), len(good))
    order = np.argsort(ranks, kind="stable")
    alike: list[tuple[str, ...]] = []
    reached = -1
    for i in range(len(order)):
        last = max(k for k in range(len(order)) if ranks[order[k]] - ranks[order[i]] <= critical)
        if last > max(i, reached):
            alike.append(tuple(methods[k] for k in order[i : last + 1]))
            reached = last
    named = {methods[k]: float(ranks[k]) for k in order}
    return MeanRanks(named, statistic, p, critical, tuple(alike))
