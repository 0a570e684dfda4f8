"""Mitigations that act on predictions: fitted on validation rows, applied to any table.

Several of a recipe follow each other in the order of their names, each on the scores that the one
before has made. On the rows they are fitted on they are read cross-fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fairtune.config import Config
from fairtune.config.registry import name_of
from fairtune.errors import DataError
from fairtune.evaluation.arrays import IntArray
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.thresholds import FOLDS, patient_folds
from fairtune.mitigation import MITIGATIONS, Fitted, PostProcessing
from fairtune.mitigation.grouped import places


@dataclass(frozen=True, eq=False)
class Step:
    """One post-processing of a run.

    Attributes:
        name: Name of the method.
        fitted: What it found.
    """

    name: str
    fitted: Fitted


def post_processing(members: Sequence[Config]) -> tuple[PostProcessing, ...]:
    """Return those of a recipe's mitigations that act on predictions, in their order."""
    return tuple(m for m in members if isinstance(m, PostProcessing) and not m.trains)


def wrong_task(members: Sequence[Config], task: str) -> DataError | None:
    """Return that a post-processing is not made for this kind of label, or None."""
    for member in members:
        if isinstance(member, PostProcessing) and task not in member.tasks:
            return DataError(
                f"'{name_of(member)}' is not made for this kind of target",
                found=task,
                allowed=list(member.tasks),
                todo="leave it out of recipe.mitigations, or take another target",
            )
    return None


def fit(members: Sequence[Config], predictions: Predictions) -> tuple[Step, ...]:
    """Return every post-processing of `members` fitted on all rows, one after another.

    Rows of several models (folds) are taken together, as scores that no row's own model was
    trained for (as `CalibratedClassifierCV(ensemble=False)` of scikit-learn does).

    Raises:
        DataError: A method is not made for the task, or there are fewer than two groups.
    """
    if (error := wrong_task(members, predictions.task)) is not None:
        raise error
    table = replace(predictions, model=np.empty(0, dtype=np.int64))
    steps: list[Step] = []
    for member in post_processing(members):
        found = member.fit(table)
        steps.append(Step(name_of(member), found))  # type: ignore[arg-type]
        table = found.apply(table)
    return tuple(steps)


def apply(steps: Sequence[Step], predictions: Predictions) -> Predictions:
    """Return the table with the scores that all of `steps` make of its own, in their order."""
    for step in steps:
        predictions = step.fitted.apply(predictions)
    return predictions


def cross_fitted(
    members: Sequence[Config], predictions: Predictions, folds: int = FOLDS, seed: int = 0
) -> Predictions:
    """Return the table as its post-processing makes it, no row with a rule it helped to find.

    The rows of each fold of patients get what was fitted on all other folds; the folds are those
    that thresholds are cross-fitted on. Of several models each by itself. Without any
    post-processing the table is returned as it is.

    Args:
        members: The mitigations of the recipe.
        predictions: What the model said, with labels.
        folds: Patient-disjoint folds.
        seed: Seed of the folds.

    Raises:
        DataError: A method is not made for the task; the rows are in fewer than two groups, or
            of fewer than two patients.
    """
    if not post_processing(members):
        return predictions
    score = np.empty_like(predictions.score)
    cut: float | None = None
    for model in range(predictions.models):
        mine = np.flatnonzero(predictions.model == model)
        table = replace(predictions.take(mine), model=np.empty(0, dtype=np.int64))
        fold = patient_folds(first_rows(table), _positive(table), folds, seed)
        for k in range(int(fold.max()) + 1):
            here = fold == k
            made = apply(fit(members, table.take(~here)), table.take(here))
            score[mine[here]] = made.score
            cut = made.cut
    return replace(predictions, score=score, cut=cut)


def to_json(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return `[{NAME: fitted}, ...]`, as operating.json keeps it."""
    return [{step.name: step.fitted.to_json()} for step in steps]


def from_json(data: Sequence[Mapping[str, Any]]) -> tuple[Step, ...]:
    """Return what `to_json` wrote."""
    steps = []
    for item in data:
        ((name, fitted),) = item.items()
        member: Any = MITIGATIONS.get(name)
        steps.append(Step(name, member.restore(fitted)))
    return tuple(steps)


def strangers(steps: Sequence[Step], predictions: Predictions) -> tuple[str, ...]:
    """Return a sentence for each step on rows that get its pooled rule, where there are any."""
    told = []
    for step in steps:
        apart = places(predictions, step.fitted.attribute, step.fitted.named) < 0
        if apart.any():
            told.append(
                f"{step.name}: {int(apart.sum())} of {len(apart)} rows are of no group of "
                f"{step.fitted.attribute} that it has a rule for, and get that of all rows pooled"
            )
    return tuple(told)


def first_rows(predictions: Predictions) -> IntArray:
    """Return the smallest row number of each row's patient, `(n,)`; see `first_of_patient`."""
    return first_of_patient(predictions.patient, predictions.row)


def first_of_patient(patient: IntArray, row: IntArray) -> IntArray:
    """Return the smallest of the row numbers of each row's patient, `(n,)`.

    It names a patient wherever the table is read: codes of patients are counted anew in every
    table, and hashes of their ids are keyed by the machine's cache, while row numbers follow
    from the metadata of the data set alone.
    """
    _, code = np.unique(patient, return_inverse=True)
    first = np.full(int(code.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, code, row)
    return np.asarray(first[code])


def _positive(predictions: Predictions) -> IntArray:
    """Return `(n,)` 1 where any target is positive, or the class is not the first."""
    highest = predictions.label.reshape(len(predictions), -1).max(axis=1)
    return np.asarray(highest > 0).astype(np.int64)
