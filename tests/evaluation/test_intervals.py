"""Intervals against closed forms and brute force, and their coverage by simulation."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from prediction_tables import table
from scipy.special import logit
from scipy.stats import norm, t

from fairtune.evaluation.clusters import quantile, trust
from fairtune.evaluation.intervals import (
    Estimate,
    auc_estimate,
    delong,
    drawn_pair,
    effective_patients,
    gap_interval,
    hanley_mcneil,
    mover,
    newcombe,
    rate_estimate,
    wilson,
    worst_interval,
)
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.rules import GroupMinimum
from fairtune.evaluation.scoring import group_table


def brute_delong(label: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    kernel = np.array(
        [[(x > y) + 0.5 * (x == y) for y in score[label == 0]] for x in score[label == 1]]
    )
    m, n = kernel.shape
    v10, v01 = kernel.mean(axis=1), kernel.mean(axis=0)
    return float(kernel.mean()), float(v10.var(ddof=1) / m + v01.var(ddof=1) / n)


@pytest.mark.parametrize("ties", [False, True])
def test_delong_equals_its_double_sum(ties: bool) -> None:
    p = table(60, ties=ties)
    found = delong(p.label, p.score, p.patient)
    held = (found.auc, found.variance)
    np.testing.assert_allclose(held, brute_delong(p.label, p.score), atol=1e-12)
    assert found.freedom == np.inf


def test_repeating_every_row_of_a_patient_changes_no_variance() -> None:
    p = table(80)
    once = delong(p.label, p.score, p.patient)
    twice = p.take(np.repeat(np.arange(80), 3))
    again = delong(twice.label, twice.score, twice.patient)
    assert again.auc == pytest.approx(once.auc)
    assert again.variance == pytest.approx(once.variance, rel=0.02)
    naive = delong(twice.label, twice.score, np.arange(240))
    assert naive.variance < 0.5 * once.variance


def test_clustered_variance_equals_the_sum_over_patients() -> None:
    rng = np.random.default_rng(3)
    patient = rng.integers(0, 25, 90)
    label, score = rng.integers(0, 2, 90), rng.random(90)
    kernel = (score[label == 1][:, None] > score[label == 0][None, :]).astype(float)
    m, n = kernel.shape
    theta = kernel.mean()
    pos, neg = patient[label == 1], patient[label == 0]
    s10 = s01 = s11 = 0.0
    for c in range(25):
        a = (kernel.mean(axis=1)[pos == c] - theta).sum()
        b = (kernel.mean(axis=0)[neg == c] - theta).sum()
        s10, s01, s11 = s10 + a * a, s01 + b * b, s11 + a * b
    of = [trust(np.unique(part, return_counts=True)[1]) for part in (pos, neg)]
    v10, v01 = of[0].inflation * s10 / m**2, of[1].inflation * s01 / n**2
    i = len(np.unique(patient))
    found = delong(label, score, patient)
    assert found.variance == pytest.approx(v10 + v01 + 2 * i / (i - 1) * s11 / (m * n))
    spread = v10**2 / of[0].freedom + v01**2 / of[1].freedom
    assert found.freedom == pytest.approx((v10 + v01) ** 2 / spread)
    scale = np.sqrt(found.variance) / (theta * (1 - theta))
    low = auc_estimate(label, score, patient).bound(0.025)[0]
    half = t.isf(0.025, found.freedom) * scale
    assert logit(theta) - logit(low) == pytest.approx(half)


@pytest.mark.parametrize("patient", [np.zeros(6), np.array([0, 0, 0, 1, 1, 2])])
def test_one_patient_with_positives_gives_no_variance(patient: np.ndarray) -> None:
    label, score = np.array([1, 1, 1, 0, 0, 0]), np.array([0.9, 0.4, 0.8, 0.3, 0.5, 0.1])
    assert delong(label, score, patient).variance == np.inf
    low, high = auc_estimate(label, score, patient).bound(0.025)
    assert 0 <= low < high <= 1


def test_logit_interval_stays_inside_and_perfect_ranking_has_a_lower_end() -> None:
    label = np.r_[np.zeros(15, dtype=int), np.ones(12, dtype=int)]
    perfect = auc_estimate(label, np.arange(27.0), np.arange(27))
    low, high = perfect.bound(0.025)
    assert perfect.value == 1
    assert high == 1
    assert 0.75 < low < 0.99
    almost = np.arange(27.0)
    almost[14], almost[15] = 15, 14
    low, high = auc_estimate(label, almost, np.arange(27)).bound(0.025)
    assert 0.8 < low < high < 1


def test_newcombe_ends_solve_its_equation() -> None:
    low, high = newcombe(0.8, 30, 40)
    for end in (low, high):
        half = quantile(0.025) * hanley_mcneil(end, 30, 40)
        assert abs(end - 0.8) == pytest.approx(half, rel=1e-6)
    assert newcombe(0.0, 10, 10)[0] == 0


def test_hanley_mcneil_at_one_half_is_the_wilcoxon_variance() -> None:
    m, n = 30, 50
    exact = np.sqrt((m + n + 1) / (12 * m * n))
    assert hanley_mcneil(0.5, m, n) == pytest.approx(exact, rel=1e-3)


def test_wilson_solves_the_score_equation() -> None:
    z = NormalDist().inv_cdf(0.975)
    for rate, n in ((0.3, 40), (0.05, 20), (0.9, 200)):
        for end in wilson(rate, n):
            assert abs(rate - end) == pytest.approx(z * np.sqrt(end * (1 - end) / n), rel=1e-6)
    assert wilson(0.0, 10) == (0.0, pytest.approx(z**2 / (10 + z**2)))
    assert wilson(1.0, 10)[1] == 1.0


def test_rates_of_repeated_rows_are_as_wide_as_those_of_patients() -> None:
    hits = np.random.default_rng(0).integers(0, 2, 100).astype(float)
    once = rate_estimate(hits, np.arange(100)).bound(0.025)
    thrice = rate_estimate(np.repeat(hits, 3), np.repeat(np.arange(100), 3)).bound(0.025)
    np.testing.assert_allclose(thrice, once, atol=0.002)
    never = rate_estimate(np.zeros(300), np.repeat(np.arange(100), 3)).bound(0.025)
    np.testing.assert_allclose(never, wilson(0.0, 100), atol=1e-12)


def test_effective_patients() -> None:
    assert effective_patients(np.arange(7)) == 7
    assert effective_patients(np.array([0, 0, 0, 1])) == pytest.approx(16 / 10)


def normal(value: float, se: float) -> Estimate:
    return Estimate(value, lambda tail: (value - quantile(tail) * se, value + quantile(tail) * se))


def test_worst_and_gap_follow_the_written_rule() -> None:
    groups = [normal(0.80, 0.02), normal(0.85, 0.03), normal(0.90, 0.01)]
    z, third = norm.isf(0.025), norm.isf(0.025 / 3)
    low, high = worst_interval(groups)
    assert low == pytest.approx(min(0.80 - z * 0.02, 0.85 - z * 0.03, 0.90 - z * 0.01))
    assert high == pytest.approx(min(0.80 + third * 0.02, 0.85 + third * 0.03, 0.9 + third * 0.01))
    mirrored = worst_interval([normal(-g.value, 0.02) for g in groups], higher=False)
    plain = worst_interval([normal(g.value, 0.02) for g in groups])
    assert mirrored == pytest.approx((-plain[1], -plain[0]))
    sixth = norm.isf(0.025 / 6)
    low, high = gap_interval(groups)
    errors = {
        (0, 1): np.hypot(0.02, 0.03),
        (0, 2): np.hypot(0.02, 0.01),
        (1, 2): np.hypot(0.03, 0.01),
    }
    values = {(0, 1): 0.05, (0, 2): 0.10, (1, 2): 0.05}
    assert low == pytest.approx(max(0, *(values[k] - sixth * errors[k] for k in values)))
    assert high == pytest.approx(max(values[k] + z * errors[k] for k in values))


def test_mover_of_normals_is_the_normal_interval() -> None:
    low, high = mover(normal(0.9, 0.03), normal(0.7, 0.04))
    assert (low, high) == pytest.approx((0.2 - 1.959964 * 0.05, 0.2 + 1.959964 * 0.05))


def test_groups_that_share_patients_are_compared_in_pairs() -> None:
    # Left and right eye of the same patients: errors cancel, so the paired interval is narrow.
    rng = np.random.default_rng(0)
    skill = rng.standard_normal(200)
    label = np.repeat(rng.integers(0, 2, 200), 2)
    score = np.repeat(skill + 1.5 * label[::2], 2) + 0.05 * rng.standard_normal(400)
    side = Attribute("side", ("left", "right"), np.tile([0, 1], 200))
    patient = np.repeat(np.arange(200), 2)
    kwargs = {"minimum": GroupMinimum(), "threshold": 0.5, "floors": False, "replicates": 500}
    paired = group_table(
        Predictions(label, score, {"side": side}, patient), ["auc_gap"], ["side"], **kwargs
    )
    apart = group_table(
        Predictions(label, score, {"side": side}, np.arange(400)), ["auc_gap"], ["side"], **kwargs
    )

    def width(rows: object) -> float:
        row = rows[rows["metric"] == "auc_gap"].iloc[0]  # type: ignore[index]
        return float(row["high"] - row["low"])

    assert width(paired) < 0.4 * width(apart)


def test_drawn_pairs_have_the_spread_of_the_difference() -> None:
    rng = np.random.default_rng(0)
    shared = rng.standard_normal(4000)
    draws = np.stack([shared, shared + 0.1 * rng.standard_normal(4000)])
    low, high = drawn_pair(np.array([0.0, 0.0]), draws)(0, 1, 0.025)
    assert (low, high) == (pytest.approx(-0.196, abs=0.02), pytest.approx(0.196, abs=0.02))


@pytest.mark.slow
@pytest.mark.parametrize("true", [[0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.6, 0.6]])
def test_worst_and_gap_intervals_cover(true: list[float]) -> None:
    """Binormal scores: AUC_g = Phi((1 - shift_g) / sqrt 2)."""
    rng = np.random.default_rng(1)
    aucs = norm.cdf((1.2 - np.array(true)) / np.sqrt(2))
    hits = {"worst": 0, "gap": 0}
    repeats = 400
    for _ in range(repeats):
        groups = []
        for shift in true:
            label = np.r_[np.ones(25, dtype=int), np.zeros(50, dtype=int)]
            score = rng.standard_normal(75) + (1.2 - shift) * label
            groups.append(auc_estimate(label, score, np.arange(75)))
        low, high = worst_interval(groups)
        hits["worst"] += low <= aucs.min() <= high
        low, high = gap_interval(groups)
        hits["gap"] += low <= np.ptp(aucs) <= high
    assert min(hits.values()) >= 0.93 * repeats, hits


def test_table_rows_carry_the_same_intervals() -> None:
    p = table(400)
    rows = group_table(
        p, ["auc", "eo_diff"], ["age"], minimum=GroupMinimum(), threshold=0.5, permutations=20
    )
    groups = [
        auc_estimate(p.label[r], p.score[r], p.patient[r])
        for r in (np.flatnonzero(p.attribute("age").codes == g) for g in range(3))
    ]
    worst = rows[rows["metric"] == "worst_auc"].iloc[0]
    assert (worst["low"], worst["high"]) == pytest.approx(worst_interval(groups))
    gap = rows[rows["metric"] == "auc_gap"].iloc[0]
    assert (gap["low"], gap["high"]) == pytest.approx(gap_interval(groups))
    eo = rows[rows["metric"] == "eo_diff"].iloc[0]
    assert eo["low"] <= eo["value"] <= eo["high"]
