"""Decisions from scores: frozen thresholds, or rules cross-fitted on patient-disjoint folds."""

from __future__ import annotations

import numpy as np

from fairtune.errors import DataError
from fairtune.evaluation.arrays import AnyArray, BoolArray, IntArray
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import Threshold, ThresholdRule

FOLDS = 5


def decide(p: Predictions, threshold: Threshold, folds: int = FOLDS, seed: int = 0) -> BoolArray:
    """Return which rows are called positive, `(n,)`, or `(n, t)` for a multi-label table.

    A rule is fitted on the patients of all folds but one and applied to that one, so that no row
    is judged by a threshold it helped to choose; of several models for each by itself. A number
    is used as it is. A table that brings its own cut is cut there, whatever `threshold` says.
    Multi-class decisions are the class of highest score and need no threshold: there the array is
    empty.

    Args:
        p: The predictions.
        threshold: A rule, a number, or one number per target.
        folds: Patient-disjoint folds for a rule.
        seed: Seed of the folds.

    Raises:
        DataError: A rule that cannot be fitted, or a wrong number of thresholds.
    """
    if p.task == "multiclass":
        return np.empty(0, dtype=np.bool_)
    if p.cut is not None:
        return np.asarray(p.score >= p.cut)
    if p.task == "multilabel":
        targets = p.per_target()
        frozen = threshold if isinstance(threshold, tuple) else (threshold,) * len(targets)
        if len(frozen) != len(targets):
            raise DataError(
                "one threshold per target is needed", found=len(frozen), allowed=len(targets)
            )
        columns = [decide(one, cut, folds, seed) for one, cut in zip(targets, frozen)]
        return np.stack(columns, axis=1)
    if isinstance(threshold, tuple):
        if len(threshold) != 1:
            raise DataError("one threshold is needed", found=threshold)
        threshold = threshold[0]
    if not isinstance(threshold, ThresholdRule):
        return np.asarray(p.score >= threshold)
    if threshold.kind == "fixed":
        return np.asarray(p.score >= threshold.fit(p.label, p.score))
    chosen = np.zeros(len(p), dtype=np.bool_)
    if p.models > 1:
        for k, one in enumerate(p.per_model()):
            chosen[p.model == k] = decide(one, threshold, folds, seed)
        return chosen
    fold = patient_folds(p.patient, p.label, folds, seed)
    for k in range(int(fold.max()) + 1):
        here = fold == k
        cut = threshold.fit(p.label[~here], p.score[~here])
        chosen[here] = p.score[here] >= cut
    return chosen


def fit_threshold(p: Predictions, rule: ThresholdRule) -> float | tuple[float, ...]:
    """Return the threshold fitted on all rows of `p`, to be frozen for other tables.

    One number per target for a multi-label table; for a multi-class table 0.5, which nothing
    reads; the table's own cut where it brings one.
    """
    if p.task == "multiclass":
        return 0.5
    fitted = tuple(
        rule.fit(one.label, one.score) if one.cut is None else one.cut for one in p.per_target()
    )
    return fitted if p.task == "multilabel" else fitted[0]


def patient_folds(patient: AnyArray, label: IntArray, folds: int, seed: int) -> IntArray:
    """Return the fold of every row; a patient's rows share it, positives are spread evenly.

    Args:
        patient: `(n,)` codes.
        label: `(n,)` of 0/1; a patient counts as positive when any row is.
        folds: Wanted number; fewer when there are fewer patients.
        seed: Seed of the shuffle.

    Raises:
        DataError: Fewer than two patients.
    """
    _, code = np.unique(patient, return_inverse=True)
    patients = int(code.max()) + 1
    folds = min(folds, patients)
    if folds < 2:
        raise DataError(
            "cross-fitting a threshold needs at least two folds and two patients",
            found=f"{folds} folds, {patients} patients",
            todo="use a fixed threshold",
        )
    positive = np.zeros(patients, dtype=np.int64)
    np.maximum.at(positive, code, (label > 0).astype(np.int64))
    shuffled = np.random.default_rng(seed).permutation(patients)
    # Dealing out positives first, then the rest, keeps both counts even to within one.
    dealt = shuffled[np.argsort(-positive[shuffled], kind="stable")]
    fold = np.empty(patients, dtype=np.int64)
    fold[dealt] = np.arange(patients) % folds
    return np.asarray(fold[code])
