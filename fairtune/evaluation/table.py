"""The long table of group figures: one row per metric and set of rows, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from fairtune.evaluation.arrays import IntArray
from fairtune.evaluation.estimates import Estimates, reduction_interval, share_patients
from fairtune.evaluation.floor import PERMUTATIONS, noise_floor
from fairtune.evaluation.groups import Counts, count, group_rows
from fairtune.evaluation.intervals import TAIL, Estimate, Pair
from fairtune.evaluation.metrics import Metric
from fairtune.evaluation.metrics import metric as base_metric
from fairtune.evaluation.objectives import COMPOUNDS, Objective, Reduction, parse_head
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.resampling import REPLICATES
from fairtune.evaluation.rules import GroupMinimum, Threshold
from fairtune.evaluation.thresholds import FOLDS
from fairtune.evaluation.values import (
    BARE,
    Question,
    objective_values,
    questions,
    reduce,
)
from fairtune.evaluation.values import Part as ValuePart

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = "unknown"
NAN = float("nan")


@dataclass(frozen=True)
class Row:
    """One row of the table; see `group_table` for the columns."""

    metric: str
    attribute: str | None
    group: str | None
    value: float
    low: float
    high: float
    n: int
    patients: int
    positives: int
    eligible: bool
    floor_mean: float = NAN
    floor_95: float = NAN
    base_rate_gap: float = NAN
    target: str | None = None


def group_table(
    p: Predictions,
    metrics: Sequence[str],
    attributes: Sequence[str],
    *,
    minimum: GroupMinimum,
    threshold: Threshold,
    intervals: bool = True,
    floors: bool = True,
    replicates: int = REPLICATES,
    permutations: int = PERMUTATIONS,
    folds: int = FOLDS,
    seed: int = 0,
) -> pd.DataFrame:
    """Return every figure of every group, in long form.

    A base metric (`auc`) brings its overall value, a row per group and all its reductions; a
    reduction or compound (`worst_auc`, `eo_diff`) brings itself and the rows of its base metrics;
    a cost (`queries`) its one value.

    Columns: `metric`; `attribute` (None for overall rows); `group` (None for overall rows and
    reductions, `unknown` for rows without the attribute); `value` (NaN where not eligible);
    `low`, `high` (95 %, NaN for equity-scaled metrics); `n`, `patients`, `positives` of the
    rows (positives of the rarest class of a multi-class table); `eligible`; `floor_mean` and
    `floor_95` of disparities, or `base_rate_gap` where a selection-rate disparity has no floor;
    `target` of a multi-label table (None for means over targets, which have no interval).

    Args:
        p: The predictions.
        metrics: Base metrics, reductions or compounds.
        attributes: Attributes or crossings.
        minimum: What a group must have.
        threshold: A rule, cross-fitted, or frozen numbers.
        intervals: Whether to compute intervals.
        floors: Whether to compute noise floors.
        replicates: Draws of the bootstrap, where no closed form serves.
        permutations: Permutations of the noise floor.
        folds: Folds of the cross-fit.
        seed: Seed of folds, bootstrap and permutations.

    Raises:
        ConfigError: An unknown metric.
        DataError: An unknown attribute, or scores that a metric cannot read.
    """
    import pandas as pd

    heads = [parse_head(name) for name in dict.fromkeys(metrics)]
    asked = questions(p, None if _cuts(heads) else [], minimum, threshold, folds, seed)
    rows: list[Row] = []
    for q in asked:
        table = _Table(q, heads, [p.attribute(a) for a in attributes], intervals, replicates, seed)
        rows += table.rows(permutations if floors else 0)
    if len(asked) > 1:
        rows += _means(asked, heads, attributes)
    frame = pd.DataFrame([asdict(row) for row in rows], columns=list(Row.__dataclass_fields__))
    words = ["metric", "attribute", "group", "target"]
    # Object columns keep None apart from NaN; the default would turn both into NaN.
    frame[words] = pd.DataFrame(
        {w: pd.Series([getattr(row, w) for row in rows], dtype=object) for w in words}
    )
    return frame


Head = tuple[str, Reduction]


def _cuts(heads: Iterable[Head]) -> bool:
    return any(base_metric(n).cut for m, _ in heads for n in COMPOUNDS.get(m, (m,)))


def _base(heads: Sequence[Head]) -> list[Metric]:
    names = [n for m, _ in heads for n in COMPOUNDS.get(m, (m,))]
    return [base_metric(name) for name in dict.fromkeys(names)]


def reductions(heads: Sequence[Head], attribute: str) -> list[Objective]:
    """Return the reductions over the groups of `attribute` that the heads ask for."""
    found: list[Objective] = []
    for name, reduction in heads:
        if reduction != "overall":
            found.append(Objective(name, reduction, attribute))
            continue
        if base_metric(name).cost:
            continue
        better = base_metric(name).better
        kinds: list[Reduction] = ["gap"] if better == "neither" else ["worst", "gap"]
        if better == "higher":
            kinds += ["es", "es_pop", "es_sample"]
        found += [Objective(name, kind, attribute) for kind in kinds]
    return list(dict.fromkeys(found))


@dataclass(frozen=True, eq=False)
class _Table:
    q: Question
    heads: Sequence[Head]
    attributes: Sequence[Attribute]
    intervals: bool
    replicates: int
    seed: int

    def rows(self, permutations: int) -> list[Row]:
        everyone = np.arange(len(self.q.p))
        sets: list[IntArray] = [everyone]
        starts = []
        for attribute in self.attributes:
            starts.append(len(sets))
            sets += [*group_rows(attribute), np.flatnonzero(attribute.codes < 0)]
        estimates = Estimates(self.q, [], sets, self.replicates, self.seed)
        counts = [count(self.q.p, rows) for rows in sets]
        found = [self._overall(estimates, metric, counts[0]) for metric in _base(self.heads)]
        for attribute, start in zip(self.attributes, starts):
            found += self._groups(estimates, attribute, start, counts)
            found += self._reductions(estimates, attribute, start, counts[0], permutations)
        return found

    def _row(
        self,
        metric: str,
        attribute: str | None,
        group: str | None,
        counts: Counts,
        ends: tuple[float, float, float] | None,
        eligible: bool = True,
        floor: tuple[float, float, float] = (NAN, NAN, NAN),
    ) -> Row:
        value, low, high = ends or (NAN, NAN, NAN)
        return Row(
            metric,
            attribute,
            group,
            value,
            low,
            high,
            counts.n,
            counts.patients,
            counts.positives,
            eligible,
            *floor,
            target=self.q.target,
        )

    def _overall(self, estimates: Estimates, metric: Metric, counts: Counts) -> Row:
        defined = counts.meets(metric, BARE)
        ends = self._ends(estimates, metric, [0])[0] if defined else None
        return self._row(metric.name, None, None, counts, ends, defined)

    def _groups(
        self, estimates: Estimates, attribute: Attribute, start: int, counts: Sequence[Counts]
    ) -> list[Row]:
        rows = []
        for metric in _base(self.heads):
            if metric.cost:
                continue
            eligible = self.q.eligible(metric, attribute)
            unknown = start + attribute.size
            # The unknown have a figure of their own when there are enough of them.
            shown = [start + int(i) for i in np.flatnonzero(eligible)]
            if self.q.supports_rows(metric, estimates.sets[unknown]):
                shown.append(unknown)
            ends = dict(zip(shown, self._ends(estimates, metric, shown)))
            names = [*attribute.names, *([UNKNOWN] if counts[unknown].n else [])]
            for i, name in enumerate(names):
                counted = i < attribute.size and bool(eligible[i])
                rows.append(
                    self._row(
                        metric.name,
                        attribute.name,
                        name,
                        counts[start + i],
                        ends.get(start + i),
                        counted,
                    )
                )
        return rows

    def _reductions(
        self,
        estimates: Estimates,
        attribute: Attribute,
        start: int,
        counts: Counts,
        permutations: int,
    ) -> list[Row]:
        rows = []
        for objective in reductions(self.heads, attribute.name):
            if not self.q.supports(objective):
                rows.append(self._row(objective.head, attribute.name, None, counts, None, False))
                continue
            ends = self._reduced(estimates, objective, attribute, start)
            floor = (NAN, NAN, NAN)
            if objective.is_disparity and permutations:
                level = noise_floor([self.q], objective, permutations=permutations, seed=self.seed)
                floor = (level.mean, level.upper, level.base_rate_gap)
            rows.append(self._row(objective.head, attribute.name, None, counts, ends, floor=floor))
        return rows

    def _reduced(
        self, estimates: Estimates, objective: Objective, attribute: Attribute, start: int
    ) -> tuple[float, float, float]:
        values: list[ValuePart] = []
        parts: list[tuple[Metric, list[Estimate], Pair | None]] = []
        paired = share_patients(self.q, attribute)
        for metric in objective.parts:
            eligible = self.q.eligible(metric, attribute)
            which = [start + int(i) for i in np.flatnonzero(eligible)]
            overall = estimates.point(metric, [0]) if objective.reduction != "gap" else np.empty(0)
            values.append(ValuePart(metric, overall, estimates.point(metric, which)[:, None], ()))
            if self.intervals and not objective.reduction.startswith("es"):
                pair = estimates.pair(metric, which) if paired else None
                parts.append((metric, estimates.many(metric, which), pair))
        value = float(reduce(objective, values)[0])
        ends = reduction_interval(objective, parts) if parts else None
        return (value, *(ends or (NAN, NAN)))

    def _ends(
        self, estimates: Estimates, metric: Metric, which: Sequence[int]
    ) -> list[tuple[float, float, float]]:
        if not which:
            return []
        metric.check(self.q.p)
        if not self.intervals:
            return [(float(v), NAN, NAN) for v in estimates.point(metric, which)]
        return [(e.value, *e.bound(TAIL)) for e in estimates.many(metric, which)]


def _means(
    asked: Sequence[Question], heads: Sequence[Head], attributes: Sequence[str]
) -> list[Row]:
    """Return the means over the targets of a multi-label table."""
    objectives = [Objective(metric.name) for metric in _base(heads)]
    objectives += [o for name in attributes for o in reductions(heads, name)]
    rows = []
    counts = count(asked[0].p)
    for objective in objectives:
        supported = any(q.supports(objective) for q in asked)
        value = float(objective_values(asked, objective)[0]) if supported else NAN
        rows.append(
            Row(
                objective.head,
                objective.attribute,
                None,
                value,
                NAN,
                NAN,
                counts.n,
                counts.patients,
                -1,
                supported,
            )
        )
    return rows
