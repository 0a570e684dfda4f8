"""Studies whose trials have several runs: folds, and levels of fidelity, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit import session
from kit_tiny import MINIMUM, Tiny, study_fields

from fairtune.config import parse
from fairtune.errors import DataError, FairtuneError
from fairtune.experiment.stored import StoredRun
from fairtune.study.dry import estimate
from fairtune.study.execute import LACKING, PLANNED, Event
from fairtune.study.opening import open_study
from fairtune.study.overview import Overview
from fairtune.study.parts import folds_of
from fairtune.study.place import Place
from fairtune.study.rows import BASELINE, CONFIRM, CONTROL, SEARCH, Row
from fairtune.study.search import check_objectives, run_study
from fairtune.study.shortlist import DRAWS
from fairtune.study.status import summary
from fairtune.study.worker import Exit, StopFlag
from fairtune.training.recipe import Recipe, Seeds

FOLDS = {"min_group": MINIMUM, "folds": 2}


def fresh(tmp_path: Path) -> Tiny:
    return Tiny(Place(tmp_path / "out", "tiny"), session(tmp_path / "out"))


def only_search(**changes: Any) -> dict[str, Any]:
    made = {"baselines": [], "confirm": {"top": 0, "seeds": 1}, "budget": {"trials": 2}}
    return made | changes


def recipe_of(row: Row) -> Recipe:
    return parse(Recipe, dict(row.recipe))


def fold_runs(view: Overview, row: Row) -> list[StoredRun]:
    made = [view.runs.get(r.key(Seeds(**row.seed))) for r in folds_of(recipe_of(row), view.judge)]
    assert all(made)
    return [run for run in made if run is not None]


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    mine = fresh(tmp_path_factory.mktemp("folded"))
    changes = {"validation": FOLDS, "budget": {"trials": 3}, "confirm": {"top": 1, "seeds": 1}}
    assert mine.search(**changes, baselines=["norm:all"]) is Exit.DONE
    return mine


@pytest.mark.slow
def test_the_row_of_a_folded_trial_has_the_mean_of_its_models(folded: Tiny) -> None:
    view = folded.view
    sexes = ("F", "M")
    for phase in (BASELINE, SEARCH, CONFIRM):
        for row in view.rows[phase]:
            single = fold_runs(view, row)
            tables = [run.validation() for run in single]
            auc = [[row_auc(table, "sex", code) for code in range(len(sexes))] for table in tables]
            assert row.values == (pytest.approx(np.mean(auc, axis=0).min()),)
            whole = view.stored(row)
            assert whole is not None
            assert whole.key == row.key
            together = whole.validation(view.judge.epoch_of(whole))
            assert together.models == 2
            assert len(together) == sum(map(len, tables))
            assert not set(tables[0].row) & set(tables[1].row)
            for name in ("seconds", "epochs"):
                assert row.attrs[name] == pytest.approx(sum(run.costs[name] for run in single))
            assert whole.recipe == recipe_of(row)


def row_auc(table: Any, attribute: str, code: int) -> float:
    from sklearn.metrics import roc_auc_score

    rows = table.attribute(attribute).codes == code
    return float(roc_auc_score(table.label[rows], table.score[rows]))


@pytest.mark.slow
def test_a_folded_study_is_summed_up_reported_and_retrained_on_the_official_split(
    folded: Tiny,
) -> None:
    from fairtune.report.write import write

    assert "corrected for the choice" in summary(folded.place)
    outcome = folded.finetune(seeds=1)
    ground = folded.session.ground(folded.view.base)
    for tested in outcome.tested.values():
        for run in tested.runs:
            assert run.recipe.data.fold is None
            assert set(run.validation().row) == set(ground.pack.rows("val"))
    page = write(folded.view)
    assert page.stat().st_size > 10_000
    both = folded.finetune(seeds=1, rows="train+val")
    cuts = [run.operating["threshold"] for c in folded.view.candidates() for run in c.runs]
    assert both.tested[both.pick].thresholds[0] in cuts


@pytest.mark.slow
def test_a_killed_folded_trial_goes_on_with_its_second_fold(tmp_path: Path, folded: Tiny) -> None:
    mine = fresh(tmp_path)
    changes = {"validation": FOLDS, "budget": {"trials": 3}, "confirm": {"top": 1, "seeds": 1}}
    plan = mine.plan({**changes, "baselines": ["norm:all"]})
    stop, trained = StopFlag(), list[tuple[int, int]]()

    def notify(event: Event) -> None:
        if event.kind == "epoch" and event.report is not None:
            trained.append((event.claim.progress["fold"], event.report.number))
            if len(trained) == 3:
                stop.request("killed")

    mine.place.folder.mkdir(parents=True)
    for flag in (stop, StopFlag()):
        with open_study(mine.place, plan, create=True) as ledger:
            run_study(ledger, plan, mine.session, mine.place, flag, notify=notify)
    # The stop comes after the first epoch of the second fold; the first fold is not made again.
    assert trained[:5] == [(1, 1), (1, 2), (2, 1), (2, 1), (2, 2)]
    rows = {r.key: r.values for r in mine.view.rows[BASELINE] if r.values}
    assert rows == {r.key: r.values for r in folded.view.rows[BASELINE]}


def climb(tmp_path: Path, fidelity: dict[str, Any], trials: int, **more: Any) -> Tiny:
    mine = fresh(tmp_path)
    changes = only_search(fidelity=fidelity, pruner="asha", budget={"trials": trials})
    assert mine.search(**changes, **more) is Exit.DONE
    return mine


@pytest.mark.slow
def test_trials_are_pruned_at_the_first_level_and_finish_at_the_last(tmp_path: Path) -> None:
    mine = climb(tmp_path, {"fraction": [0.5, 1.0]}, 9)
    view = mine.view
    rows = view.rows[SEARCH]
    states = [row.state for row in rows]
    assert set(states) == {"complete", "pruned"}
    for row in rows:
        assert set(row.rungs) == {1}
        recipe = recipe_of(row)
        low = view.runs.get(recipe.of_data(fraction=0.5).key(Seeds(**row.seed)))
        assert low is not None
        assert (view.stored(row) is not None) == (row.state == "complete")
        if row.state == "pruned":
            assert "at level 1" in str(row.reason)
            assert row.attrs[PLANNED] == 2 * row.attrs["epochs"]
            assert row.values is not None
        else:
            whole = view.stored(row)
            assert whole is not None
            both = low.costs["seconds"] + whole.costs["seconds"]
            assert row.attrs["seconds"] == pytest.approx(both)
        images = low.epochs["images"].iloc[0]
        assert images < len(mine.session.ground(recipe).pack.rows("train"))


@pytest.mark.slow
def test_levels_carry_every_objective_in_search_and_control(tmp_path: Path) -> None:
    mine = fresh(tmp_path)
    changes = only_search(
        objectives=["worst_auc@sex", "auc"],
        constraints=["auc >= 0.99"],
        fidelity={"fraction": [0.4, 0.6, 1.0]},
        pruner="asha",
        baselines={"of": [], "control": "random"},
        budget={"trials": 2},
    )
    assert mine.search(**changes) is Exit.DONE
    view = mine.view
    for row in (*view.rows[SEARCH], *view.rows[CONTROL]):
        middle = view.runs.get(recipe_of(row).of_data(fraction=0.6).key(Seeds(**row.seed)))
        assert middle is not None
        values = view.judge.values(middle.validation())
        assert isinstance(row.rungs[1], float)
        assert row.rungs[2] == pytest.approx(tuple(values[str(o)] for o in view.judge.objectives))
        assert len(str(row.attrs[DRAWS]).split(";")) == 2
    assert all(row.constraints["auc >= 0.99"] > 0 for row in view.rows[SEARCH])


@pytest.mark.slow
def test_a_trial_that_was_stopped_between_levels_trains_only_what_is_left(tmp_path: Path) -> None:
    mine = fresh(tmp_path)
    changes = only_search(fidelity={"image_size": [16, 32]}, pruner="asha", budget={"trials": 1})
    plan = mine.plan(changes)
    stop, trained = StopFlag(), list[tuple[int, int]]()

    def notify(event: Event) -> None:
        if event.kind == "epoch" and event.report is not None:
            trained.append((event.claim.progress["level"], event.report.number))
            if len(trained) == 2:
                stop.request("killed")

    mine.place.folder.mkdir(parents=True)
    for flag in (stop, StopFlag()):
        with open_study(mine.place, plan, create=True) as ledger:
            run_study(ledger, plan, mine.session, mine.place, flag, notify=notify)
    assert trained == [(1, 1), (1, 2), (2, 1), (2, 2)]
    states = [(r.state, r.reason) for r in mine.view.rows[SEARCH]]
    assert states == [("failed", "stopped"), ("complete", None)]
    done = mine.view.rows[SEARCH][1]
    assert set(done.rungs) == {1}
    sizes = sorted(
        StoredRun(folder).recipe.model.image_size or 0
        for folder in (mine.place.out / "runs").glob("*/*")
    )
    assert sizes == [16, 32]


def test_folds_and_levels_that_the_data_cannot_bear_are_refused_first(tmp_path: Path) -> None:
    mine = fresh(tmp_path)
    many = mine.plan(only_search(validation={"min_group": MINIMUM, "folds": 5000}))
    with pytest.raises(DataError, match="at least as many patients"):
        check_objectives(many, mine.session)
    tiny_share = {"fraction": [0.001, 1.0]}
    small = mine.plan(only_search(fidelity=tiny_share, pruner="asha"))
    with pytest.raises(DataError, match="without a row"):
        check_objectives(small, mine.session)
    recipe = study_fields()["recipe"]
    recipe["optim"]["batch_size"] = 5000
    large = mine.plan(only_search(fidelity={"fraction": [0.5, 1.0]}, pruner="asha", recipe=recipe))
    with pytest.raises(DataError, match="less than one batch"):
        check_objectives(large, mine.session)
    with pytest.raises(FairtuneError, match="image size does not fit") as caught:
        mine.plan(only_search(fidelity={"image_size": [15, 32]}, pruner="asha"))
    assert "fidelity.image_size" in str(caught.value)


def test_what_some_folds_cannot_say_is_said_before_and_with_the_row(tmp_path: Path) -> None:
    mine = fresh(tmp_path)
    # Enough in all, but not in each of many folds.
    strict = {"n": 9, "positives": 4, "negatives": 4}
    plan = mine.plan(only_search(validation={"min_group": strict, "folds": 6}))
    notes = check_objectives(plan, mine.session)
    assert any("has too few rows in" in note for note in notes)
    assert "6 folds together" in estimate(plan, mine.session)
    assert LACKING not in mine.plan(only_search()).base.to_json()
