"""Temperatures by group: closed forms, brute force, groups that share one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from kit_post import member, simple, table
from scipy import special
from sklearn.metrics import log_loss, roc_auc_score

from fairtune.errors import DataError
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.mitigation.methods.group_temperature import Temperatures, temperature, tempered


def fit(p: Predictions) -> Temperatures:
    found = member("group_temperature").fit(p)
    assert isinstance(found, Temperatures)
    return found


def test_by_hand_two_groups_of_one_confidence() -> None:
    # All logits are 2 or -2. A score that is right in a share q of the rows has the least nll
    # where sigmoid(2 / T) = q: T = 2 / ln(q / (1 - q)). F is right in 30 of 40, M in 36 of 40.
    high, low = special.expit([2.0, -2.0])
    scores = [high] * 20 + [low] * 20
    f = [1] * 15 + [0] * 5 + [0] * 15 + [1] * 5
    m = [1] * 18 + [0] * 2 + [0] * 18 + [1] * 2
    p = simple([(f, scores), (m, scores)])
    found = fit(p)
    assert found.groups["F"] == pytest.approx([2 / np.log(3)], rel=1e-5)
    assert found.groups["M"] == pytest.approx([2 / np.log(9)], rel=1e-5)
    # Pooled 66 of 80 are right.
    assert found.pooled == pytest.approx([2 / np.log(66 / 14)], rel=1e-5)
    made = found.apply(p)
    assert made.score == pytest.approx(np.repeat([0.75, 0.25, 0.9, 0.1], 20), rel=1e-5)
    assert made.cut is None


def test_by_hand_several_classes() -> None:
    # Chances .6, .2, .2, with the largest right in q = 3/4: softmax(log p / T) = (q, ., .) where
    # T = ln(.6 / .2) / ln(2 q / (1 - q)).
    right = np.array([0, 1, 2] * 20)
    label = right.copy()
    label[:15] = (label[:15] + 1) % 3
    score = np.full((60, 3), 0.2)
    score[np.arange(60), right] = 0.6
    expected = np.log(3) / np.log(6)
    assert temperature(label, score) == pytest.approx(expected, rel=1e-5)
    made = tempered(score, expected, "multiclass")
    assert made[np.arange(60), right] == pytest.approx(np.full(60, 0.75))


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_no_temperature_is_better(task: str) -> None:
    p = table(task=task)
    found = fit(p)
    assert set(found.groups) == {"F", "M"}
    made = found.apply(p)
    grid = np.exp(np.linspace(-3, 3, 301))
    for code, name in enumerate(("F", "M")):
        rows = np.flatnonzero(p.attributes["sex"].codes == code)
        for j, (before, after) in enumerate(zip(p.per_target(), made.per_target())):
            y, s = before.label[rows], before.score[rows]
            losses = [log_loss(y, tempered(s, t, task)) for t in grid]
            assert log_loss(y, after.score[rows]) <= min(losses) + 1e-9
            assert found.groups[name][j] == pytest.approx(grid[np.argmin(losses)], rel=0.021)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_it_is_the_same_after_json(task: str) -> None:
    p = table(task=task)
    found = fit(p)
    text = json.dumps(found.to_json(), allow_nan=False)
    again = type(member("group_temperature")).restore(json.loads(text))
    fresh = table(seed=4, task=task)
    assert again == found
    assert np.array_equal(again.apply(fresh).score, found.apply(fresh).score)
    if task == "multiclass":
        assert again.apply(fresh).score.sum(axis=1) == pytest.approx(np.ones(400))


def test_ranks_within_a_group_stay_and_those_of_all_may_not() -> None:
    p = table()
    made = fit(p).apply(p)
    sex = p.attributes["sex"].codes
    for code in (0, 1):
        own = sex == code
        assert roc_auc_score(p.label[own], made.score[own]) == roc_auc_score(
            p.label[own], p.score[own]
        )
    assert roc_auc_score(p.label, made.score) != roc_auc_score(p.label, p.score)


def test_rows_without_a_temperature_of_their_own_get_the_pooled_one() -> None:
    p = table()
    codes = p.attributes["sex"].codes.copy()
    codes[:19] = 2  # X has 19 rows
    codes[19:60] = 3  # Y has one class
    label = p.label.copy()
    label[19:60] = 1
    codes[60:70] = -1
    sex = Attribute("sex", ("F", "M", "X", "Y", "Z"), codes)
    p = replace(p, label=label, attributes={"sex": sex})
    found = fit(p)
    assert found.lacking == ("X", "Y")
    assert found.named == ("F", "M")
    assert found.pooled == (temperature(p.label, p.score),)
    made = found.apply(p)
    pooled = tempered(p.score, found.pooled[0], "binary")
    assert np.array_equal(made.score[:70], pooled[:70])
    assert not np.isclose(made.score[70:], pooled[70:]).all()
    # A group that was not there, and a table without the attribute.
    for attributes in ({"sex": Attribute("sex", ("O",), np.zeros(400, dtype=np.int64))}, {}):
        assert np.array_equal(found.apply(replace(p, attributes=attributes)).score, pooled)


def test_a_target_of_one_class_shares_its_temperature_alone() -> None:
    p = table(task="multilabel")
    label = p.label.copy()
    label[p.attributes["sex"].codes == 0, 1] = 0
    found = fit(replace(p, label=label))
    assert found.lacking == ("F",)
    assert found.groups["F"][1] == found.pooled[1]
    assert found.groups["F"][0] != found.pooled[0]


def test_scores_that_say_nothing_stay() -> None:
    p = table()
    half = replace(p, score=np.full(400, 0.5))
    assert fit(half).pooled == (1.0,)
    assert np.array_equal(fit(half).apply(half).score, half.score)
    one = replace(p, label=np.zeros(400, dtype=np.int64))
    assert fit(one).pooled == (1.0,)
    # As sure as can be, and wrong now and then: still chances.
    sure = replace(p, score=np.round(p.score))
    made = fit(sure).apply(sure)
    assert ((made.score > 0) & (made.score < 1)).all()


def test_one_group_is_refused() -> None:
    p = table()
    with pytest.raises(DataError, match="'group_temperature' needs validation rows of at least"):
        fit(p.take(p.attributes["sex"].codes == 1))
