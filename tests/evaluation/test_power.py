"""What a validation set can tell, against closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from prediction_tables import table

from fairtune.evaluation.intervals import hanley_mcneil
from fairtune.evaluation.power import as_rows, expected_best, outlook, smallest_gap
from fairtune.evaluation.rules import GroupMinimum

MINIMUM = GroupMinimum()


def test_expected_best_has_its_closed_forms() -> None:
    assert expected_best(1) == 0
    assert expected_best(2) == pytest.approx(1 / np.sqrt(np.pi))
    assert expected_best(3, se=2) == pytest.approx(2 * 1.5 / np.sqrt(np.pi))
    drawn = np.random.default_rng(0).standard_normal((20_000, 100)).max(axis=1).mean()
    assert expected_best(100) == pytest.approx(drawn, abs=0.01)
    assert expected_best(100_000) == pytest.approx(4.3841, abs=1e-3)


def test_the_measured_example_of_the_plan() -> None:
    # Seed SD .03 and validation SD .034, best of 100.
    optimism = expected_best(100, float(np.hypot(0.03, 0.034)))
    assert 0.09 < optimism < 0.13


def test_smallest_gap_of_two_groups_is_the_two_sample_formula() -> None:
    found = smallest_gap([0.03, 0.04])
    assert found == pytest.approx((1.96 + 0.8416) * 0.05, rel=0.02)


def test_a_gap_of_that_size_is_told_from_the_floor_four_times_in_five() -> None:
    errors = np.array([0.02, 0.05, 0.03, 0.03])
    gap = smallest_gap(list(errors))
    rng = np.random.default_rng(9)
    noise = rng.standard_normal((40_000, 4)) * errors
    floor = np.quantile(np.ptp(noise, axis=1), 0.95)
    shifted = rng.standard_normal((40_000, 4)) * errors
    shifted[:, 1] -= gap
    assert (np.ptp(shifted, axis=1) > floor).mean() == pytest.approx(0.8, abs=0.02)


def test_outlook_counts_and_speaks() -> None:
    p = table(160, 3, per_patient=2)
    found = outlook(p, "age", minimum=MINIMUM, trials=60)
    assert [g.group for g in found.groups] == ["g0", "g1", "g2"]
    for code, group in enumerate(found.groups):
        rows = np.flatnonzero(p.attribute("age").codes == code)
        assert (group.n, group.positives) == (len(rows), p.label[rows].sum())
        assert group.effective == pytest.approx(group.patients)
        assert group.se > hanley_mcneil(0.8, group.positives, group.negatives)
    assert found.sentence.startswith("this validation set cannot rank masks by worst_auc@age")
    many = outlook(table(20_000, 2), "age", minimum=MINIMUM, trials=60)
    assert many.sentence.startswith("this validation set can rank masks")
    assert many.smallest_gap is not None
    assert found.smallest_gap is not None
    assert many.smallest_gap < 0.1 * found.smallest_gap * 2
    assert many.optimism < found.optimism  # type: ignore[operator]
    rows = as_rows({"age": found})
    assert rows[0]["attribute"] == "age"
    assert {"group", "patients", "effective", "se", "eligible"} <= set(rows[0])


def test_outlook_without_two_groups_says_so() -> None:
    p = table(30, 3)
    found = outlook(p, "age", minimum=MINIMUM, trials=60)
    assert found.smallest_gap is None
    assert "fewer than two groups" in found.sentence


def test_scores_are_not_looked_at() -> None:
    p = table(300, 2)
    flipped = type(p)(p.label, 1 - p.score, p.attributes, p.patient)
    assert outlook(p, "age", minimum=MINIMUM, trials=10) == outlook(
        flipped, "age", minimum=MINIMUM, trials=10
    )
