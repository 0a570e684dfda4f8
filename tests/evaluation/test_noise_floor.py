"""The noise floor of disparities."""

from __future__ import annotations

import numpy as np
import pytest
from prediction_tables import groups_of, table

from fairtune.evaluation.floor import noise_floor, permuted_codes
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.rules import GroupMinimum
from fairtune.evaluation.values import objective_values, questions

MINIMUM = GroupMinimum()


def floor_of(p: Predictions, text: str, permutations: int = 300, seed: int = 0):  # type: ignore[no-untyped-def]
    objective = Objective.parse(text)
    asked = questions(p, [objective], MINIMUM, 0.5)
    return noise_floor(asked, objective, permutations=permutations, seed=seed)


def test_permutations_keep_counts_labels_and_the_unknown() -> None:
    p = table(300, 3, per_patient=2, unknown=0.1)
    age = p.attribute("age")
    for codes in permuted_codes(p, age, 20, seed=0):
        assert ((codes < 0) == (age.codes < 0)[:, None]).all()
        moved = (codes != age.codes[:, None]).any()
        assert moved
        for r in range(codes.shape[1]):
            for label in (0, 1):
                units = {
                    (patient, code) for patient, code in zip(p.patient, codes[:, r]) if code >= 0
                }
                real = {
                    (patient, code) for patient, code in zip(p.patient, age.codes) if code >= 0
                }
                kind = {patient: set(p.label[p.patient == patient]) for patient, _ in real}
                count = [
                    sum(1 for x, c in s if c == 1 and kind[x] == {label}) for s in (units, real)
                ]
                assert count[0] == count[1]


def test_the_floor_is_the_gap_of_permuted_tables() -> None:
    p = table(200, 2)
    found = floor_of(p, "auc_gap@age", permutations=400)
    rng = np.random.default_rng(7)
    gaps = []
    age = p.attribute("age")
    for _ in range(400):
        codes = age.codes.copy()
        for label in (0, 1):
            rows = np.flatnonzero(p.label == label)
            codes[rows] = rng.permutation(codes[rows])
        q = Predictions(p.label, p.score, {"age": Attribute("age", age.names, codes)})
        objective = Objective.parse("auc_gap@age")
        gaps.append(objective_values(questions(q, [], MINIMUM, 0.5), objective)[0])
    assert found.mean == pytest.approx(np.mean(gaps), rel=0.12)
    assert found.upper == pytest.approx(np.quantile(gaps, 0.95), rel=0.15)


def test_a_planted_gap_passes_the_floor_and_no_gap_does_not() -> None:
    p = table(600, 2, signal=2.0)
    low = groups_of(p)[0]
    score = p.score.copy()
    score[low] = np.random.default_rng(0).random(len(low))
    hurt = Predictions(p.label, score, p.attributes)
    for text in ("auc_gap@age", "eo_diff@age", "nll_gap@age", "ece_gap@age"):
        objective = Objective.parse(text)
        value = objective_values(questions(hurt, None, MINIMUM, 0.5), objective)[0]
        assert value > floor_of(hurt, text).upper, text
    exceeded = 0
    for seed in range(30):
        q = table(300, 2, seed=seed)
        objective = Objective.parse("auc_gap@age")
        value = objective_values(questions(q, [], MINIMUM, 0.5), objective)[0]
        exceeded += value > floor_of(q, "auc_gap@age", 100).upper
    assert exceeded <= 6


def test_selection_rates_have_no_floor_where_prevalence_differs() -> None:
    p = table(400, 2)
    equal = floor_of(p, "dp_diff@age")
    assert np.isnan(equal.base_rate_gap)
    assert equal.mean > 0
    codes = np.where(np.random.default_rng(0).random(400) < 0.8, p.label, 1 - p.label)
    q = Predictions(p.label, p.score, {"age": Attribute("age", ("a", "b"), codes)})
    unequal = floor_of(q, "dp_diff@age")
    rates = [q.label[codes == g].mean() for g in (0, 1)]
    assert unequal.base_rate_gap == pytest.approx(abs(rates[0] - rates[1]))
    assert np.isnan(unequal.mean)


def test_floors_of_strata_stay_within_them() -> None:
    p = table(600, 2)
    view = Attribute("view", ("AP", "PA"), np.random.default_rng(2).integers(0, 2, 600))
    q = Predictions(p.label, p.score, p.attributes, strata=view)
    for codes in permuted_codes(q, q.attribute("age"), 5, seed=0):
        for v in (0, 1):
            for label in (0, 1):
                rows = (view.codes == v) & (p.label == label)
                assert (codes[rows].sum(axis=0) == p.attribute("age").codes[rows].sum()).all()
    assert floor_of(q, "auc_gap@age", 50).upper > 0
