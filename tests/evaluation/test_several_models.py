"""Tables of several models on rows of their own: figures per model, averaged, never pooled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from prediction_tables import LAX, table
from sklearn.metrics import roc_auc_score

from fairtune.errors import DataError
from fairtune.evaluation.groups import lacking
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.optimism import bias_corrected
from fairtune.evaluation.paired import paired_difference
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.rules import GroupMinimum, ThresholdRule
from fairtune.evaluation.scoring import degenerate, evaluate_objectives, group_table, group_values
from fairtune.evaluation.thresholds import decide

MINIMUM = GroupMinimum(10, 3, 3)
YOUDEN = ThresholdRule()


def folded(
    folds: int = 3, *, shift: float = 0.0, seed: int = 0, signal: float = 1.0
) -> Predictions:
    """A table of `folds` models whose scores lie `shift` apart; images of a patient together."""
    p = table(360, 3, seed=seed, per_patient=2, signal=signal)
    model = p.patient % folds
    return replace(p, model=model, score=p.score + shift * model)


def values(p: Predictions, *texts: str, minimum: GroupMinimum = MINIMUM) -> list[float]:
    asked = [Objective.parse(text) for text in texts]
    found = evaluate_objectives(p, asked, minimum=minimum, threshold=YOUDEN)
    return [found[str(objective)] for objective in asked]


def aucs(p: Predictions) -> np.ndarray:
    """AUC by model and group, as scikit-learn computes it."""
    age = p.attribute("age")
    return np.array(
        [
            [
                roc_auc_score(p.label[rows], p.score[rows])
                for g in range(age.size)
                if len(rows := np.flatnonzero((p.model == k) & (age.codes == g)))
            ]
            for k in range(p.models)
        ]
    )


def test_groups_are_averaged_over_the_models_and_then_reduced() -> None:
    p = folded()
    mean = aucs(p).mean(axis=0)
    worst, gap, overall = values(p, "worst_auc@age", "auc_gap@age", "auc")
    assert worst == pytest.approx(mean.min())
    assert gap == pytest.approx(np.ptp(mean))
    each = [roc_auc_score(one.label, one.score) for one in p.per_model()]
    assert overall == pytest.approx(np.mean(each))
    found = group_values(p, "auc", "age", minimum=MINIMUM, threshold=YOUDEN)
    assert list(found.values()) == pytest.approx(mean.tolist())


def test_scores_of_different_models_are_never_compared() -> None:
    texts = ("auc", "worst_auc@age", "worst_tpr@age", "eo_diff@age", "tpr@spec=0.8")
    assert values(folded(shift=7.0), *texts) == pytest.approx(values(folded(), *texts))
    near, far = folded(), folded(shift=7.0)
    assert (decide(near, YOUDEN) == decide(far, YOUDEN)).all()
    with pytest.raises(DataError, match="within strata"):
        replace(near, strata=near.attribute("sex"))


def test_a_model_that_lacks_a_group_leaves_it_to_the_others() -> None:
    p = folded()
    age = p.attribute("age")
    # Of group g1 the first model keeps four rows: fewer than the minimum.
    there = np.flatnonzero((age.codes == 1) & (p.model == 0))
    codes = age.codes.copy()
    codes[there[4:]] = -1
    p = replace(p, attributes={**p.attributes, "age": Attribute("age", age.names, codes)})
    assert lacking(p, "age", "auc", MINIMUM) == {"g1": 1}
    assert lacking(folded(), "age", "auc", MINIMUM) == {}
    others = [
        roc_auc_score(p.label[rows], p.score[rows])
        for k in (1, 2)
        if len(rows := np.flatnonzero((p.model == k) & (codes == 1)))
    ]
    found = group_values(p, "auc", "age", minimum=MINIMUM, threshold=YOUDEN)
    assert found["g1"] == pytest.approx(np.mean(others))
    few = GroupMinimum(1000, 3, 3)
    with pytest.raises(DataError, match="two groups"):
        values(p, "worst_auc@age", minimum=few)


def test_one_model_is_what_it_was() -> None:
    p = table(200, 3)
    marked = replace(p, model=np.zeros(len(p), dtype=np.int64))
    texts = ("auc", "worst_auc@age", "eo_diff@age")
    assert values(marked, *texts, minimum=LAX) == values(p, *texts, minimum=LAX)
    assert p.per_model() == (p,)


def test_tables_intervals_floors_and_corrections_read_several_models() -> None:
    p, other = folded(), folded(shift=3.0, signal=1.5)
    other = replace(other, label=p.label, attributes=p.attributes)
    frame = group_table(
        p, ["auc", "tpr"], ["age"], minimum=MINIMUM, threshold=YOUDEN,
        replicates=50, permutations=20,
    )  # fmt: skip
    worst = frame[frame["metric"] == "worst_auc"].iloc[0]
    assert worst["value"] == pytest.approx(values(p, "worst_auc@age")[0])
    assert worst["low"] < worst["value"] < worst["high"] + 0.05
    gap = frame[frame["metric"] == "auc_gap"].iloc[0]
    assert 0 < gap["floor_mean"] < 0.5
    found = bias_corrected(
        {"a": [p], "b": [other]}, Objective.parse("worst_auc@age"),
        minimum=MINIMUM, threshold=YOUDEN, replicates=40,
    )  # fmt: skip
    assert found.naive == pytest.approx(max(values(q, "worst_auc@age")[0] for q in (p, other)))
    assert found.replicates > 10
    change = paired_difference(
        [p], [folded(shift=9.0)], Objective.parse("worst_auc@age"),
        minimum=MINIMUM, thresholds_a=YOUDEN, thresholds_b=YOUDEN, replicates=40,
    )  # fmt: skip
    assert (change.value, change.low, change.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_one_collapsed_model_is_enough_to_count_for_nothing() -> None:
    p = folded()
    assert degenerate(p) is None
    flat = replace(p, score=np.where(p.model == 1, 0.5, p.score))
    assert str(degenerate(flat)).startswith("fold 2: the scores are constant")
    noise = folded(signal=0.0, shift=5.0)
    assert "cannot be told from 0.5" in str(degenerate(noise))
