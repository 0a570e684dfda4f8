"""Hostile tables: the rows of the table of cases in docs/metrics.md, one test each."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from fairlearn.metrics import equalized_odds_difference
from prediction_tables import table

from fairtune.errors import DataError
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.rules import GroupMinimum, ThresholdRule
from fairtune.evaluation.scoring import (
    degenerate,
    eligible_groups,
    evaluate_objectives,
    group_table,
)

MINIMUM = GroupMinimum(20, 10, 10)
DOCS = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def made(groups: dict[str, tuple[int, int]], unknown: int = 0, seed: int = 0) -> Predictions:
    """A table with (positives, negatives) per group."""
    code, label = [], []
    for g, (m, n) in enumerate(groups.values()):
        code += [g] * (m + n)
        label += [1] * m + [0] * n
    code += [-1] * unknown
    label += [i % 2 for i in range(unknown)]
    y = np.array(label)
    score = np.random.default_rng(seed).random(len(y)) * 0.6 + 0.3 * y
    return Predictions(y, score, {"age": Attribute("age", tuple(groups), np.array(code))})


FULL = {"a": (30, 30), "b": (30, 30)}
CASES: dict[str, tuple[dict[str, tuple[int, int]], dict[str, list[str]]]] = {
    "no positives": (
        {**FULL, "c": (0, 40)},
        {"auc": ["a", "b"], "tpr": ["a", "b"], "fpr": ["a", "b", "c"], "acc": ["a", "b", "c"]},
    ),
    "no negatives": (
        {**FULL, "c": (40, 0)},
        {"auc": ["a", "b"], "tpr": ["a", "b", "c"], "fpr": ["a", "b"], "nll": ["a", "b", "c"]},
    ),
    "no rows": (
        {**FULL, "c": (0, 0)},
        {"auc": ["a", "b"], "tpr": ["a", "b"], "acc": ["a", "b"], "ece": ["a", "b"]},
    ),
    "one row": (
        {**FULL, "c": (1, 0)},
        {"auc": ["a", "b"], "tpr": ["a", "b"], "acc": ["a", "b"], "nll": ["a", "b"]},
    ),
    "too few positives": (
        {**FULL, "c": (9, 31)},
        {"auc": ["a", "b"], "tpr": ["a", "b"], "fpr": ["a", "b", "c"], "brier": ["a", "b", "c"]},
    ),
    "just enough": (
        {**FULL, "c": (10, 10)},
        {"auc": ["a", "b", "c"], "tpr": ["a", "b", "c"], "ece": ["a", "b", "c"]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_eligibility_is_that_of_the_table_of_cases(case: str) -> None:
    groups, expected = CASES[case]
    p = made(groups)
    for metric, names in expected.items():
        mask = eligible_groups(p, "age", metric, MINIMUM)
        assert [name for name, e in zip(groups, mask) if e] == names, metric
    rows = group_table(
        p, list(expected), ["age"], minimum=MINIMUM, threshold=0.5, replicates=50, permutations=20
    )
    by_group = rows[rows["group"].notna()]
    assert (by_group["value"].notna() == by_group["eligible"]).all()
    plain = made({name: counts for name, counts in groups.items() if name in expected["auc"]})
    keep = np.isin(p.attribute("age").codes, [list(groups).index(n) for n in expected["auc"]])
    assert plain.label.tolist() == p.label[keep].tolist()
    objective = Objective.parse("worst_auc@age")
    full = evaluate_objectives(p, [objective], minimum=MINIMUM, threshold=0.5)
    kept = evaluate_objectives(p.take(keep), [objective], minimum=MINIMUM, threshold=0.5)
    assert full == kept


@pytest.mark.parametrize("case", [*CASES, "unknown attribute", "one eligible group", "NaN score"])
def test_the_documentation_lists_the_case(case: str) -> None:
    assert f"| {case} |" in DOCS.read_text()


def test_eligibility_never_depends_on_scores() -> None:
    p = made({"a": (30, 30), "b": (15, 15), "c": (5, 40)})
    flat = Predictions(p.label, np.zeros(len(p)), p.attributes)
    for metric in ("auc", "tpr", "ppv", "ece", "acc"):
        same = eligible_groups(p, "age", metric, MINIMUM) == eligible_groups(
            flat, "age", metric, MINIMUM
        )
        assert same.all()


def test_unknown_counts_overall_and_is_never_eligible() -> None:
    p = made(FULL, unknown=200)
    rows = group_table(
        p, ["auc"], ["age"], minimum=MINIMUM, threshold=0.5, replicates=50, permutations=20
    )
    overall = rows[rows["attribute"].isna()].iloc[0]
    assert overall["n"] == len(p)
    unknown = rows[rows["group"] == "unknown"].iloc[0]
    assert (unknown["n"], bool(unknown["eligible"])) == (200, False)
    assert unknown["value"] > 0
    without = p.take(p.attribute("age").codes >= 0)
    text = [Objective.parse("auc_gap@age")]
    assert evaluate_objectives(p, text, minimum=MINIMUM, threshold=0.5) == evaluate_objectives(
        without, text, minimum=MINIMUM, threshold=0.5
    )


@pytest.mark.parametrize("text", ["worst_auc@age", "auc_gap@age", "es_auc@age", "eo_diff@age"])
def test_one_eligible_group_is_an_error_that_names_the_counts(text: str) -> None:
    p = made({"a": (30, 30), "b": (4, 5)})
    with pytest.raises(DataError) as caught:
        evaluate_objectives(p, [Objective.parse(text)], minimum=MINIMUM, threshold=0.5)
    message = str(caught.value)
    assert text in message
    assert "b: 9 rows, 4 positives, 5 negatives" in message
    assert "n=20,positives=10,negatives=10" in message


def test_the_table_shows_a_reduction_without_groups_as_not_eligible() -> None:
    p = made({"a": (30, 30), "b": (4, 5)})
    rows = group_table(
        p, ["auc"], ["age"], minimum=MINIMUM, threshold=0.5, replicates=50, permutations=20
    )
    gap = rows[rows["metric"] == "auc_gap"].iloc[0]
    assert np.isnan(gap["value"])
    assert not gap["eligible"]


def test_a_group_without_negatives_differs_from_fairlearn_as_documented() -> None:
    p = made({"a": (30, 30), "b": (30, 30), "c": (40, 0)})
    decided = (p.score >= 0.5).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = equalized_odds_difference(
            p.label, decided, sensitive_features=p.attribute("age").codes
        )
    rows = group_table(
        p, ["fpr", "tpr"], ["age"], minimum=MINIMUM, threshold=0.5, intervals=False, floors=False
    )
    rates = rows[rows["group"].notna()]
    fpr = rates[(rates["metric"] == "fpr") & rates["eligible"]]["value"]
    ours = evaluate_objectives(p, [Objective.parse("eo_diff@age")], minimum=MINIMUM, threshold=0.5)
    # fairlearn calls the FPR of a group without negatives 0, so its gap is the largest FPR.
    assert theirs == pytest.approx(float(fpr.max()))
    assert ours["eo_diff@age"] < theirs


def test_nan_scores_are_refused_with_their_rows() -> None:
    p = made(FULL)
    score = p.score.copy()
    score[[3, 8]] = np.nan
    with pytest.raises(DataError, match="rows 3, 8 are not"):
        Predictions(p.label, score, p.attributes)


def test_a_minority_of_one_class_is_never_read_as_perfect() -> None:
    # The old evaluator scored this table as gap 0 and worst AUC = the healthy group.
    p = made({"a": (30, 30), "b": (3, 14)})
    objectives = [Objective.parse(t) for t in ("auc_gap@age", "worst_auc@age")]
    for objective in objectives:
        with pytest.raises(DataError):
            evaluate_objectives(p, [objective], minimum=MINIMUM, threshold=0.5)


def test_predictive_values_of_a_group_nobody_was_called_from_are_zero() -> None:
    p = made(FULL)
    score = np.where(p.attribute("age").codes == 0, 0.1, p.score)
    q = Predictions(p.label, score, p.attributes)
    found = evaluate_objectives(
        q, [Objective.parse("worst_ppv@age")], minimum=MINIMUM, threshold=0.5
    )
    assert found["worst_ppv@age"] == 0


@pytest.mark.parametrize(
    ("score", "word"),
    [
        (lambda p: np.full(len(p), 0.5), "constant"),
        (lambda p: 0.5 + 1e-6 * p.score, "constant"),
        (lambda p: np.random.default_rng(5).random(len(p)), "cannot be told from 0.5"),
    ],
)
def test_degenerate_predictions_are_named(score: object, word: str) -> None:
    p = table(200)
    q = Predictions(p.label, score(p), p.attributes)  # type: ignore[operator]
    reason = degenerate(q, threshold=ThresholdRule())
    assert reason is not None
    assert word in reason


def test_one_class_at_the_threshold_is_degenerate() -> None:
    p = table(200, signal=3)
    assert degenerate(p, threshold=2.0) == "every row is called class 0"
    assert degenerate(p, threshold=0.5) is None
    assert degenerate(p) is None
