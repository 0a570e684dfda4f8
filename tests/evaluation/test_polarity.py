"""Scores that rank the wrong way round."""

from __future__ import annotations

import dataclasses

import numpy as np
from prediction_tables import table

from fairtune.evaluation.polarity import backwards
from fairtune.evaluation.predictions import Predictions


def test_scores_that_rank_the_wrong_way_round_are_told() -> None:
    right = table(signal=1.0)
    assert backwards(right) == []
    assert backwards(table(signal=0.0)) == []
    wrong = dataclasses.replace(right, score=1 - right.score)
    (told,) = backwards(wrong)
    assert told.startswith("the AUC is 0.2")
    assert "below 0.5 beyond chance" in told


def test_few_rows_of_one_patient_say_nothing() -> None:
    label, score = np.array([0, 1, 0, 1]), np.array([0.9, 0.1, 0.8, 0.7])
    assert backwards(Predictions(label, score, patient=np.zeros(4, dtype=int))) == []
    assert backwards(Predictions(np.ones(4, dtype=int), score)) == []


def test_every_target_speaks_for_itself() -> None:
    one = table(n=200)
    label = np.stack([one.label, one.label, np.ones_like(one.label)], axis=1)
    score = np.stack([one.score, 1 - one.score, one.score], axis=1)
    several = Predictions(label, score, task="multilabel", targets=("a", "b", "c"))
    (told,) = backwards(several)
    assert told.startswith("the AUC of 'b' is")


def test_several_classes_are_told_by_their_mean() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 150)
    score = np.eye(3)[label] * 0.3 + rng.dirichlet(np.ones(3), 150)
    right = Predictions(label, score / score.sum(axis=1, keepdims=True), task="multiclass")
    assert backwards(right) == []
    turned = score[:, [1, 2, 0]]
    wrong = Predictions(label, turned / turned.sum(axis=1, keepdims=True), task="multiclass")
    assert len(backwards(wrong)) == 1
