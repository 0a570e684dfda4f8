"""The bench of two objectives: its area and its problems are what they claim."""

from __future__ import annotations

import fronts
import numpy as np
import pytest


def test_the_area_is_that_of_the_union_of_rectangles() -> None:
    points = np.array([[0.0, -1.0], [-1.0, 0.0], [-1.5, -1.5], [-3.0, 5.0]])
    # 2 x 1 and 1 x 2 share 1 x 1; the third lies inside, the last left of the floor.
    assert fronts.volume(points) == pytest.approx(3.0)
    rng = np.random.default_rng(0)
    points = rng.normal(size=(12, 2))
    seen = rng.uniform(-2, 4, (40_000, 2))
    inside = (seen[:, None, :] <= points).all(axis=2).any(axis=1).mean()
    assert fronts.volume(points) == pytest.approx(36 * inside, rel=0.05)


def test_the_objectives_pull_against_each_other_with_equal_spread() -> None:
    rng, pulls = np.random.default_rng(1), []
    for seed in range(6):
        pair = fronts.objectives("depth", 4, seed)
        seen = np.array([fronts.values(pair, rng.choice([-1.0, 1.0], 48)) for _ in range(500)])
        assert seen.std(axis=0)[0] == pytest.approx(1, abs=0.15)
        pulls.append(np.corrcoef(seen.T)[0, 1])
    assert np.mean(pulls) < -0.2


def test_a_study_reports_its_front() -> None:
    (row,) = fronts.measure(["random"], ["sparse-24"], [0], 8)
    assert row["reported"] > 0
    assert 1 <= row["points"] <= 8
