"""Queries: what a model cost, as a figure beside the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from prediction_tables import table

from fairtune.errors import ConfigError
from fairtune.evaluation.constraints import Constraint, Harm, harm_metric
from fairtune.evaluation.objectives import Objective, check_metric
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import GroupMinimum
from fairtune.evaluation.sampled import Side, sample
from fairtune.evaluation.scoring import evaluate_objectives, group_table

QUERIES = Objective("queries")
LAX = GroupMinimum(1, 1, 1)


def of(p: Predictions) -> float:
    return evaluate_objectives(p, [QUERIES], minimum=LAX, threshold=0.5)["queries"]


def kinds() -> dict[str, Predictions]:
    p = table(60)
    one_hot = np.eye(3)[np.arange(60) % 3]
    return {
        "binary": p,
        "multiclass": replace(p, label=np.arange(60) % 3, score=one_hot, task="multiclass"),
        "multilabel": replace(
            p,
            label=np.stack([p.label, 1 - p.label], axis=1),
            score=np.stack([p.score, p.score], axis=1),
            task="multilabel",
        ),
        "several models": replace(p, model=np.arange(60) % 2),
    }


@pytest.mark.parametrize("kind", list(kinds()))
def test_it_is_what_the_model_cost_whatever_the_task(kind: str) -> None:
    p = kinds()[kind]
    assert of(p) == 0
    assert of(replace(p, queries=647.0)) == pytest.approx(647)
    assert of(replace(p, queries=647.0).take(np.arange(20, 60))) == pytest.approx(647)


def test_it_is_the_same_whichever_patients_are_drawn() -> None:
    sides = {n: Side([replace(table(60), queries=q)], 0.5) for n, q in (("a", 0.0), ("b", 647.0))}
    drawn = sample(sides, [QUERIES], minimum=LAX, replicates=50)
    for name, cost in (("a", 0.0), ("b", 647.0)):
        found = drawn[name].of(QUERIES)
        np.testing.assert_allclose(found.draws, cost)
        assert found.se == pytest.approx(0)


def test_a_table_of_groups_has_it_once_without_groups() -> None:
    p = replace(table(60), queries=647.0)
    frame = group_table(p, ["auc", "queries"], ["age"], minimum=LAX, threshold=0.5)
    own = frame[frame["metric"].str.contains("queries")]
    assert own[["value", "low", "high"]].to_numpy().ravel() == pytest.approx([647] * 3)
    assert own["attribute"].isna().all()


def test_a_bound_on_it_is_no_utility_and_holds_or_not() -> None:
    bound = Constraint.parse("queries <= 500")
    assert not bound.is_utility
    assert Constraint.parse(str(bound)) == bound
    harm = Harm("auc", ("age",))
    assert bound.violation({"queries": 647.0}, {}, None, harm) == 147
    assert bound.violation({"queries": 0.0}, {}, None, harm) == -500
    assert harm_metric(Objective.parse("worst_auc@age")) == "auc"


def test_a_table_from_elsewhere_does_not_know_it() -> None:
    with pytest.raises(ConfigError, match="no table of predictions knows it"):
        check_metric("queries")
    check_metric("eo_diff")
    check_metric("worst_auc")
