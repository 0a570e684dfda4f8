"""Threshold rules, their cross-fit, and group minima."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_tables import table
from sklearn.metrics import roc_curve

from fairtune.errors import ConfigError, DataError, Problems
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import GroupMinimum, ThresholdRule
from fairtune.evaluation.thresholds import decide, fit_threshold, patient_folds


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(2, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    label = rng.integers(0, 2, n)
    label[:2] = [0, 1]
    return label, rng.integers(0, draw(st.integers(1, 20)) + 1, n) / 7 - 1


@given(scored())
@settings(max_examples=60)
def test_youden_is_the_best_point_of_the_roc_curve(data: tuple[np.ndarray, np.ndarray]) -> None:
    label, score = data
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    called = score >= ThresholdRule("youden").fit(label, score)
    index = called[label == 1].mean() - called[label == 0].mean()
    assert index == pytest.approx((tpr - fpr).max())


@given(scored(), st.floats(0.05, 1))
@settings(max_examples=60)
def test_sensitivity_and_specificity_are_met_and_tight(
    data: tuple[np.ndarray, np.ndarray], level: float
) -> None:
    label, score = data
    cut = ThresholdRule("sensitivity", level).fit(label, score)
    assert (score[label == 1] >= cut).mean() >= level - 1e-9
    above = score[score > cut]
    if len(above):
        assert (score[label == 1] >= above.min()).mean() < level
    cut = ThresholdRule("specificity", level).fit(label, score)
    assert (score[label == 0] < cut).mean() >= level - 1e-9
    below = score[score < cut]
    if len(below):
        assert (score[label == 0] < below.max()).mean() < level


@given(scored())
@settings(max_examples=60)
def test_prevalence_calls_as_many_as_there_are_but_for_ties(
    data: tuple[np.ndarray, np.ndarray],
) -> None:
    label, score = data
    cut = ThresholdRule("prevalence").fit(label, score)
    assert (score >= cut).sum() >= label.sum() > (score > cut).sum()


@pytest.mark.parametrize(
    "given_",
    ["youden", "prevalence", {"fixed": 0.5}, {"sensitivity": 0.9}, {"specificity": 0.95}],
)
def test_rules_round_trip(given_: str | dict[str, float]) -> None:
    rule = ThresholdRule.parse(given_)
    assert rule.to_dict() == given_
    assert ThresholdRule.parse(rule.to_dict()) == rule
    assert ThresholdRule.parse(str(rule)) == rule


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ("yuden", "did you mean 'youden'"),
        ("youden=0.5", "takes no number"),
        ("fixed", "needs a number"),
        ("sensitivity=1.5", "at most 1"),
        ("fixed=half", "expected a number"),
        ({"fixed": 0.5, "youden": 1}, "expected one rule"),
    ],
)
def test_rules_that_cannot_be(given_: str | dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ThresholdRule.parse(given_)
    assert message in str(caught.value)


def test_a_rule_without_its_class_is_an_error() -> None:
    with pytest.raises(DataError, match="cannot be fitted"):
        ThresholdRule("youden").fit(np.zeros(5, dtype=int), np.arange(5.0))
    assert ThresholdRule("fixed", 0.3).fit(np.zeros(5, dtype=int), np.arange(5.0)) == 0.3


def test_group_minimum_round_trips_and_refuses() -> None:
    minimum = GroupMinimum(5, 2, 3)
    assert GroupMinimum.from_dict(minimum.to_dict()) == minimum
    assert GroupMinimum.parse(str(minimum)) == minimum
    assert GroupMinimum.parse("n=5") == GroupMinimum(5, 10, 10)
    with pytest.raises(Problems):
        GroupMinimum(0, 0, 1)
    with pytest.raises(ConfigError, match="did you mean 'positives'"):
        GroupMinimum.from_dict({"positive": 3})
    with pytest.raises(ConfigError, match="expected KEY"):
        GroupMinimum.parse("n=many")


def test_folds_never_share_a_patient_and_spread_the_positives() -> None:
    p = table(500, per_patient=3)
    fold = patient_folds(p.patient, p.label, 5, seed=1)
    for patient in np.unique(p.patient):
        assert len(np.unique(fold[p.patient == patient])) == 1
    first = np.unique(p.patient, return_index=True)[1]
    positives = np.bincount(fold[first], weights=p.label[first])
    assert np.ptp(positives) <= 1
    assert np.ptp(np.bincount(fold[first])) <= 1


def test_cross_fitting_takes_away_the_optimism_of_a_fit_on_its_own_rows() -> None:
    def youden(p: Predictions, called: np.ndarray) -> float:
        return float(called[p.label == 1].mean() - called[p.label == 0].mean())

    own, crossed = [], []
    for seed in range(40):
        p = table(80, 2, seed=seed, signal=0.0)
        own.append(youden(p, p.score >= float(fit_threshold(p, ThresholdRule()))))  # type: ignore[arg-type]
        crossed.append(youden(p, decide(p, ThresholdRule(), seed=seed)))
    # Scores are pure noise, so the truth is 0.
    assert np.mean(own) > 0.1
    assert abs(np.mean(crossed)) < 0.05


def test_a_number_is_frozen_and_a_fixed_rule_is_that_number() -> None:
    p = table(100)
    assert (decide(p, 0.4) == (p.score >= 0.4)).all()
    assert (decide(p, ThresholdRule("fixed", 0.4)) == (p.score >= 0.4)).all()


def test_too_few_patients_for_a_cross_fit() -> None:
    p = table(20)
    lone = Predictions(p.label, p.score, p.attributes, patient=np.zeros(20, dtype=int))
    with pytest.raises(DataError, match="at least two"):
        decide(lone, ThresholdRule())
