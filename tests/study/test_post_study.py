"""A study whose recipes are post-processed, to its end: search, confirm, final runs, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit_tiny import MINIMUM, Tiny, make, study_fields

from fairtune.experiment.finetune import median_run
from fairtune.mitigation import post
from fairtune.report.notes import note
from fairtune.report.sections import sections
from fairtune.report.tables import load
from fairtune.study.rows import BASELINE, CONFIRM, SEARCH, results

BOTH = [{"group_temperature": {"attribute": "sex"}}, {"threshold_optimizer": {"attribute": "sex"}}]


def changes(**more: Any) -> dict[str, Any]:
    recipe = study_fields()["recipe"]
    recipe["data"]["where"] = {}
    recipe["optim"]["epochs"] = 1
    return {
        "recipe": recipe | {"mitigations": BOTH},
        "baselines": ["linear_readout"],
        "budget": {"trials": 2},
        "objectives": ["auc", "eo_diff@sex"],
        "validation": {"min_group": MINIMUM},
    } | more


@pytest.fixture(scope="module")
def processed(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make(tmp_path_factory.mktemp("processed"), **changes())


@pytest.mark.slow
def test_rows_have_what_their_stored_runs_say(processed: Tiny) -> None:
    view = processed.view
    for phase in (SEARCH, CONFIRM, BASELINE):
        for row in results(view.rows[phase]):
            run = view.stored(row)
            assert run is not None
            found = view.judge.values(run.validation(view.judge.epoch_of(run)))
            assert row.values == tuple(found.values())
            # Baselines are trained, and read, without any mitigation.
            named = [step.name for step in run.post]
            own = bool(row.recipe.get("mitigations"))
            assert own or phase != SEARCH
            assert not own or phase != BASELINE
            assert named == (["group_temperature", "threshold_optimizer"] if own else [])
            assert run.validation().cut == (0.5 if own else None)


@pytest.mark.slow
def test_report_and_notes_say_what_has_to_be_known(processed: Tiny, tmp_path: Path) -> None:
    view = processed.view
    row = results(view.rows[SEARCH])[0]
    assert "sex has to be known of every patient who is scored" in note(view, row)
    base = results(view.rows[BASELINE])[0]
    assert "post-processed" not in note(view, base)
    mine = processed.copy(tmp_path / "out")
    mine.finetune(trial=1, seeds=1)
    tables = load(mine.view)
    (groups,) = [s for s in sections(mine.view, tables) if s.name == "groups"]
    said = [part.text for part in groups.parts if part.kind == "note"]
    assert any("thresholds of each group, frozen on validation" in text for text in said)
    assert any("sex has to be known of every patient who is scored" in text for text in said)


@pytest.mark.slow
def test_train_and_val_takes_over_the_rule_of_the_median_confirm_run(
    processed: Tiny, tmp_path: Path
) -> None:
    mine = processed.copy(tmp_path / "out")
    outcome = mine.finetune(rows="train+val", seeds=1)
    candidates = {c.label: c for c in mine.view.candidates()}
    taken = 0
    for label, tested in outcome.tested.items():
        (run,) = tested.runs
        assert run.recipe.fit.rows == "train+val"
        if not run.recipe.mitigations:
            assert "post" not in run.operating
            continue
        taken += 1
        middle = median_run(candidates[label].runs, mine.view.judge)
        assert run.operating["post"] == middle.operating["post"]
        assert run.operating["threshold"] == 0.5
        assert np.array_equal(
            tested.predictions[0].score, post.apply(middle.post, run.raw_test()).score
        )
    assert taken
