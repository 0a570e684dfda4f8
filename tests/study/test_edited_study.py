"""A real small study that searches edits, with their queries as an objective, to the test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit import session
from kit_tiny import MINIMUM, Tiny, study_fields

from fairtune.config import shipped
from fairtune.config.yaml12 import Located, dumps, loads, read
from fairtune.errors import StudyError
from fairtune.experiment.stored import EDIT, PAID, USED
from fairtune.report import card, notes
from fairtune.report.costs_grid import costs
from fairtune.report.sections import sections
from fairtune.report.tables import Tables, load
from fairtune.study.audit import audit
from fairtune.study.enqueue import Wanted, enqueue
from fairtune.study.place import Place
from fairtune.study.rows import BASELINE, CONFIRM, SEARCH, Row, paid_queries
from fairtune.study.schema import build_study
from fairtune.study.select import picked
from fairtune.study.status import summary
from fairtune.study.tend import tended
from fairtune.study.worker import Exit

EDITS: dict[str, Any] = {
    "one_of": [
        "none",
        {
            "dne": {
                "mode": {"one_of": ["white", "scalar_normalised", "random"]},
                "queries": {"one_of": [4, 9]},
                "noise_resolution": 8,
                "linf": 16,
            }
        },
    ]
}


CHANGES: dict[str, Any] = {
    "recipe": study_fields()["recipe"]
    | {"adaptation": {"mask": "norm:all"}, "optim": {"epochs": 1, "batch_size": 64}},
    "space": {"optim.lr": {"float": [1e-4, 1e-2], "log": True}, "edit": EDITS},
    "objectives": ["worst_auc@sex", "queries"],
    "constraints": ["queries <= 500"],
    "seed": 1,
    "baselines": {"of": ["linear_readout"], "lr_points": 1},
    "confirm": {"top": 2, "seeds": 1},
    "select": "minimax",
}


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A study with a cache of its own, so that every edit is made and paid for in it."""
    folder = tmp_path_factory.mktemp("edited")
    made = Tiny(Place(folder, "tiny"), session(folder, cache=folder / "cache"))
    assert made.search(**CHANGES, budget={"trials": 8}) is Exit.DONE
    with_edit = next(r for r in made.view.rows[SEARCH] if r.attrs.get(USED))
    made.finetune(trial=with_edit.number + 1, seeds=1)
    return made


@pytest.fixture(scope="module")
def tables(edited: Tiny) -> Tables:
    return load(edited.view)


def every(made: Tiny) -> list[Row]:
    return [row for rows in made.view.rows.values() for row in rows]


def test_queries_are_what_the_edit_of_a_trial_cost(edited: Tiny) -> None:
    rows = edited.view.rows[SEARCH]
    assert {bool(r.recipe.get("edit")) for r in rows} == {True, False}
    for row in rows:
        assert row.values is not None
        assert row.values[1] == row.attrs.get(USED, 0.0)
        assert (USED in row.attrs) == ("edit" in row.recipe)
        assert row.constraints["queries <= 500.0"] <= 0
    assert rows[0].params["edit"] == "none"  # the anchor
    assert all(row.values[1] == 0 for row in edited.view.rows[BASELINE] if row.values)


def test_an_edit_is_paid_for_once(edited: Tiny) -> None:
    searched = [r for r in every(edited) if r.attrs.get(USED) and r.phase in (SEARCH, CONFIRM)]
    cost = {str(r.recipe["edit"]): r.attrs[USED] for r in searched}
    assert sum(r.attrs[PAID] for r in searched) == sum(cost.values()) > 0
    assert f"queries asked for edits: {paid_queries(every(edited)):,.0f}" in summary(edited.place)


def test_what_is_stored_holds_and_a_rule_can_pick(edited: Tiny) -> None:
    found = audit(edited.view)
    assert found.findings == ()
    assert found.values > 0
    assert picked(edited.view, edited.view.candidates(), "knee") is not None


def test_a_point_with_an_edit_is_enqueued_and_told_what_it_may_be(
    edited: Tiny, tmp_path: Path
) -> None:
    copied = edited.copy(tmp_path / "out")
    white = {"white": {"lr": 1e-3, "optimizer": "adam"}}
    whole = {"mode": white, "queries": 9, "noise_resolution": 8, "linf": 16}
    words = [f"edit={json.dumps({'dne': fields})}" for fields in (whole, {**whole, "linf": 4})]
    with tended(copied.place) as held:
        done = enqueue(copied.view, held.family, Wanted(words=words[:1]))
        with pytest.raises(StudyError) as caught:
            enqueue(copied.view, held.family, Wanted(words=words[1:]))
    assert done.point.values["edit"] == {"dne": whole}
    assert "edit.dne.linf: 16" in str(caught.value)
    assert copied.search(**CHANGES, budget={"trials": 9}) is Exit.DONE
    row = max(copied.view.rows[SEARCH], key=lambda r: r.number)
    assert (row.kind, row.state) == ("enqueued", "complete")
    assert row.recipe["edit"]["dne"]["linf"] == 16
    assert row.attrs[USED] >= 9


def test_tables_tell_edits_and_queries(edited: Tiny, tables: Tables) -> None:
    trials = tables.trials
    own = trials[trials["edit"] != ""]
    assert set(own["edit"]) <= {"dne white", "dne scalar_normalised", "dne random"}
    assert own["queries"].notna().all()
    grid = costs(tables)
    assert grid is not None
    asked = list(grid.columns).index("queries for edits")
    assert grid.rows[-1][asked].text == f"{paid_queries(every(edited)):,.0f}"


def test_the_report_shows_the_edit_of_the_pick_and_how_it_was_found(
    edited: Tiny, tables: Tables
) -> None:
    run = tables.run
    assert run is not None
    found = {s.name: s for s in sections(edited.view, tables)}["edit"]
    assert "has to be added to every image" in found.parts[0].text
    figures = {p.figure.name: p.figure for p in found.parts if p.figure is not None}
    assert set(figures) == {"edit-picture", "edit-trace"}
    shown = np.asarray(figures["edit-picture"].plot.data[0].z)
    assert shown.shape == (8, 8)
    assert run.edit is not None
    np.testing.assert_allclose(shown, run.edit.value[0].numpy() * 255, atol=0.006)
    assert (run.folder / EDIT).is_file()


def test_card_and_notes_say_the_edit(edited: Tiny) -> None:
    said = card.text(card.Card.of_study(edited.view))
    assert "One edit was added to every image: dne (" in said
    assert "has to be added to every image before this model" in said
    row = next(r for r in edited.view.rows[SEARCH] if r.recipe.get("edit"))
    assert "on images with the edit `dne " in notes.note(edited.view, row)


@pytest.mark.slow  # a study of its own: every fold learns an edit
def test_folds_each_learn_an_edit_and_count_as_one_model(tmp_path: Path) -> None:
    made = Tiny(Place(tmp_path, "tiny"), session(tmp_path, cache=tmp_path / "cache"))
    rule = {"dne": {"mode": "white", "queries": 3, "noise_resolution": 8}}
    recipe = study_fields()["recipe"] | {"adaptation": {"mask": "none"}, "edit": rule}
    changes: dict[str, Any] = {
        "recipe": recipe,
        "space": {"optim.l2": {"float": [1e-3, 1e-1], "log": True}},
        "objectives": ["worst_auc@sex", "queries"],
        "validation": {"folds": 2, "min_group": MINIMUM},
        "baselines": {"of": ["linear_readout"], "lr_points": 1},
        "budget": {"trials": 2},
        "confirm": {"top": 0, "seeds": 1},
    }
    assert made.search(**changes) is Exit.DONE
    rows = made.view.rows[SEARCH]
    for row in rows:
        assert row.values is not None
        assert row.attrs[USED] == pytest.approx(2 * row.values[1])
    assert [bool(row.attrs[PAID]) for row in rows] == [True, False]
    assert audit(made.view).findings == ()


TINY = {
    "data": {"dataset": "nih-cxr-64", "target": "abnormal", "attributes": ["sex", "age"]},
    "model": {"name": "test_vit", "image_size": 64, "weights": "none"},
}


def shrunk(name: str) -> Located:
    """Return a shipped study at the size of the tests: another model, a few queries and trials."""
    data = read(shipped.root("studies") / f"{name}.yaml").data
    data["name"] = "tiny"
    data["recipe"] |= TINY | {"optim": {"epochs": 1, "batch_size": 64}}
    edit = data["space"]["edit"]["one_of"][1]["dne"]
    edit |= {"queries": {"one_of": [30, 40]} if name == "gezo" else 40}
    data["budget"] = {"trials": 7}
    data["baselines"]["lr_points"] = 1
    data["confirm"] = {"top": 1, "seeds": 1}
    data["sampler"] = "random"
    return loads(dumps(data), f"{name}.yaml")


@pytest.mark.slow  # two shipped studies of seven trials with real images, searched and tested
@pytest.mark.parametrize("name", ["dne", "gezo"])
def test_shipped_studies_of_edits_run_to_their_end(name: str, tmp_path: Path) -> None:
    from fairtune.study.ledger import Options
    from fairtune.study.opening import open_study
    from fairtune.study.samplers.random import Random
    from fairtune.study.search import make_plan, run_study
    from fairtune.study.worker import StopFlag

    made = Tiny(Place(tmp_path, "tiny"), session(tmp_path))
    plan = make_plan(build_study(shrunk(name)), made.session, None)
    made.place.folder.mkdir(parents=True, exist_ok=True)
    options = Options(sampler=Random(), pruner=plan.study.judging, patience=20.0)
    with open_study(made.place, plan, create=True, options=options) as ledger:
        assert run_study(ledger, plan, made.session, made.place, StopFlag()) is Exit.DONE
    rows = [row for row in every(made) if row.phase == SEARCH]
    assert {row.state for row in rows} == {"complete"}, [row.attrs.get("detail") for row in rows]
    assert any(row.attrs.get(USED) for row in rows)
    made.finetune(seeds=1)
    assert load(made.view).split == "test"
