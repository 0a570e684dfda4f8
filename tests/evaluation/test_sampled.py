"""Figures of several recipes in one pass: the same as one by one."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from prediction_tables import groups_of, table

from fairtune.errors import DataError
from fairtune.evaluation.metrics import metric
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.resampling import resample
from fairtune.evaluation.rules import GroupMinimum
from fairtune.evaluation.sampled import Side, over_seeds, sample
from fairtune.evaluation.scoring import evaluate_objectives, group_values
from fairtune.evaluation.values import objective_values, questions

MINIMUM = GroupMinimum()
TEXTS = ("auc", "worst_auc@age", "auc_gap@age", "es_auc@age", "eo_diff@sex", "worst_ece@age")
OBJECTIVES = [Objective.parse(text) for text in TEXTS]


def seeds(count: int, strength: float = 1.0) -> list[Predictions]:
    p = table(500, 3, seed=3, per_patient=2)
    rng = np.random.default_rng(int(10 * strength))
    raw = [strength * (p.label - 0.5) + rng.standard_normal(len(p)) for _ in range(count)]
    return [Predictions(p.label, 1 / (1 + np.exp(-x)), p.attributes, p.patient) for x in raw]


def test_points_and_draws_are_those_of_every_figure_by_itself() -> None:
    (p,) = one = seeds(1)
    side = {"a": Side(one, 0.5)}
    drawn = sample(side, OBJECTIVES, [("tpr", "age")], minimum=MINIMUM, replicates=30, seed=5)["a"]
    asked = questions(p, OBJECTIVES, MINIMUM, 0.5)
    points = evaluate_objectives(p, OBJECTIVES, minimum=MINIMUM, threshold=0.5)
    for o in OBJECTIVES:
        alone = resample(p.patient, partial(objective_values, asked, o), 30, 5)
        assert drawn.of(o).point == pytest.approx(points[str(o)])
        assert drawn.of(o).draws == pytest.approx(alone)
    groups = drawn.groups["tpr", "age"]
    by_name = group_values(p, "tpr", "age", minimum=MINIMUM, threshold=0.5)
    assert dict(zip(groups.names, [g.point for g in groups.values])) == pytest.approx(by_name)
    assert list(groups.rows) == [len(rows) for rows in groups_of(p)]
    chosen = p.score >= 0.5
    alone = resample(p.patient, lambda w: metric("tpr").values(p, chosen, groups_of(p), w), 30, 5)
    assert np.stack([g.draws for g in groups.values]) == pytest.approx(alone)


def test_sides_share_patients_and_not_seeds() -> None:
    a, b = seeds(3), seeds(3)
    both = sample({"a": Side(a, 0.5), "b": Side(b, 0.5)}, OBJECTIVES, minimum=MINIMUM,
                  replicates=400)  # fmt: skip
    auc = Objective.parse("auc")
    for number, name in enumerate("ab"):
        each = [
            resample(
                p.patient,
                partial(objective_values, questions(p, [auc], MINIMUM, 0.5), auc),
                400,
            )
            for p in a
        ]
        rng = np.random.default_rng([0, 1 + number])
        assert both[name].of(auc).draws == pytest.approx(over_seeds(np.stack(each), rng))
    assert both["a"].of(auc).point == both["b"].of(auc).point
    assert (both["a"].of(auc).draws != both["b"].of(auc).draws).all()
    single = sample({"a": Side(a[:1], 0.5), "b": Side(b[:1], 0.5)}, [auc], minimum=MINIMUM)
    assert (single["a"].of(auc).draws == single["b"].of(auc).draws).all()


def test_what_a_table_cannot_answer_is_a_fault_of_that_figure_alone() -> None:
    strict = GroupMinimum(400, 10, 10)
    drawn = sample({"a": Side(seeds(1), 0.5)}, OBJECTIVES[:2], [("auc", "age")], minimum=strict,
                   replicates=10)["a"]  # fmt: skip
    assert drawn.of(OBJECTIVES[0]).draws.shape == (10,)
    with pytest.raises(DataError, match="at least two groups"):
        drawn.of(OBJECTIVES[1])
    assert drawn.groups == {}


def test_of_several_targets_each_figure_is_a_mean_over_targets() -> None:
    p = table(500, 2, seed=1)
    rng = np.random.default_rng(0)
    label = np.stack([p.label, rng.integers(0, 2, len(p))], axis=1)
    score = 1 / (1 + np.exp(-(label - 0.5 + rng.standard_normal(label.shape))))
    many = Predictions(label, score, p.attributes, p.patient, task="multilabel",
                       targets=("one", "two"))  # fmt: skip
    drawn = sample({"a": Side([many], (0.5, 0.5))}, OBJECTIVES[:3], [("auc", "age")],
                   minimum=MINIMUM, replicates=5)["a"]  # fmt: skip
    points = evaluate_objectives(many, OBJECTIVES[:3], minimum=MINIMUM, threshold=(0.5, 0.5))
    assert {n: d.point for n, d in drawn.objectives.items()} == pytest.approx(points)
    by_name = group_values(many, "auc", "age", minimum=MINIMUM, threshold=(0.5, 0.5))
    groups = drawn.groups["auc", "age"]
    assert dict(zip(groups.names, [g.point for g in groups.values])) == pytest.approx(by_name)
