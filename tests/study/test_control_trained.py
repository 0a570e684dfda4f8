"""Control and confirm part in a study that really trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kit_tiny import make

from fairtune.evaluation.parts import confirm_rows
from fairtune.evaluation.scoring import evaluate_objectives
from fairtune.study.outcome import Outcome
from fairtune.study.rows import CONFIRM, CONTROL, SEARCH, results

LEAST = {"n": 2, "positives": 1, "negatives": 1}
"""Half of the few validation rows has no more."""


@pytest.mark.slow
def test_a_trained_study_keeps_its_parts_apart_and_tests_the_control(tmp_path: Path) -> None:
    tiny = make(
        tmp_path,
        finetuned=False,
        objectives=["auc"],
        validation={"min_group": LEAST, "confirm_part": 0.5},
        baselines={"of": ["linear_readout"], "lr_points": 1, "control": "random"},
        budget={"trials": 2},
        confirm={"top": 1, "seeds": 1},
        pruner="asha",
    )
    view = tiny.view
    assert len(results(view.rows[CONTROL])) == 2
    for phase, side in ((SEARCH, False), (CONTROL, False), (CONFIRM, True)):
        for row in results(view.rows[phase]):
            run = view.stored(row)
            assert run is not None
            whole = run.validation()
            # What was judged while training and what is read back choose the same patients.
            rows = np.flatnonzero(confirm_rows(whole, 0.5, view.seed) == side)
            found = evaluate_objectives(
                whole.take(rows), view.judge.objectives, minimum=view.judge.validation.minimum,
                threshold=view.judge.validation.rule,
            )  # fmt: skip
            assert row.values == pytest.approx(tuple(found.values()))
    outcome = tiny.finetune(seeds=1)
    assert outcome.control is not None
    assert outcome.openings == 1
    assert Outcome.load(tiny.view) is not None
