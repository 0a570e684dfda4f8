"""Figures of the tested set: those of the evaluation room, and the verdict."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kit_tiny import MINIMUM, Tiny

from fairtune.errors import StudyError
from fairtune.evaluation.compare import holm, paired_difference
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.rules import GroupMinimum
from fairtune.evaluation.scoring import evaluate_objectives, group_table
from fairtune.study.outcome import Outcome


@pytest.fixture(scope="module")
def outcome(tiny: Tiny) -> Outcome:
    found = Outcome.load(tiny.view)
    assert found is not None
    return found


@pytest.mark.parametrize("text", ["auc", "worst_auc@sex", "auc_gap@age", "tpr", "worst_tpr@sex"])
def test_means_are_those_of_the_evaluation_at_frozen_thresholds(
    outcome: Outcome, text: str
) -> None:
    objective = Objective.parse(text)
    for tested in outcome.tested.values():
        values = [
            evaluate_objectives(
                run.test(), [objective], minimum=GroupMinimum.from_dict(MINIMUM),
                threshold=float(run.operating["threshold"]),
            )[text]
            for run in tested.runs
        ]  # fmt: skip
        assert tested.mean(outcome.view, objective) == pytest.approx(np.mean(values))


def test_a_table_is_that_of_the_run_to_deploy(outcome: Outcome) -> None:
    tested = outcome.tested[outcome.pick]
    run = next(run for run in tested.runs if run.key == tested.deploy)
    expected = group_table(
        run.test(), ["auc"], ["sex", "age"], minimum=GroupMinimum.from_dict(MINIMUM),
        threshold=float(run.operating["threshold"]),
    )  # fmt: skip
    got = tested.table(outcome.view, ["auc"])
    assert got.equals(expected)


def test_the_run_to_deploy_is_the_median_on_validation(outcome: Outcome) -> None:
    judge = outcome.view.judge
    for tested in outcome.tested.values():
        values = {run.key: judge.values(run.validation())["worst_auc@sex"] for run in tested.runs}
        assert values[tested.deploy] == sorted(values.values())[(len(values) - 1) // 2]


def test_differences_and_bounds_are_paired_and_adjusted(outcome: Outcome) -> None:
    chosen, judge = outcome.tested[outcome.pick], outcome.view.judge
    assert set(outcome.differences) == {"linear_readout", "norm:all"}
    base = outcome.tested["norm:all"]
    expected = paired_difference(
        chosen.predictions, base.predictions, judge.primary, minimum=judge.validation.minimum,
        thresholds_a=chosen.thresholds, thresholds_b=base.thresholds,
    )  # fmt: skip
    got = outcome.differences["norm:all"]
    assert got.value == pytest.approx(expected.value)
    gap = chosen.mean(outcome.view, judge.primary) - base.mean(outcome.view, judge.primary)
    assert got.value == pytest.approx(gap)
    named = {f"worst_auc@sex vs {label}": d for label, d in outcome.differences.items()}
    assert outcome.bounds == holm(named)


def test_a_picked_baseline_answers_no(outcome: Outcome) -> None:
    other = replace(outcome, pick="norm:all")
    assert other.verdict.answer == "no"
    assert "norm:all" in other.verdict.why
    assert [b.label for b in other.baselines] == ["linear_readout"]


def test_a_tiny_test_split_cannot_tell(outcome: Outcome) -> None:
    assert outcome.verdict.answer == "cannot tell"
    assert outcome.verdict.why


def test_too_few_test_rows_are_said_and_not_raised(outcome: Outcome) -> None:
    from fairtune.experiment.judge import Judge

    strict = Judge.of(["worst_auc@sex"], {"min_group": {"n": 1000}})
    found = replace(outcome, view=replace(outcome.view, judge=strict))
    assert found.verdict.answer == "cannot tell"
    assert "the test split cannot answer" in found.verdict.why
    assert found.harms == {}


def test_metrics_and_csv_lie_in_the_studys_folder(tiny: Tiny, outcome: Outcome) -> None:
    stored = json.loads((tiny.place.folder / "metrics.json").read_text())
    assert stored == json.loads(json.dumps(outcome.to_json()))
    assert stored["pick"] == "search-1"
    assert stored["openings"] == 1
    assert stored["rule"] == "best"
    overall = next(r for r in stored["recipes"]["search-1"]["test"] if r["metric"] == "auc")
    tested = outcome.tested["search-1"]
    run = next(run for run in tested.runs if run.key == tested.deploy)
    (auc,) = evaluate_objectives(
        run.test(), [Objective.parse("auc")], minimum=GroupMinimum(), threshold=0.5
    ).values()
    assert overall["value"] == pytest.approx(auc)
    rows = list(csv.DictReader(io.StringIO((tiny.place.folder / "results.csv").read_text())))
    assert len(rows) == 6


def test_missing_final_runs_are_named(tiny: Tiny, tmp_path: Path) -> None:
    mine = tiny.copy(tmp_path / "out")
    found = Outcome.load(mine.view)
    assert found is not None
    shutil.rmtree(found.tested["norm:all"].runs[1].folder)
    with pytest.raises(StudyError, match="final runs are missing") as caught:
        Outcome.load(mine.view)
    assert caught.value.found == "1 of 2 runs of norm:all"
    again = mine.finetune()  # what the message says: the run is made, and tested, again
    assert again.openings == 2
    assert len(again.tested["norm:all"].runs) == 2


def test_a_study_that_was_not_finetuned_has_no_outcome(tiny: Tiny) -> None:
    assert Outcome.load(replace(tiny.view, attrs={})) is None
