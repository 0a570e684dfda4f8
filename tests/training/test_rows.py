"""Which rows are fitted and validated: the official split, folds of it, fractions of patients."""

from __future__ import annotations

import numpy as np
import pytest
from kit import session, tiny_recipe

from fairtune.config import parse
from fairtune.errors import ConfigError, DataError
from fairtune.training.ground import Ground
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.recipe_parts import FoldPart
from fairtune.training.session import Session


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


@pytest.fixture(scope="module")
def ground(held: Session) -> Ground:
    return held.ground(tiny_recipe())


def fold(index: int, of: int, by: str | None = "sex", **data: float) -> Recipe:
    return tiny_recipe().of_data(fold=FoldPart(index=index, of=of, by=by), **data)


def test_folds_divide_train_and_val_and_hold_no_test_row(ground: Ground) -> None:
    parts = {name: ground.pack.rows(name) for name in ("train", "val")}
    every = np.sort(np.concatenate(list(parts.values())))
    held = [ground.val_rows(fold(i, 3)) for i in (1, 2, 3)]
    assert (np.sort(np.concatenate(held)) == every).all()
    patient = ground.pack.patient_codes
    for i, val in enumerate(held, 1):
        fit = ground.fit_rows(fold(i, 3))
        assert (np.sort(np.concatenate([fit, val])) == every).all()
        assert not set(patient[fit]) & set(patient[val])
    assert set(held[0]) != set(ground.val_rows(fold(1, 3, by="age")))


def test_a_fraction_is_of_the_training_rows_and_nested(ground: Ground) -> None:
    whole = ground.fit_rows(tiny_recipe())
    rows = [ground.fit_rows(tiny_recipe(data__fraction=f)) for f in (0.5, 0.75)]
    assert set(rows[0]) < set(rows[1]) < set(whole)
    patients = [len(set(ground.pack.patient_codes[r])) for r in (*rows, whole)]
    assert patients[0] == pytest.approx(0.5 * patients[2], abs=4)
    assert patients[1] == pytest.approx(0.75 * patients[2], abs=4)
    assert (ground.val_rows(tiny_recipe(data__fraction=0.5)) == ground.pack.rows("val")).all()
    inside = ground.fit_rows(fold(2, 3, fraction=0.5))
    assert set(inside) < set(ground.fit_rows(fold(2, 3)))


def test_a_recipe_of_before_keeps_its_identity() -> None:
    plain = tiny_recipe(adaptation__mask="none")
    assert not {"fold", "fraction", "seed"} & plain.to_json()["data"].keys()
    assert tiny_recipe(adaptation__mask="none", data__seed=3).identity() == plain.identity()
    some = tiny_recipe(adaptation__mask="none", data__fraction=0.5)
    assert len({plain.identity(), some.identity(), some.of_data(seed=3).identity()}) == 3
    keys = {fold(i, 2).key(Seeds()) for i in (1, 2)} | {tiny_recipe().key(Seeds())}
    assert len(keys) == 3
    assert parse(Recipe, fold(1, 2).to_json()) == fold(1, 2)


def test_more_folds_than_patients_of_a_class_are_refused(ground: Ground) -> None:
    with pytest.raises(DataError, match="at least as many patients of every class") as caught:
        ground.fit_rows(fold(1, 10_000))
    assert "abnormal" in str(caught.value.found)


def test_a_fraction_that_leaves_too_little_is_refused(held: Session) -> None:
    with pytest.raises(DataError, match="less than one batch"):
        held.resolve(tiny_recipe(data__fraction=0.2, optim__batch_size=4000))
    with pytest.raises(DataError, match="without a row") as caught:
        held.resolve(tiny_recipe(data__fraction=0.001))
    assert "sex/" in str(caught.value.found)


def test_a_fold_is_not_fitted_too_and_has_a_number() -> None:
    with pytest.raises(ConfigError, match="cannot be fitted too"):
        parse(Recipe, {**fold(1, 2).to_json(), "fit": {"rows": "train+val"}})
    data = {**tiny_recipe().to_json(), "data": {**fold(1, 2).to_json()["data"]}}
    data["data"]["fold"] = {"index": 3, "of": 2}
    with pytest.raises(ConfigError, match="no such fold"):
        parse(Recipe, data)
