"""The shipped studies of pairs: their masks mean something, and they run to the last phase."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit import session
from kit_fairvlmed import fairvlmed
from kit_language import write_pair

from fairtune.adaptation import Rule
from fairtune.models import load
from fairtune.models.backbone import describe
from fairtune.study.ledger import Options
from fairtune.study.opening import open_study
from fairtune.study.overview import Overview
from fairtune.study.place import Place
from fairtune.study.samplers.random import Random
from fairtune.study.schema import load_study
from fairtune.study.search import make_plan, run_study
from fairtune.study.worker import Exit, StopFlag

STUDIES = ("fairclip-vl", "robust-fairclip-vl", "covid-vl")


@pytest.mark.parametrize("name", STUDIES)
def test_what_a_study_of_pairs_masks_its_model_has(name: str) -> None:
    made = load_study(name)
    units = describe(load(made.recipe.model.name))
    masks = {made.recipe.adaptation.mask, *made.baselines.of} - {"zero_shot", "none"}
    found = made.space.get("adaptation.mask")
    if found is not None:
        masks |= set(found.dimension.options)  # type: ignore[union-attr]
    assert masks
    for rule in masks:
        towers = {unit.split(".")[0] for unit in Rule.parse(str(rule)).mask(units).units}
        assert towers == {part.split(".")[0] for part in str(rule).split(",")}


@pytest.mark.parametrize("name", ["fairclip-vl", "robust-fairclip-vl"])
def test_it_searches_and_confirms_on_data_in_the_published_layout(
    name: str, tmp_path: Path
) -> None:
    fairvlmed(tmp_path / "data", {"Training": 48, "Validation": 36, "Test": 12}, size=(40, 32))
    model = write_pair(tmp_path / "model")
    study = load_study(
        name,
        [
            f"recipe.model={{name: '{model}', image_size: 32, weights: none}}",
            "recipe.optim.epochs=2",
            "recipe.fit.precision=fp32",
            "baselines.lr_points=1",
            "validation={min_group: {n: 3, positives: 1, negatives: 1}}",
            "budget={trials: 4}",
            "confirm={top: 1, seeds: 1}",
            "constraints=[]",
            "sampler=random",
        ],
    )
    held = session(tmp_path / "out", cache=tmp_path / "cache")
    held.data_roots = [tmp_path / "data"]
    plan = make_plan(study, held, None)
    place = Place(tmp_path / "out", name)
    place.folder.mkdir(parents=True)
    options = Options(sampler=Random(), pruner=study.judging, patience=20.0)
    with open_study(place, plan, create=True, options=options) as ledger:
        assert run_study(ledger, plan, held, place, StopFlag()) is Exit.DONE
    view = Overview.load(place)
    rows = view.rows["search"]
    assert [row.state for row in rows] == ["complete"] * 4
    acted = [bool(row.recipe.get("mitigations")) for row in rows]
    assert set(acted) == {False, True}
    named = [row.kind for row in view.rows["baseline"]]
    assert len(named) == 2
    assert all(row.state == "complete" for row in view.rows["confirm"])
