"""Numbers chosen on validation: by brute force, and what follows from whose label."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from fairtune.errors import DataError
from fairtune.evaluation.thresholds import patient_folds
from fairtune.usage import Task
from fairtune.usage.choosing import chosen, row_loss


def matter(task: Task, seed: int = 0) -> tuple[list[Any], Any, Any]:
    """Return logits of five ways, labels, and patients of two rows each."""
    rng = np.random.default_rng(seed)
    n = 60
    outputs = {"binary": 1, "multiclass": 3, "multilabel": 2}[task]
    shape = (n, 2) if task == "multilabel" else (n,)
    label = rng.integers(0, 3 if task == "multiclass" else 2, shape)
    base = rng.normal(size=(n, outputs))
    scores = [base * scale + rng.normal(0, 0.3, base.shape) for scale in (0.1, 0.3, 0.5, 1, 2)]
    return scores, label, np.arange(n) // 2


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_each_fold_gets_what_is_best_for_all_others(task: Task) -> None:
    scores, label, patient = matter(task)
    made, best = chosen(scores, label, patient, task)
    fold = patient_folds(patient, np.zeros(60, dtype=np.int64), 5, 0)

    def loss(score: Any, rows: Any) -> float:
        logits, y = torch.from_numpy(score[rows]), torch.from_numpy(label[rows])
        if task == "multiclass":
            return float(functional.cross_entropy(logits, y))
        return float(
            functional.binary_cross_entropy_with_logits(logits, y.double().reshape(logits.shape))
        )

    assert best == int(np.argmin([loss(score, slice(None)) for score in scores]))
    for k in range(5):
        here = fold == k
        first = int(np.argmin([loss(score, ~here) for score in scores]))
        np.testing.assert_array_equal(made[here], scores[first][here])


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_no_label_reaches_a_score_of_its_own_patient(task: Task) -> None:
    scores, label, patient = matter(task, seed=3)
    made, _ = chosen(scores, label, patient, task)
    moved = 0
    for one in np.unique(patient):
        other = np.where((patient == one).reshape(-1, *[1] * (label.ndim - 1)), 1 - label, label)
        turned, _ = chosen(scores, np.abs(other), patient, task)
        np.testing.assert_array_equal(turned[patient == one], made[patient == one])
        moved += not np.array_equal(turned, made)
    assert moved or task != "binary"


def test_the_first_of_equals_is_taken_and_one_alone_is_not_chosen() -> None:
    scores, label, patient = matter("binary")
    made, best = chosen([scores[2], scores[2] + 0.0], label, patient, "binary")
    assert best == 0
    np.testing.assert_array_equal(made, scores[2])
    alone, best = chosen(scores[:1], label[:0], patient[:0], "binary")
    assert best == 0
    assert alone is scores[0]


def test_one_patient_cannot_choose() -> None:
    scores, label, _ = matter("binary")
    with pytest.raises(DataError, match="at least two patients"):
        chosen(scores, label, np.zeros(60, dtype=int), "binary")
    assert row_loss(np.zeros((60, 1)), label, "binary") == pytest.approx(np.log(2) * np.ones(60))
