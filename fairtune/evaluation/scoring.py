"""Numbers for a study: objectives of one table, and whether its predictions are degenerate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairtune.errors import DataError
from fairtune.evaluation.estimates import estimate_set
from fairtune.evaluation.groups import described, eligible_groups, group_rows, unit_weights
from fairtune.evaluation.intervals import TAIL
from fairtune.evaluation.metrics import METRICS
from fairtune.evaluation.metrics import metric as base_metric
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import GroupMinimum, Threshold, ThresholdRule
from fairtune.evaluation.table import group_table
from fairtune.evaluation.thresholds import FOLDS, decide
from fairtune.evaluation.values import BARE, Question, objective_values, questions

__all__ = [
    "at_chance",
    "degenerate",
    "eligible_groups",
    "evaluate_objectives",
    "group_table",
    "group_values",
]

FLAT = 1e-4
CHANCE = "cannot be told from 0.5"
YOUDEN = ThresholdRule()


def evaluate_objectives(
    p: Predictions,
    objectives: Sequence[Objective],
    *,
    minimum: GroupMinimum,
    threshold: Threshold,
    folds: int = FOLDS,
    seed: int = 0,
) -> dict[str, float]:
    """Return every objective of one table by its printed name.

    Args:
        p: Predictions of one model on one split, pooled.
        objectives: What to compute.
        minimum: What a group must have.
        threshold: A rule is fitted on K - 1 patient-disjoint folds and applied to the rest;
            a number (one per target of a multi-label table) is frozen.
        folds: K.
        seed: Seed of the folds.

    Raises:
        DataError: Fewer than two eligible groups, a missing class, or scores that a metric
            cannot read. Never returns NaN.
    """
    asked = questions(p, objectives, minimum, threshold, folds, seed)
    return {str(o): float(objective_values(asked, o)[0]) for o in objectives}


def group_values(
    p: Predictions,
    metric: str,
    attribute: str,
    *,
    minimum: GroupMinimum,
    threshold: Threshold,
    folds: int = FOLDS,
    seed: int = 0,
) -> dict[str, float]:
    """Return a base metric of every eligible group by name.

    Of a multi-label table the mean over the targets for which the group is eligible.

    Raises:
        DataError: An unknown attribute, or no eligible group at all.
    """
    asked_metric = base_metric(metric)
    chosen = decide(p, threshold, folds, seed) if asked_metric.cut else None
    found: dict[str, list[float]] = {}
    for j, one in enumerate(p.per_target()):
        mine = chosen[:, j] if chosen is not None and chosen.ndim == 2 else chosen
        question = Question(one, mine, minimum)
        groups = one.attribute(attribute)
        codes = np.flatnonzero(question.eligible(asked_metric, groups))
        if not len(codes):
            continue
        rows = group_rows(groups)
        values = question.values(asked_metric, [rows[c] for c in codes], unit_weights(len(one)))
        for code, value in zip(codes, values[:, 0]):
            found.setdefault(groups.names[code], []).append(float(value))
    if not found:
        raise DataError(
            f"no group of {attribute} has enough rows for {metric}",
            found=described(p.per_target()[0], p.attribute(attribute)),
            allowed=f"at least {minimum}",
        )
    return {name: float(np.mean(values)) for name, values in found.items()}


def degenerate(
    p: Predictions,
    *,
    threshold: Threshold = YOUDEN,
    folds: int = FOLDS,
    seed: int = 0,
) -> str | None:
    """Say why predictions carry no information about the label, or return None.

    Degenerate: scores with a standard deviation below 1e-4, one class at the threshold, or an
    overall AUC whose 95 % interval contains 0.5 (macro over classes by bootstrap). A constant
    model has gap 0, so such a recipe must never be an incumbent. A multi-label table is
    degenerate when all its targets are; of several models one with constant scores or one class
    is enough, and the AUC is their mean.

    Args:
        p: The predictions.
        threshold: Where decisions are made; a rule is cross-fitted.
        folds: Folds of the cross-fit.
        seed: Seed of folds and bootstrap.
    """
    if p.models > 1:
        reason = _collapsed(p, threshold, folds, seed)
        if reason is not None:
            return reason
    elif float(p.score.std(axis=0).max()) < FLAT:
        return f"the scores are constant (standard deviation below {FLAT:g})"
    if p.task == "multilabel":
        cuts = threshold if isinstance(threshold, tuple) else (threshold,) * len(p.targets)
        reasons = [
            degenerate(one, threshold=cut, folds=folds, seed=seed)
            for one, cut in zip(p.per_target(), cuts)
        ]
        return None if None in reasons else f"every target: {reasons[0]}"
    if p.task == "multiclass":
        called = p.score.argmax(axis=1)
    else:
        called = decide(p, threshold, folds, seed).astype(np.int64)
    if len(np.unique(called)) == 1:
        return f"every row is called class {called[0]}"
    question = Question(p, None, BARE)
    estimate = estimate_set(question, METRICS["auc"], np.arange(len(p)), replicates=400, seed=seed)
    low, high = estimate.bound(TAIL)
    if low <= 0.5 <= high:
        return f"the AUC {estimate.value:.3f} {CHANCE} ({low:.3f} to {high:.3f})"
    return None


def _collapsed(p: Predictions, threshold: Threshold, folds: int, seed: int) -> str | None:
    """Return why one of several models says nothing; the chance of all is told from their mean."""
    for k, one in enumerate(p.per_model(), 1):
        reason = degenerate(one, threshold=threshold, folds=folds, seed=seed)
        if reason is not None and not at_chance(reason):
            return f"fold {k}: {reason}"
    return None


def at_chance(reason: str) -> bool:
    """Tell whether a reason of `degenerate` is only that the AUC cannot be told from 0.5.

    On a small validation set that is true of every recipe, good ones among them; constant scores
    and one class at the threshold are the recipe's own fault.
    """
    return CHANCE in reason
