"""Moments of a sum of squares over patients, against matrices and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t

from fairtune.evaluation.clusters import quantile, trust

SIZES = st.lists(st.integers(1, 9), min_size=2, max_size=12)


@given(SIZES)
def test_moments_equal_the_traces_of_the_matrices(sizes: list[int]) -> None:
    n = np.array(sizes, dtype=float)
    away = np.eye(len(n)) - np.outer(n / n.sum(), np.ones(len(n)))
    b, w = away.T @ away, np.diag(n**2)
    found = trust(n)
    assert found.inflation == pytest.approx(np.trace(w) / np.trace(b @ w))
    assert found.freedom == pytest.approx(np.trace(b @ w) ** 2 / np.trace(b @ w @ b @ w))
    assert found.inflation >= 1
    assert found.freedom <= len(n) - 1 + 1e-9


@given(st.integers(2, 300), st.integers(1, 6))
def test_patients_of_equal_size_lose_one_degree(patients: int, rows: int) -> None:
    found = trust(np.full(patients, rows))
    assert found.inflation == pytest.approx(patients / (patients - 1))
    assert found.freedom == pytest.approx(patients - 1)


def test_inflation_removes_the_bias_when_rows_of_a_patient_are_one() -> None:
    sizes = np.array([4, 3, 1, 1, 2])
    value = np.random.default_rng(0).standard_normal((200_000, len(sizes)))
    mean = value @ sizes / sizes.sum()
    squares = ((sizes * (value - mean[:, None])) ** 2).sum(axis=1)
    of = trust(sizes)
    assert of.inflation * squares.mean() == pytest.approx((sizes**2).sum(), rel=0.01)
    assert 2 * squares.mean() ** 2 / squares.var() == pytest.approx(of.freedom, rel=0.02)


def test_quantiles_are_those_of_t_and_of_the_normal() -> None:
    for tail in (0.025, 0.001, 0.2):
        assert quantile(tail) == pytest.approx(norm.isf(tail))
        assert quantile(tail, 3.7) == pytest.approx(t.isf(tail, 3.7))
        assert quantile(tail, 1e9) == pytest.approx(norm.isf(tail), rel=1e-6)
