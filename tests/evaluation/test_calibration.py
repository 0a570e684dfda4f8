"""Calibration against brute force, an optimiser and the fairmedfm package."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fairmedfm.metrics import expected_calibration_error
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize
from scipy.special import expit, logit

from fairtune.evaluation.calibration import calibration_intercept, calibration_slope, ece


def data(n: int, seed: int = 0, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = rng.beta(1.2, 1.6, n)
    if levels:
        score = (np.floor(score * levels) + 0.5) / levels
    label = (rng.random(n) < score**1.3).astype(float)
    label[:2] = [0, 1]
    return label, score


def brute_ece(label: np.ndarray, score: np.ndarray, debiased: bool) -> float:
    """Row by row: mid-rank, bin, then a sum over bins."""
    n = len(label)
    bins: dict[int, list[int]] = {}
    for i in range(n):
        below, same = (score < score[i]).sum(), (score == score[i]).sum()
        bins.setdefault(min(9, math.floor(10 * (below + same / 2) / n + 1e-9)), []).append(i)
    total = 0.0
    for rows in bins.values():
        y, s = label[rows], score[rows]
        error = abs(s.mean() - y.mean())
        if debiased:
            sd = math.sqrt(y.mean() * (1 - y.mean()) / len(rows))
            folded = stats.foldnorm.mean(error / sd, scale=sd) if sd > 0 else error
            error = 2 * error - folded
        total += len(rows) / n * error
    return max(0.0, total)


@given(st.integers(2, 80), st.integers(0, 999), st.sampled_from([None, 1, 4, 15]))
@settings(max_examples=60, deadline=None)
def test_ece_equals_brute_force(n: int, seed: int, levels: int | None) -> None:
    label, score = data(n, seed, levels)
    one = np.ones((n, 1))
    plain = ece(label, score, one, estimator="plugin")[0]
    assert plain == pytest.approx(brute_ece(label, score, False), abs=1e-10)
    assert ece(label, score, one)[0] == pytest.approx(brute_ece(label, score, True), abs=1e-10)


def test_plugin_ece_equals_fairmedfm_with_quantile_bins() -> None:
    for seed in range(5):
        label, score = data(400, seed)
        theirs = expected_calibration_error(score, label, 10, quantile_bins=True)
        ours = ece(label, score, np.ones((400, 1)), estimator="plugin")[0]
        assert ours == pytest.approx(theirs, abs=1e-9)


def test_debiased_ece_is_nearer_the_truth_than_the_plugin() -> None:
    rng = np.random.default_rng(0)
    plain, debiased = [], []
    for _ in range(300):
        score = rng.uniform(0.1, 0.9, 100)
        label = (rng.random(100) < score).astype(float)
        one = np.ones((100, 1))
        plain.append(ece(label, score, one, estimator="plugin")[0])
        debiased.append(ece(label, score, one)[0])
    assert np.mean(plain) > 0.09
    # The normal approximation takes off about 40 % of the bias of a calibrated model.
    assert np.mean(debiased) < 0.7 * np.mean(plain)
    # A model that is wrong by 0.2 everywhere is read as that by both.
    score = rng.uniform(0.1, 0.7, 100_000)
    label = (rng.random(100_000) < score + 0.2).astype(float)
    found = ece(label, score, np.ones((100_000, 1)))[0]
    assert found == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_slope_and_intercept_maximise_the_likelihood(seed: int) -> None:
    label, score = data(200, seed)
    weight = np.random.default_rng(seed).standard_exponential((200, 3))
    x = logit(score)
    for r in range(3):
        w = weight[:, r]

        def loss(theta: np.ndarray, w: np.ndarray = w) -> float:
            p = expit(theta[0] + theta[1] * x)
            return -float((w * (label * np.log(p) + (1 - label) * np.log(1 - p))).sum())

        best = minimize(loss, np.array([0.0, 1.0]), tol=1e-10)
        assert calibration_slope(label, score, weight)[r] == pytest.approx(best.x[1], abs=1e-4)
        only = minimize(lambda a: loss(np.array([a[0], 1.0])), np.zeros(1), tol=1e-10)
        found = calibration_intercept(label, score, weight)[r]
        assert found == pytest.approx(only.x[0], abs=1e-4)


def test_a_calibrated_model_has_slope_one_and_intercept_zero() -> None:
    rng = np.random.default_rng(1)
    score = rng.uniform(0.02, 0.98, 200_000)
    label = (rng.random(200_000) < score).astype(float)
    one = np.ones((200_000, 1))
    assert calibration_slope(label, score, one)[0] == pytest.approx(1, abs=0.02)
    assert calibration_intercept(label, score, one)[0] == pytest.approx(0, abs=0.02)
    half = expit(0.5 * logit(score))
    assert calibration_slope(label, half, one)[0] == pytest.approx(2, abs=0.04)


def test_separated_and_constant_scores_have_finite_slopes() -> None:
    label = np.r_[np.zeros(20), np.ones(20)]
    one = np.ones((40, 1))
    assert calibration_slope(label, np.linspace(0.1, 0.9, 40), one)[0] == 100
    assert calibration_slope(label, np.linspace(0.9, 0.1, 40), one)[0] == -100
    assert calibration_slope(label, np.full(40, 0.3), one)[0] == 0
    certain = label.copy()
    assert np.isfinite(calibration_intercept(label, certain, one)).all()
    certain[0] = 1.0
    assert np.isfinite(calibration_slope(label, certain, one)).all()
