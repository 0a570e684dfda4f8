from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fairlearn import metrics as fairlearn
from sklearn.metrics import roc_auc_score

from fairtune.compat.exports.fairtune import COLUMNS, FairTuneCsv, result_row
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.rules import GroupMinimum
from fairtune.study.exports import EXPORTS, Export

LAX = GroupMinimum(1, 1, 1)


def drawn(seed: int = 0, groups: int = 3, n: int = 300) -> Predictions:
    rng = np.random.default_rng(seed)
    code = rng.integers(0, groups, n)
    label = (rng.random(n) < 0.3 + 0.1 * code).astype(int)
    score = 1 / (1 + np.exp(-(label - 0.5 + rng.standard_normal(n) * (1 + code))))
    names = tuple(f"g{i}" for i in range(groups))
    return Predictions(label, score, {"age": Attribute("age", names, code)})


def row(p: Predictions, **changes: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "minimum": LAX,
        "threshold": 0.5,
        "share": 0.25,
        "lr": 3e-4,
        "mask_path": "abc/mask.txt",
    }
    return result_row("pick", p, "age", **(asked | changes))


def test_the_columns_are_those_of_fairtune() -> None:
    assert ",".join(COLUMNS) == (
        "Tuning Method,Train Percent,LR,Test AUC Overall,Test AUC (Best),Test AUC (Worst),"
        "Test AUC Difference,EquiOdd_diff,EquiOdd_ratio,DPD,DPR,Mask Path"
    )
    assert tuple(row(drawn())) == COLUMNS


def test_what_is_known_without_predictions_is_passed_through() -> None:
    found = row(drawn())
    assert found["Tuning Method"] == "pick"
    assert found["Train Percent"] == 25.0
    assert found["LR"] == 3e-4
    assert found["Mask Path"] == "abc/mask.txt"
    assert row(drawn(), lr=None)["LR"] == ""


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("groups", [2, 4])
def test_threshold_columns_are_fairlearns(seed: int, groups: int) -> None:
    p = drawn(seed, groups)
    found = row(p)
    asked = {
        "y_true": p.label,
        "y_pred": (p.score >= 0.5).astype(int),
        "sensitive_features": p.attribute("age").codes,
    }
    close = {"abs": 1e-12}
    assert found["EquiOdd_diff"] == pytest.approx(
        fairlearn.equalized_odds_difference(**asked), **close
    )
    assert found["EquiOdd_ratio"] == pytest.approx(
        fairlearn.equalized_odds_ratio(**asked), **close
    )
    assert found["DPD"] == pytest.approx(fairlearn.demographic_parity_difference(**asked), **close)
    assert found["DPR"] == pytest.approx(fairlearn.demographic_parity_ratio(**asked), **close)


@pytest.mark.parametrize("seed", range(3))
def test_auc_columns_are_pooled_over_the_split(seed: int) -> None:
    p = drawn(seed)
    found, codes = row(p), p.attribute("age").codes
    aucs = [roc_auc_score(p.label[codes == g], p.score[codes == g]) for g in range(3)]
    assert found["Test AUC Overall"] == pytest.approx(roc_auc_score(p.label, p.score))
    assert found["Test AUC (Best)"] == pytest.approx(max(aucs))
    assert found["Test AUC (Worst)"] == pytest.approx(min(aucs))
    assert found["Test AUC Difference"] == pytest.approx(max(aucs) - min(aucs))


def test_a_model_that_calls_nobody_ill_treats_groups_alike() -> None:
    found = row(drawn(), threshold=2.0)
    assert found["EquiOdd_diff"] == found["DPD"] == 0.0
    assert found["EquiOdd_ratio"] == found["DPR"] == 1.0


def test_what_small_groups_cannot_answer_is_an_empty_cell() -> None:
    found = row(drawn(), minimum=GroupMinimum(10_000, 1, 1))
    empty = {name for name, value in found.items() if value == ""}
    assert empty == set(COLUMNS[4:11])
    assert isinstance(found["Test AUC Overall"], float)


def test_the_export_is_a_member_of_the_registry() -> None:
    export = EXPORTS.parse("fairtune")
    assert isinstance(export, FairTuneCsv)
    assert isinstance(export, Export)
    assert export.file == "results.csv"
