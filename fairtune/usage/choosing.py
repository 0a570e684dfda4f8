"""Numbers of a head chosen on validation rows, whose own scores are cross-fitted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairtune.errors import DataError
from fairtune.evaluation.thresholds import FOLDS, patient_folds
from fairtune.usage import Task
from fairtune.usage.at_once import Floats, Ints
from fairtune.usage.readout import targets


def chosen(
    scores: Sequence[Floats], label: Ints, patient: Ints, task: Task, *, seed: int = 0
) -> tuple[Floats, int]:
    """Return `(n, outputs)` cross-fitted logits, and the number of what all rows together choose.

    The rows of each of five folds of patients get the scores of least mean loss on all other
    folds (plain negative log-likelihood; the first of equals), so that no row's score follows
    from a label of its own patient. The folds follow from the patients alone: dealt out by label,
    as those of thresholds are, they would follow from it too.

    Args:
        scores: `(n, outputs)` logits of each that there is to choose from.
        label: `(n,)` class index, or `(n, targets)` of 0/1.
        patient: `(n,)` numbers by which rows share a patient.
        task: Kind of label.
        seed: Of the folds.

    Raises:
        DataError: Fewer than two patients.
    """
    if len(scores) == 1:
        return scores[0], 0
    if len(np.unique(patient)) < 2:
        raise DataError(
            "numbers that are chosen on validation need validation rows of at least two patients",
            found=f"{len(np.unique(patient))} patients",
            todo="write numbers in place of `validation`; a study can search them",
        )
    loss = np.stack([row_loss(one, label, task) for one in scores])
    fold = patient_folds(patient, np.zeros(len(patient), dtype=np.int64), FOLDS, seed)
    made = np.empty_like(scores[0])
    for k in range(int(fold.max()) + 1):
        here = fold == k
        made[here] = scores[int(loss[:, ~here].mean(axis=1).argmin())][here]
    return made, int(loss.mean(axis=1).argmin())


def row_loss(logits: Floats, label: Ints, task: Task) -> Floats:
    """Return the `(n,)` loss of every row, see `losses.sample_loss`."""
    from scipy import special

    target = targets(label, task, logits.shape[1])
    if task == "multiclass":
        loss = special.logsumexp(logits, axis=1) - (target * logits).sum(axis=1)
    else:
        loss = (np.logaddexp(0.0, logits) - target * logits).mean(axis=1)
    return np.asarray(loss)
