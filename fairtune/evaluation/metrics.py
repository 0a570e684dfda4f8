"""The base metrics: one definition of each, for any groups and any weights.

A metric answers one binary question (`View`). Multi-class tables ask one question per class and
take the plain mean over classes (macro one-vs-rest); accuracy, balanced accuracy, negative log
likelihood and the Brier score have their own multi-class definitions. Multi-label tables are cut
into their targets before they come here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np

from fairtune.errors import ConfigError, DataError, did_you_mean
from fairtune.evaluation import calibration, curves
from fairtune.evaluation.arrays import BoolArray, FloatArray, IntArray
from fairtune.evaluation.predictions import Predictions, shown_rows
from fairtune.evaluation.rules import ThresholdRule

Better = Literal["higher", "lower", "neither"]
Pair = tuple[FloatArray, FloatArray]


@dataclass(frozen=True, eq=False)
class View:
    """One binary question asked of every row.

    Args:
        label: `(n,)` of 0.0/1.0.
        score: `(n,)`.
        chosen: `(n,)` of 0.0/1.0, the rows called positive; None where no metric asked.
        queries: See `Predictions.queries`.
    """

    label: FloatArray
    score: FloatArray
    chosen: FloatArray | None = None
    queries: float = 0.0

    @property
    def called(self) -> FloatArray:
        """The rows called positive; asking before a threshold was applied is a fault of ours."""
        assert self.chosen is not None
        return self.chosen


Ratio = Callable[[View], Sequence[Pair]]
Curve = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]


@dataclass(frozen=True)
class Metric:
    """A base metric.

    Args:
        name: Its name in objectives, tables and files.
        better: Which way is better; `neither` for quantities with a target or none at all.
        needs: What a group must have besides rows: `positives`, `negatives`.
        cut: Whether it reads decisions instead of scores.
        probability: Whether scores must lie in [0, 1].
        proportion: Whether it is a share of rows whose number the labels fix (Wilson intervals).
        cost: Whether it is what a model cost: alike for all rows, so that groups have no say.
        ratio: Pairs of row values (a, b); the metric is the mean over pairs of sum wa / sum wb.
        curve: A function of label, score and weights, where no ratio will do.
        many: Multi-class pairs, from label `(n,)` and score `(n, k)`, instead of the macro mean.
        rule: A threshold of its own, read off the curve of the whole split.
    """

    name: str
    better: Better = "higher"
    needs: frozenset[str] = frozenset()
    cut: bool = False
    probability: bool = False
    proportion: bool = False
    cost: bool = False
    ratio: Ratio | None = field(default=None, repr=False, compare=False)
    curve: Curve | None = field(default=None, repr=False, compare=False)
    many: Callable[[IntArray, FloatArray], Sequence[Pair]] | None = field(
        default=None, repr=False, compare=False
    )
    rule: ThresholdRule | None = None

    def values(
        self,
        p: Predictions,
        chosen: BoolArray | None,
        groups: Sequence[IntArray],
        weight: FloatArray,
    ) -> FloatArray:
        """Return the metric per group and replicate.

        Args:
            p: A binary or multi-class table.
            chosen: `(n,)` rows called positive; not looked at for multi-class tables.
            groups: Row positions of each group; every group has what `needs` asks for.
            weight: `(n, r)`, not negative.

        Returns:
            `(groups, r)`.

        Raises:
            DataError: A metric of probabilities on scores outside [0, 1].
        """
        self.check(p)
        if self.many is not None and p.task == "multiclass":
            return mean_of_ratios(self.many(p.label, p.score), groups, weight)
        asked = [self._one(view, groups, weight) for view in self._views(p, chosen)]
        return np.asarray(np.mean(asked, axis=0)) if len(asked) > 1 else asked[0]

    def row_pairs(self, p: Predictions, chosen: BoolArray | None) -> Sequence[Pair] | None:
        """Return the row values a ratio is made of; None for macro means and curves."""
        if p.task == "multiclass":
            return None if self.many is None else self.many(p.label, p.score)
        return None if self.ratio is None else self.ratio(self._views(p, chosen)[0])

    def check(self, p: Predictions) -> None:
        """Raise a DataError when `p` has scores that this metric cannot read."""
        if not self.probability:
            return
        outside = ((p.score < 0) | (p.score > 1)).reshape(len(p), -1).any(axis=1)
        if outside.any():
            raise DataError(
                f"{self.name} needs probabilities",
                found=f"{outside.sum()} rows outside [0, 1]: {shown_rows(p.row[outside])}",
                todo="apply a sigmoid or softmax first, or ask for metrics of ranks only",
            )

    def _views(self, p: Predictions, chosen: BoolArray | None) -> list[View]:
        if p.task == "binary":
            score = p.score
            if self.rule is not None:
                chosen = score >= self.rule.fit(p.label, score)
            called = None if chosen is None else chosen.astype(np.float64)
            return [View(p.label.astype(np.float64), score, called, p.queries)]
        top = p.score.argmax(axis=1)
        views = []
        for k in range(p.classes):
            own, score = p.label == k, p.score[:, k]
            picked = top == k
            if self.rule is not None:
                picked = score >= self.rule.fit(own.astype(np.int64), score)
            called = picked.astype(np.float64)
            views.append(View(own.astype(np.float64), score, called, p.queries))
        return views

    def _one(self, view: View, groups: Sequence[IntArray], weight: FloatArray) -> FloatArray:
        if self.ratio is not None:
            return mean_of_ratios(self.ratio(view), groups, weight)
        assert self.curve is not None
        # A group of all rows is common (overall, noise floor) and needs no copy of the weights.
        return np.stack(
            [
                self.curve(
                    view.label[rows],
                    view.score[rows],
                    weight if len(rows) == len(weight) else weight[rows],
                )
                for rows in groups
            ]
        )


def mean_of_ratios(
    pairs: Sequence[Pair], groups: Sequence[IntArray], weight: FloatArray
) -> FloatArray:
    """Return the mean over pairs of sum wa / sum wb per group, `(groups, r)`; 0 where b sums to 0.

    The 0 is reached only by predictive values of a group from which nobody was called (sklearn's
    `zero_division=0`): eligibility sees to all other denominators.
    """
    total = np.zeros((len(groups), weight.shape[1]))
    inside = np.zeros((len(groups), len(weight)))
    for g, rows in enumerate(groups):
        inside[g, rows] = 1.0
    for a, b in pairs:
        top, bottom = (inside * a) @ weight, (inside * b) @ weight
        total += np.where(bottom > 0, top, 0.0) / np.where(bottom > 0, bottom, 1.0)
    return total / len(pairs)


def _share(of: Callable[[View], FloatArray], among: Callable[[View], FloatArray]) -> Ratio:
    return lambda v: [(of(v) * among(v), among(v))]


def _all(v: View) -> FloatArray:
    return np.ones_like(v.label)


def _queries(v: View) -> FloatArray:
    return np.full_like(v.label, v.queries)


def _positive(v: View) -> FloatArray:
    return v.label


def _negative(v: View) -> FloatArray:
    return 1.0 - v.label


def _called(v: View) -> FloatArray:
    return v.called


def _not_called(v: View) -> FloatArray:
    return 1.0 - v.called


def _right(v: View) -> FloatArray:
    return v.called * v.label + (1.0 - v.called) * (1.0 - v.label)


def _nll(v: View) -> FloatArray:
    p = np.clip(v.score, calibration.EPSILON, 1 - calibration.EPSILON)
    return np.asarray(-(v.label * np.log(p) + (1 - v.label) * np.log1p(-p)))


def _squared(v: View) -> FloatArray:
    return np.asarray((v.score - v.label) ** 2)


def _balanced(v: View) -> Sequence[Pair]:
    return [(v.called * v.label, v.label), (_not_called(v) * _negative(v), _negative(v))]


def _many_acc(label: IntArray, score: FloatArray) -> Sequence[Pair]:
    return [((score.argmax(axis=1) == label).astype(np.float64), np.ones(len(label)))]


def _many_balanced(label: IntArray, score: FloatArray) -> Sequence[Pair]:
    right = score.argmax(axis=1) == label
    of = [(label == k).astype(np.float64) for k in range(score.shape[1])]
    return [(right * mine, mine) for mine in of]


def _many_nll(label: IntArray, score: FloatArray) -> Sequence[Pair]:
    own = score[np.arange(len(label)), label]
    p = np.clip(own, calibration.EPSILON, 1.0)
    return [(-np.log(p), np.ones(len(label)))]


def _many_brier(label: IntArray, score: FloatArray) -> Sequence[Pair]:
    truth = np.eye(score.shape[1])[label]
    return [(((score - truth) ** 2).sum(axis=1), np.ones(len(label)))]


BOTH = frozenset({"positives", "negatives"})
POSITIVES = frozenset({"positives"})
NEGATIVES = frozenset({"negatives"})

TPR = Metric("tpr", needs=POSITIVES, cut=True, proportion=True, ratio=_share(_called, _positive))
FPR = Metric(
    "fpr", "lower", needs=NEGATIVES, cut=True, proportion=True, ratio=_share(_called, _negative)
)

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("auc", needs=BOTH, curve=curves.auc),
            Metric("auprc", needs=BOTH, curve=curves.average_precision),
            Metric("acc", cut=True, proportion=True, ratio=_share(_right, _all), many=_many_acc),
            Metric("balanced_acc", needs=BOTH, cut=True, ratio=_balanced, many=_many_balanced),
            Metric("nll", "lower", probability=True, ratio=_share(_nll, _all), many=_many_nll),
            Metric(
                "brier", "lower", probability=True, ratio=_share(_squared, _all), many=_many_brier
            ),
            Metric("ece", "lower", BOTH, probability=True, curve=calibration.ece),
            Metric(
                "ece_plugin",
                "lower",
                BOTH,
                probability=True,
                curve=partial(calibration.ece, estimator="plugin"),
            ),
            Metric(
                "cal_slope",
                "neither",
                BOTH,
                probability=True,
                curve=calibration.calibration_slope,
            ),
            Metric(
                "cal_intercept",
                "neither",
                BOTH,
                probability=True,
                curve=calibration.calibration_intercept,
            ),
            TPR,
            FPR,
            Metric(
                "tnr",
                needs=NEGATIVES,
                cut=True,
                proportion=True,
                ratio=_share(_not_called, _negative),
            ),
            Metric(
                "fnr",
                "lower",
                POSITIVES,
                cut=True,
                proportion=True,
                ratio=_share(_not_called, _positive),
            ),
            Metric("ppv", needs=POSITIVES, cut=True, ratio=_share(_positive, _called)),
            Metric("npv", needs=NEGATIVES, cut=True, ratio=_share(_negative, _not_called)),
            Metric(
                "selection_rate",
                "neither",
                cut=True,
                proportion=True,
                ratio=_share(_called, _all),
            ),
            Metric("queries", "lower", cost=True, ratio=_share(_queries, _all)),
        )
    }
)

OF_MODELS = tuple(name for name, found in METRICS.items() if not found.cost)
"""Metrics of how well a model does: those that a table alone can answer."""

NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
AT_POINT = re.compile(rf"(tpr@spec|fpr@sens)=({NUMBER})")
AT_FORMS = ("tpr@spec=0.9", "fpr@sens=0.9")


def metric(name: str) -> Metric:
    """Return the base metric `name`; `tpr@spec=x` and `fpr@sens=x` carry their operating point.

    The point is read off the ROC curve of the whole split, one threshold for all groups. Unlike a
    fitted threshold it needs no cross-fitting: it depends on the other class only.

    Raises:
        ConfigError: No such metric, or a point outside (0, 1).
    """
    if name in METRICS:
        return METRICS[name]
    match = AT_POINT.fullmatch(name)
    if match is None:
        known = (*METRICS, *AT_FORMS)
        raise ConfigError(
            "unknown metric", found=name, allowed=known, todo=did_you_mean(name, known)
        )
    level = float(match[2])
    if not 0 < level < 1:
        raise ConfigError("the operating point must lie in (0, 1)", where=match[1], found=level)
    if match[1] == "tpr@spec":
        base, rule = TPR, ThresholdRule("specificity", level)
    else:
        base, rule = FPR, ThresholdRule("sensitivity", level)
    return replace(base, name=f"{match[1]}={level!r}", cut=False, rule=rule)
