"""`doctor --study`: a study that was broken in one way is told so in one way."""

from __future__ import annotations

import copy
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit_tiny import MINIMUM, Tiny, make

from fairtune.experiment.gate import LEDGER
from fairtune.study.audit import Audit, audit
from fairtune.study.merge import MERGED, merge
from fairtune.study.overview import Overview
from fairtune.study.place import MOST_TRIALS, Place
from fairtune.study.rows import Row


@pytest.fixture(scope="module")
def copied(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A copy for the tests that damage a file and put it back."""
    return tiny.copy(tmp_path_factory.mktemp("audit") / "out")


def rows(view: Overview, phase: str, change: Callable[[list[Row]], list[Row]]) -> Overview:
    return replace(view, rows={**view.rows, phase: change(list(view.rows[phase]))})


def said(found: Audit) -> list[str]:
    return [str(finding) for finding in found.findings]


def test_a_study_that_holds_has_no_finding(tiny: Tiny) -> None:
    view = tiny.view
    done = [r for mine in view.rows.values() for r in mine if r.state == "complete"]
    found = audit(view)
    assert found.findings == ()
    assert (found.rows, found.running) == (len(done), 0)
    # Each is looked at, with its one objective.
    assert (found.runs, found.values) == (len(done), len(done))
    assert {"search", "baseline", "confirm", "final"} <= {row.phase for row in done}
    assert json.loads(json.dumps(found.to_json()))["findings"] == []


@pytest.mark.parametrize("phase", ["search", "confirm", "final"])
def test_a_value_that_its_predictions_do_not_give(tiny: Tiny, phase: str) -> None:
    def change(mine: list[Row]) -> list[Row]:
        return [replace(mine[0], values=((mine[0].values or (0.0,))[0] + 1e-6,)), *mine[1:]]

    (told,) = said(audit(rows(tiny.view, phase, change)))
    assert told.startswith(f"{phase} 1: worst_auc@sex is 0.")
    assert "by its predictions" in told


def test_a_value_in_the_storage_itself(copied: Tiny) -> None:
    with closing(sqlite3.connect(copied.place.folder / "study.db")) as base:
        base.execute(
            "update trial_values set value = value / 2 where trial_id = (select t.trial_id from "
            "trials t join studies s using (study_id) where study_name = 'tiny' and number = 1)"
        )
        base.commit()
        (told,) = said(audit(copied.view))
        base.execute(
            "update trial_values set value = value * 2 where trial_id = (select t.trial_id from "
            "trials t join studies s using (study_id) where study_name = 'tiny' and number = 1)"
        )
        base.commit()
    assert told.startswith("search 2: worst_auc@sex is 0.")
    assert audit(copied.view).findings == ()


@pytest.mark.parametrize("name", ["val_scores.npy", "val.parquet", "recipe.json", "DONE"])
def test_a_file_that_was_cut_short(copied: Tiny, name: str) -> None:
    view = copied.view
    path = view.runs.folder(view.rows["search"][0].key) / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    found = audit(view)
    path.write_bytes(whole)
    (told,) = said(found)
    assert told.startswith(f"search 1: {name} is not what was written ")
    assert told.endswith("`fairtune search` makes the run again")


def test_weights_to_deploy_that_changed_by_one_bit(copied: Tiny) -> None:
    view = copied.view
    path = view.runs.folder(view.rows["final"][0].key) / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    found = audit(view)
    path.write_bytes(whole)
    (told,) = said(found)
    assert told.startswith("final 1: model.safetensors is not what was written")
    assert "fairtune finetune" in told


def test_the_folder_of_another_run(copied: Tiny) -> None:
    view = copied.view
    one, two = (view.runs.folder(view.rows["search"][i].key) for i in (0, 1))
    kept = one.with_name("kept")
    one.rename(kept)
    shutil.copytree(two, one)
    found = audit(view)
    shutil.rmtree(one)
    kept.rename(one)
    told = said(found)
    assert told[0].startswith("search 1: recipe.json is of run ")
    assert told[1] == "search 1: recipe.json holds another recipe, or other seeds, than the row"
    assert all(line.startswith("search 1: ") for line in told)


def test_a_row_whose_recipe_was_changed(tiny: Tiny) -> None:
    def change(mine: list[Row]) -> list[Row]:
        recipe: Any = copy.deepcopy(dict(mine[0].recipe))
        recipe["optim"]["lr"] *= 2
        return [replace(mine[0], recipe=recipe), *mine[1:]]

    told = said(audit(rows(tiny.view, "search", change)))
    assert any("search 1: recipe and seeds of the row have the key" in line for line in told)
    assert any("search 1: the recipe of the row has the digest" in line for line in told)


def test_runs_that_are_gone_are_one_finding(copied: Tiny, tmp_path: Path) -> None:
    view = copied.view
    folder = view.runs.folder(view.rows["search"][2].key)
    folder.rename(tmp_path / "kept")
    found = audit(view)
    (tmp_path / "kept").rename(folder)
    (told,) = said(found)
    assert "finished runs are not there: search 3; copy their folders" in told
    elsewhere = replace(view, place=Place(tmp_path, "tiny", view.place.url))
    told = said(audit(elsewhere))
    assert len(told) == 2
    assert told[0].startswith(f"{tmp_path / 'runs'}: none of the ")
    assert told[1].startswith(f"{tmp_path / LEDGER}: is not there")
    assert all(line.endswith("give --out if the results lie elsewhere") for line in told)


def test_a_doubled_row_and_a_surplus_one(tiny: Tiny) -> None:
    view = tiny.view
    last = len(view.rows["search"])

    def double(mine: list[Row]) -> list[Row]:
        return [*mine, replace(mine[0], number=last, root=last)]

    told = said(audit(rows(view, "search", double)))
    assert any(f"row {last} is a second attempt 0 of run" in line for line in told)
    tight = {**view.search, MOST_TRIALS: last - 1}
    (line,) = said(audit(replace(view, search=tight)))
    assert f"row {last - 1} is above the budget of {last - 1}" in line
    assert audit(replace(view, search={**tight, MERGED: ["x"]})).findings == ()


def test_a_budget_that_was_lowered_later_is_no_fault(copied: Tiny, tmp_path: Path) -> None:
    made = copied.copy(tmp_path / "out")
    made.search(budget={"trials": 2})
    assert made.view.settings["budget"]["trials"] == 2
    assert len(made.view.rows["search"]) == 4
    assert audit(made.view).findings == ()


def test_an_opening_that_is_not_written_down(copied: Tiny) -> None:
    path = copied.place.out / LEDGER
    whole = path.read_text()
    path.write_text("")
    empty = said(audit(copied.view))
    path.write_text("no json\n")
    damaged = said(audit(copied.view))
    path.write_text(whole)
    assert len(empty) == len(whole.splitlines())
    assert all(line.startswith(f"{path}: the opening of 20") for line in empty)
    assert damaged[0].startswith(f"{path}: cannot be read: ")
    untold = replace(
        copied.view, attrs={k: v for k, v in copied.view.attrs.items() if "opening" not in k}
    )
    path.write_text("")
    told = said(audit(untold))
    path.write_text(whole)
    assert told[0] == "final 1: no opening of the test split names its recipe"
    assert len(told) == len(untold.rows["final"])


def test_a_trained_study_that_was_merged_holds_and_resumes(copied: Tiny, tmp_path: Path) -> None:
    to = Place(copied.place.out, "tiny", f"journal:{tmp_path / 'to.journal'}")
    done = merge(to, copied.place.url)
    assert sum(done.copied.values()) == sum(map(len, copied.view.rows.values()))
    moved = Tiny(to, copied.session)
    found = audit(moved.view)
    assert found.findings == ()
    assert found == audit(copied.view)
    before = {phase: len(mine) for phase, mine in moved.view.rows.items()}
    moved.search(budget={"trials": 5})
    after = {phase: len(mine) for phase, mine in moved.view.rows.items()}
    assert after["search"] == before["search"] + 1
    assert after["baseline"] == before["baseline"]
    assert audit(moved.view).findings == ()


SHAPES: dict[str, dict[str, Any]] = {
    "folds": {
        "objectives": ["worst_auc@sex", "auc"],
        "validation": {"min_group": MINIMUM, "folds": 2, "epoch": {"best": "auc"}},
    },
    "parts": {
        "objectives": ["auc"],
        "validation": {"min_group": MINIMUM, "confirm_part": 0.4},
        "fidelity": {"fraction": [0.5, 1.0]},
        "pruner": {"asha": {"min_resource": 1}},
    },
}


@pytest.mark.slow  # two studies are trained: what the shared one cannot say is asked of them
@pytest.mark.parametrize("shape", SHAPES)
def test_folds_levels_parts_and_epochs_are_computed_as_they_were(
    shape: str, tmp_path: Path
) -> None:
    few = {"baselines": {"of": ["norm:all"], "lr_points": 1}, "budget": {"trials": 3}}
    made = make(tmp_path, finetuned=False, **few, **SHAPES[shape], confirm={"top": 1, "seeds": 1})
    view = made.view
    found = audit(view)
    assert found.findings == ()
    complete = [r for mine in view.rows.values() for r in mine if r.state == "complete"]
    assert {row.phase for row in complete} == {"baseline", "search", "confirm"}
    assert found.values == len(complete) * len(view.judge.objectives)
