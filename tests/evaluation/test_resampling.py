"""Weighted metrics against brute force, and the properties of the patient weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_tables import LAX, table

from fairtune.evaluation.curves import auc, average_precision
from fairtune.evaluation.metrics import OF_MODELS
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.resampling import bag_chunks, resample, weight_chunks
from fairtune.evaluation.values import objective_values, questions


@st.composite
def weighted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = draw(st.integers(2, 30))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    label = rng.integers(0, 2, n).astype(float)
    label[:2] = [0, 1]
    score = rng.integers(0, draw(st.integers(1, 30)) + 1, n) / 5 - 1
    return label, score, rng.standard_exponential((n, 3))


@given(weighted())
@settings(max_examples=50)
def test_weighted_auc_equals_the_weighted_pair_count(
    data: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    label, score, weight = data
    for r in range(3):
        w, pairs, wins = weight[:, r], 0.0, 0.0
        for i in np.flatnonzero(label == 1):
            for j in np.flatnonzero(label == 0):
                pairs += w[i] * w[j]
                wins += w[i] * w[j] * ((score[i] > score[j]) + 0.5 * (score[i] == score[j]))
        assert auc(label, score, weight)[r] == pytest.approx(wins / pairs, abs=1e-12)


@given(weighted())
@settings(max_examples=50)
def test_weighted_average_precision_equals_its_sum(
    data: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    label, score, weight = data
    w, total, before = weight[:, 0], 0.0, 0.0
    for cut in np.unique(score)[::-1]:
        called = score >= cut
        recall = w[called & (label == 1)].sum() / w[label == 1].sum()
        total += (recall - before) * w[called & (label == 1)].sum() / w[called].sum()
        before = recall
    assert average_precision(label, score, weight)[0] == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("name", sorted(OF_MODELS))
def test_whole_number_weights_are_repeated_rows(name: str) -> None:
    p = table(80, 2, ties=True)
    times = np.random.default_rng(2).integers(0, 4, 80)
    times[:8] = 1
    again = p.take(np.repeat(np.arange(80), times))
    objective = Objective.parse(f"{name}_gap@age", directed=False)
    q, repeated = (questions(x, None, LAX, 0.5) for x in (p, again))
    ours = objective_values(q, objective, times[:, None].astype(float))
    if name == "ece":
        # Its correction counts effective rows, and repeated rows are no new ones.
        assert np.isfinite(ours).all()
    else:
        assert ours[0] == pytest.approx(objective_values(repeated, objective)[0], abs=1e-8)


def test_weights_belong_to_patients_and_to_the_seed() -> None:
    p = table(90, per_patient=3)
    (weight,) = weight_chunks(p.patient, 20, seed=4)
    for patient in np.unique(p.patient):
        rows = weight[p.patient == patient]
        assert (rows == rows[0]).all()
    first = np.unique(p.patient, return_index=True)[1]
    (alone,) = weight_chunks(p.patient[first], 20, seed=4)
    assert (weight[first] == alone).all()
    (other,) = weight_chunks(p.patient, 20, seed=5)
    assert (weight != other).any()


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    from fairtune.evaluation import resampling

    p = table(50, 2)
    q = questions(p, [], LAX, 0.5)
    objective = Objective.parse("worst_auc@age")

    def draws() -> np.ndarray:
        return resample(p.patient, lambda w: objective_values(q, objective, w), 37, seed=1)

    whole = draws()
    monkeypatch.setattr(resampling, "CELLS", 50 * 5)
    np.testing.assert_allclose(draws(), whole, atol=1e-12)


def test_bootstrap_spread_is_that_of_repeated_sampling() -> None:
    values = []
    objective = Objective.parse("auc")
    for seed in range(150):
        p = table(150, 2, seed=seed)
        values.append(objective_values(questions(p, [], LAX, 0.5), objective)[0])
    p = table(150, 2, seed=999)
    q = questions(p, [], LAX, 0.5)
    drawn = resample(p.patient, lambda w: objective_values(q, objective, w), 500)
    assert drawn.std() == pytest.approx(np.std(values), rel=0.3)


def test_bags_are_counts_with_the_rest_outside() -> None:
    patient = np.repeat(np.arange(40), 2)
    for inside, outside in bag_chunks(patient, 30, seed=0):
        assert (inside.sum(axis=0) == 80).all()
        assert ((inside == 0) == (outside == 1)).all()
        assert (inside[::2] == inside[1::2]).all()
        assert 0.25 < outside.mean() < 0.5


def test_row_order_and_numbers_do_not_matter_to_pairs_of_models() -> None:
    p = table(60, 2)
    q = Predictions(p.label, 1 - p.score, p.attributes, p.patient)
    (a,) = weight_chunks(p.patient, 10, 0)
    (b,) = weight_chunks(q.patient, 10, 0)
    assert (a == b).all()
