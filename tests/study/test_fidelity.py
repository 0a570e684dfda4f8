"""Levels of fidelity and folds in the study file, and the runs that a trial stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit_ledger import Search, open_ledger
from kit_plan import fields, plan, study

from fairtune.errors import FairtuneError
from fairtune.study.fidelity import ByLevel, Fidelity
from fairtune.study.ledger import Complete
from fairtune.study.opening import identity
from fairtune.study.parts import runs_before, share_done, shown
from fairtune.study.pruners.asha import Asha
from fairtune.study.pruners.hyperband import Hyperband
from fairtune.study.pruners.median import Median
from fairtune.study.rows import BASELINE, CONTROL, SEARCH
from fairtune.training.recipe import Seeds

KEY_OF_BEFORE = "fb0ce72064fc31e8666b602b55ef93de"
"""Key of the same proposal before there were folds and levels."""

THREE = {"fraction": [0.25, 0.5, 1.0]}


def said(**changes: Any) -> str:
    with pytest.raises(FairtuneError) as caught:
        study(**{"pruner": "asha", **changes})
    return "\n".join(str(p) for p in getattr(caught.value, "problems", [caught.value]))


def recipe(**parts: Any) -> dict[str, Any]:
    made: dict[str, Any] = fields()["recipe"]
    for part, values in parts.items():
        made[part] = {**made.get(part, {}), **values}
    return made


def test_a_study_of_one_fold_and_epochs_is_what_it_was() -> None:
    for more in ({}, {"fidelity": "epochs"}, {"validation": {"folds": 1}}):
        made = plan(**more)
        point = made.baseline("norm:all", 1e-3)
        seeds = made.seeds(SEARCH, point.identity(), 0)
        proposal = made.proposal("search", point, stream=SEARCH)
        assert proposal.key == point.key(seeds) == KEY_OF_BEFORE
        assert [part.recipe for part in made.parts(point, SEARCH)] == [point]
        assert "fidelity" not in identity(made)
    assert study().fidelity == Fidelity()


def test_a_trial_of_levels_and_folds_has_a_run_of_its_own_for_each() -> None:
    made = plan(fidelity=THREE, pruner="asha", validation={"folds": 2})
    point = made.baseline("norm:all", 1e-3)
    parts = made.parts(point, SEARCH)
    assert [(p.level, p.fold) for p in parts] == [(i, k) for i in (1, 2, 3) for k in (1, 2)]
    data = [p.recipe.data.to_json() for p in parts]
    assert [d.get("fraction", 1.0) for d in data] == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    assert [d["fold"] for d in data] == [{"index": k, "of": 2, "by": "sex"} for k in (1, 2)] * 3
    seeds = Seeds(data=1, init=2)
    keys = [p.recipe.key(seeds) for p in parts]
    own = made.proposal("search", point, stream=SEARCH).key
    assert len({*keys, own, point.key(seeds)}) == 8
    assert [p.level for p in made.parts(point, BASELINE)] == [1, 1]
    assert [p.level for p in made.parts(point, CONTROL)] == [p.level for p in parts]
    assert parts[3].place == {"level": 2, "levels": 3, "fold": 2, "folds": 2}
    assert shown(parts[3].place) == "level 2/3 fold 2/2 "
    assert runs_before(parts[3].place) == 3
    assert share_done({**parts[3].place, "epoch": 1, "of": 4}) == pytest.approx(3.25 / 6)
    assert identity(made)["fidelity"] == {"fraction": [0.25, 0.5, 1.0]}


def test_a_ladder_costs_its_shares_or_its_pixels() -> None:
    assert Fidelity().price == 1
    assert Fidelity(fraction=(0.25, 0.5, 1.0)).price == pytest.approx(1.75)
    assert Fidelity(image_size=(35, 70)).price == pytest.approx(1.25)


def test_levels_of_image_size_take_the_units_of_that_size() -> None:
    made = plan(fidelity={"image_size": [16, 32]}, pruner="asha")
    point = made.baseline("norm:all", 1e-3)
    object.__setattr__(made, "sizes", {16: "u16"})
    low, high = (part.recipe for part in made.parts(point, SEARCH))
    assert (low.model.image_size, low.model.units) == (16, "u16")
    assert high == point


@pytest.mark.parametrize(
    ("fidelity", "word"),
    [
        ("images", "not a fidelity"),
        ({}, "not a fidelity"),
        ({"fractions": [0.5, 1.0]}, "did you mean 'fraction'"),
        ({"fraction": [1.0]}, "two or more"),
        ({"fraction": [0.5, 0.25, 1.0]}, "levels of fidelity rise"),
        ({"fraction": [0.0, 1.0]}, "greater than 0"),
        ({"fraction": [0.5, 1.0], "image_size": [16, 32]}, "rise in one thing"),
        ({"fraction": [0.25, 0.5]}, "write recipe.data.fraction: 0.5"),
        ({"image_size": [16, 48]}, "write recipe.model.image_size: 48"),
    ],
)
def test_what_is_no_ladder_to_the_recipe_is_refused(fidelity: Any, word: str) -> None:
    text = said(fidelity=fidelity)
    assert word in text
    assert "study.yaml:" in text
    assert "fidelity" in text


def test_the_last_level_is_the_recipe_as_it_is_written() -> None:
    half = recipe(data={"fraction": 0.5})
    assert study(fidelity={"fraction": [0.25, 0.5]}, pruner="asha", recipe=half).fidelity.values
    assert "allowed" in said(fidelity=THREE, recipe=half)
    assert "computed, not written" in said(recipe=recipe(data={"fold": {"index": 1, "of": 2}}))


@pytest.mark.parametrize("pruner", ["none", {"asha": {"min_resource": 3}}])
def test_levels_that_no_pruner_judges_are_refused(pruner: Any) -> None:
    assert "this pruner judges at none" in said(fidelity=THREE, pruner=pruner)


def test_every_level_but_the_last_is_a_rung() -> None:
    for declared in (Asha(), Median()):
        assert declared.build(levels=True).rungs(4, "k") == (1, 2, 3)
        assert declared.build(levels=True).rungs(1, "k") == ()
    assert Asha(min_resource=2).build(levels=True).rungs(4, "k") == (2, 3)
    brackets = {Hyperband().build(levels=True).rungs(4, str(key)) for key in range(200)}
    assert brackets == {(1, 2, 3), (2, 3), (3,), ()}


def test_trials_are_compared_at_their_level(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, pruner=ByLevel(Asha()))
    with ledger:
        stops = []
        for score in (0.9, 0.8, 0.7, 0.95):
            (claim,) = ledger.claim([Search(9)], 1)
            with ledger.beating([claim]):
                stops.append(claim.report(1, 2, 1 - score, score).stop)
                ledger.finish(claim, Complete([score]))
    assert stops == [None, None, "rank 3 of 3 at level 1, 1 in 3 goes on", None]
