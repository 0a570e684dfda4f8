"""Thresholds by group against fairlearn itself and by hand; one lot for each patient."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fairlearn.metrics import equalized_odds_difference
from fairlearn.postprocessing import ThresholdOptimizer
from kit_post import member, simple, table
from scipy import special, stats
from sklearn.base import BaseEstimator

from fairtune.errors import DataError
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.rules import ThresholdRule
from fairtune.mitigation import post
from fairtune.mitigation.lots import FAR, Lots, Rule, lots, pooled_threshold, shifted
from fairtune.mitigation.methods.threshold_optimizer import CONSTRAINTS, OBJECTIVES


class Given(BaseEstimator):  # type: ignore[misc]
    """The scores as a model."""

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, x: Any, y: Any) -> Given:
        return self

    def predict(self, x: Any) -> Any:
        return x[:, 0]


def fairlearns(p: Predictions, constraint: str, objective: str) -> np.ndarray:
    """Return the chance of being called positive that fairlearn's own rule gives every row."""
    sex = p.attributes["sex"].codes
    fitted = ThresholdOptimizer(
        estimator=Given(), constraints=constraint, objective=objective, prefit=True,
        predict_method="predict",
    ).fit(p.score[:, None], p.label, sensitive_features=sex)  # fmt: skip
    return np.asarray(fitted._pmf_predict(p.score[:, None], sensitive_features=sex)[:, 1])


def chances(rule: Rule, p: Predictions) -> np.ndarray:
    """Return the chance of being called positive that our pieces give every row."""
    names = p.attributes["sex"].names
    return np.array(
        [
            sum(chance for chance, cut in rule.groups[names[g]] if s > cut)
            for s, g in zip(p.score, p.attributes["sex"].codes)
        ]
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("seed", range(3))
def test_the_chance_of_every_row_is_fairlearns(constraint: str, objective: str, seed: int) -> None:
    p = table(seed=seed)
    fitted = member("threshold_optimizer", constraint=constraint, objective=objective).fit(p)
    assert isinstance(fitted, Lots)
    assert chances(fitted.rules[0], p) == pytest.approx(
        fairlearns(p, constraint, objective), abs=1e-12
    )


def test_over_many_patients_the_share_called_positive_is_that_chance() -> None:
    p = table(n=200)
    fitted = member("threshold_optimizer").fit(p)
    expected = fairlearns(p, "equalized_odds", "balanced_accuracy_score")
    repeats = 4000
    total = np.zeros(len(p))
    for i in range(repeats):
        rows = np.arange(len(p)) + i * len(p)
        total += fitted.apply(replace(p, row=rows, patient=rows)).score >= 0.5
    error = np.sqrt(expected * (1 - expected) / repeats) + 1e-12
    assert (np.abs(total / repeats - expected) <= 4.5 * error).all()
    assert ((expected > 0.01) & (expected < 0.99)).any()


def test_by_hand_two_scales_are_brought_to_one() -> None:
    # Both groups are told apart without fault, between .2 and .8, and between .1 and .4.
    labels = [0] * 5 + [1] * 5
    p = simple([(labels, [0.2] * 5 + [0.8] * 5), (labels, [0.1] * 5 + [0.4] * 5)])
    fitted = member("threshold_optimizer").fit(p)
    assert fitted.to_json()["rules"][0]["groups"] == {
        "F": [[1.0, 0.5]], "M": [[1.0, 0.25]]
    }  # fmt: skip
    made = fitted.apply(p)
    # odds .4/.6 over odds 1/3 are 2, odds .1/.9 over 1/3 are 1/3
    assert made.score == pytest.approx([0.2] * 5 + [0.8] * 5 + [0.25] * 5 + [2 / 3] * 5)
    assert made.cut == 0.5


def test_by_hand_the_better_group_is_made_as_bad_as_the_worse() -> None:
    # M reaches no point above (FPR .2, TPR .8); F, without fault, is taken there by lots:
    # with chance p = (1 - .8) / (1 - .2) = .25 its score is not looked at and a row is positive
    # with chance .2; else it lies between the threshold .5 and "everyone", .8 to .2.
    labels = [0] * 10 + [1] * 10
    worse = [0.3] * 8 + [0.7] * 2 + [0.3] * 2 + [0.7] * 8
    p = simple([(labels, [0.2] * 10 + [0.8] * 10), (labels, worse)])
    (rule,) = member("threshold_optimizer").fit(p).to_json()["rules"]
    (low, middle, high) = rule["groups"]["F"]
    assert (low[1], middle[1], high[1]) == ("-inf", 0.5, "inf")
    assert [low[0], middle[0], high[0]] == pytest.approx([0.25 * 0.2 + 0.75 * 0.2, 0.6, 0.2])
    ((chance, cut),) = rule["groups"]["M"]
    assert (chance, cut) == (1.0, 0.5)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("seed", range(5))
def test_the_pooled_threshold_is_the_best_there_is(objective: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 12, 40) / 12
    label = (rng.random(40) < 0.2 + 0.5 * score).astype(np.int64)

    def worth(cut: float) -> float:
        called = score > cut
        if objective == "accuracy_score":
            return float((called == label).mean())
        return float(called[label == 1].mean() + (~called)[label == 0].mean()) / 2

    cuts = [-math.inf, *((np.arange(12) + 0.5) / 12), math.inf]
    found = pooled_threshold(label, score, objective)
    assert worth(found) == pytest.approx(max(map(worth, cuts)))
    assert pooled_threshold(np.ones(40, dtype=np.int64), score, objective) == 0.5
    nobody = pooled_threshold(np.array([1, 0, 0, 0]), np.array([0.1, 0.5, 0.6, 0.7]), objective)
    assert nobody == (math.inf if objective == "accuracy_score" else -math.inf)


def test_a_lot_is_uniform_and_names_a_patient_wherever_read() -> None:
    p = table(n=4000)
    drawn = lots(p)
    assert (drawn[::2] == drawn[1::2]).all()  # two rows of each patient
    assert stats.kstest(drawn[::2], "uniform").pvalue > 0.01
    assert abs(np.corrcoef(drawn[::2], lots(p, target=1)[::2])[0, 1]) < 0.08
    # Other codes of the patients, another order of rows, a part of them: the same lots.
    shuffled = np.random.default_rng(0).permutation(len(p))
    other = replace(p, patient=90_000 - 3 * p.patient).take(shuffled)
    assert np.array_equal(lots(other), drawn[shuffled])
    assert np.array_equal(lots(p.take(p.patient >= 500)), drawn[p.patient >= 500])
    # Fixed for good: they are part of what a stored run has been judged by.
    fixed = [0.4969335997222959, 0.3883472599707779, 0.3487513856089467]
    assert lots(simple([([0, 1, 1], [0.1] * 3)])) == pytest.approx(fixed)


def test_a_patient_is_decided_alike_on_all_images() -> None:
    p = table(n=300, rows=3)
    sex = Attribute("sex", ("F", "M"), p.attributes["sex"].codes[p.patient * 3])
    p = replace(p, attributes={"sex": sex})
    fitted = member("threshold_optimizer").fit(p)
    same = replace(p, score=np.full(len(p), 0.4))
    made = fitted.apply(same).score.reshape(-1, 3)
    assert (made == made[:, :1]).all()
    assert len(np.unique(made)) > 1


def test_shifted_scores_keep_order_and_decisions() -> None:
    rng = np.random.default_rng(1)
    score = np.sort(special.expit(rng.normal(0, 4, 500)))
    for cut in (-math.inf, 1e-9, 0.2, 0.5, 0.999, math.inf):
        made = shifted(score, np.full(500, cut))
        assert ((made > 0) & (made < 1)).all()
        assert np.array_equal(made >= 0.5, score > cut)
        assert (np.diff(made) > 0).all()
        if abs(special.logit(np.clip(cut, 0, 1))) < FAR:
            expected = special.expit(special.logit(score) - special.logit(cut))
            assert made == pytest.approx(expected, abs=1e-12)
    extreme = np.array([0.0, 0.0, 1.0, 1.0])
    made = shifted(extreme, np.array([-math.inf, math.inf, -math.inf, math.inf]))
    assert list(made >= 0.5) == [True, False, True, False]
    assert ((made > 0) & (made < 1)).all()
    # A threshold itself is below: fairlearn's rule is `>`.
    near = np.array([0.3, np.nextafter(0.3, 1), np.nextafter(0.3, 0)])
    assert list(shifted(near, np.full(3, 0.3)) >= 0.5) == [False, True, False]


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_it_is_the_same_rule_after_json(task: str) -> None:
    p = table(task=task)
    fitted = member("threshold_optimizer").fit(p)
    text = json.dumps(fitted.to_json(), allow_nan=False)
    again = type(member("threshold_optimizer")).restore(json.loads(text))
    assert again == fitted
    fresh = table(seed=9, task=task)
    assert np.array_equal(again.apply(fresh).score, fitted.apply(fresh).score)


def test_every_target_has_thresholds_of_its_own() -> None:
    p = table(task="multilabel")
    made = member("threshold_optimizer").fit(p).apply(p)
    for j, one in enumerate(p.per_target()):
        alone = member("threshold_optimizer").fit(one)
        assert isinstance(alone, Lots)
        sex = one.attributes["sex"]
        cut = alone.rules[0].thresholds(sex.codes, lots(one, j))
        assert np.array_equal(made.score[:, j], shifted(one.score, cut))
    assert made.cut == 0.5


def test_rows_without_a_rule_of_their_own_get_the_pooled_threshold() -> None:
    p = table()
    fitted = member("threshold_optimizer").fit(p)
    (pooled,) = (rule.pooled for rule in fitted.rules)  # type: ignore[attr-defined]
    assert pooled == pytest.approx(
        ThresholdRule().fit(p.label, p.score), abs=0.02
    )  # Youden's index is balanced accuracy
    expected = shifted(p.score, np.full(len(p), pooled))
    unknown = Attribute("sex", ("F", "M"), np.full(len(p), -1))
    others = Attribute("sex", ("O", "M"), np.zeros(len(p), dtype=np.int64))
    for attributes in ({"sex": unknown}, {"sex": others}, {}):
        made = fitted.apply(replace(p, attributes=attributes))
        assert np.array_equal(made.score, expected)
    # By names, whatever their order: here F has the code 1.
    turned = Attribute("sex", ("M", "F"), 1 - p.attributes["sex"].codes)
    assert np.array_equal(
        fitted.apply(replace(p, attributes={"sex": turned})).score, fitted.apply(p).score
    )


def test_a_group_of_one_class_takes_no_part() -> None:
    p = table()
    codes = p.attributes["sex"].codes.copy()
    codes[:30] = 2
    label = p.label.copy()
    label[:30] = 0
    label[30:34] = 1
    three = replace(p, label=label, attributes={"sex": Attribute("sex", ("F", "M", "X"), codes)})
    fitted = member("threshold_optimizer").fit(three)
    assert fitted.lacking == ("X",)
    assert fitted.named == ("F", "M")
    rest = np.arange(30, len(p))
    alone = member("threshold_optimizer").fit(three.take(rest))
    assert fitted.rules[0].groups == alone.rules[0].groups  # type: ignore[attr-defined]
    made = fitted.apply(three)
    cut = fitted.rules[0].pooled  # type: ignore[attr-defined]
    assert np.array_equal(made.score[:30], shifted(three.score[:30], np.full(30, cut)))
    # Four positives are too few as well: then one group is left, and all share one threshold.
    few = np.flatnonzero((codes != 1) | (np.cumsum((codes == 1) & (label == 1)) < 5))
    shared = member("threshold_optimizer").fit(three.take(few))
    assert set(shared.lacking) == {"F", "M", "X"}


def test_constant_scores_stay_in_bounds_and_say_nothing() -> None:
    from fairtune.evaluation.scoring import degenerate

    p = replace(table(), score=np.full(400, 0.3))
    made = member("threshold_optimizer").fit(p).apply(p)
    assert ((made.score > 0) & (made.score < 1)).all()
    assert degenerate(made) is not None


def test_one_group_or_no_such_attribute_is_refused() -> None:
    p = table()
    with pytest.raises(DataError, match="at least two groups") as caught:
        member("threshold_optimizer").fit(p.take(p.attributes["sex"].codes == 0))
    assert isinstance(caught.value.found, dict)
    assert caught.value.found["M"] == 0
    with pytest.raises(DataError, match="no such attribute"):
        member("threshold_optimizer", attribute="age").fit(p)


def test_a_crossing_is_an_attribute() -> None:
    p = table(n=1200)
    age = Attribute("age", ("<60", "60+"), np.arange(1200) % 2)
    p = replace(p, attributes={**p.attributes, "age": age})
    fitted = member("threshold_optimizer", attribute="age*sex").fit(p)
    assert fitted.named == ("<60 * F", "<60 * M", "60+ * F", "60+ * M")
    made = fitted.apply(replace(p, attributes={"sex": p.attributes["sex"]}))
    unknown = fitted.apply(replace(p, attributes={}))
    assert np.array_equal(made.score, unknown.score)


def test_what_it_makes_equal_is_less_equal_on_rows_it_was_not_fitted_on() -> None:
    # Therefore validation is read cross-fitted (see docs/post-processing.md).
    members = (member("threshold_optimizer"),)
    more = []
    for seed in range(30):
        p = table(n=300, seed=seed, rows=1)
        inside, crossed = (
            equalized_odds_difference(
                made.label, made.score >= 0.5, sensitive_features=made.attributes["sex"].codes
            )
            for made in (post.apply(post.fit(members, p), p), post.cross_fitted(members, p))
        )
        more.append(crossed - inside)
    assert np.mean(more) > 2 * np.std(more) / np.sqrt(len(more))
