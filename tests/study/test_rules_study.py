"""Selection, overtuning, control and comparison on stored predictions of drawn studies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit_rules import finetune, front_plan, people, search

from fairtune.errors import ConfigError, DataError, StudyError
from fairtune.evaluation.constraints import Constraint
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.parts import confirm_rows
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.scoring import evaluate_objectives
from fairtune.experiment.stored import StoredRun
from fairtune.study.comparison import compare_studies
from fairtune.study.contest import Reading
from fairtune.study.outcome import Outcome
from fairtune.study.overtuning import overtuning_frame
from fairtune.study.overview import Overview
from fairtune.study.place import Place
from fairtune.study.rows import BASELINE, CONFIRM, CONTROL, SEARCH, results
from fairtune.study.select import Selected, corrected, picked, select
from fairtune.study.selection import SELECTIONS
from fairtune.study.status import summary

pytestmark = pytest.mark.slow

RULES = {"minimum": front_plan().study.judge.validation.minimum,
         "threshold": front_plan().study.judge.validation.rule}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = search(tmp_path_factory.mktemp("rules"), front_plan())
    finetune(made)
    return made


@pytest.fixture(scope="module")
def view(place: Place) -> Overview:
    return Overview.load(place)


def kept(view: Overview) -> np.ndarray:
    table, _ = people("val")
    return confirm_rows(table, 0.5, view.seed)


def figures(p: Predictions, *texts: str) -> Mapping[str, float]:
    return evaluate_objectives(p, [Objective.parse(t) for t in texts], **RULES)  # type: ignore[arg-type]


def on_part(view: Overview, run: StoredRun, epoch: int, *texts: str) -> Mapping[str, float]:
    return figures(run.validation(epoch).take(kept(view)), *texts)


def test_search_and_confirm_are_judged_by_different_patients(view: Overview) -> None:
    part = kept(view)
    for phase, rows in ((SEARCH, ~part), (BASELINE, ~part), (CONTROL, ~part), (CONFIRM, part)):
        found = results(view.rows[phase])
        assert found
        for row in found:
            run = view.stored(row)
            assert run is not None
            whole = run.validation()
            assert len(whole) == len(part)  # every run stores what it says of all patients
            assert row.values == pytest.approx(
                tuple(figures(whole.take(rows), "worst_auc@sex").values())
            )
    assert "did not see" in summary(view.place)
    found_correction = corrected(view, view.candidates())
    assert found_correction is not None
    best = max(c.confirmed or 0 for c in view.candidates() if not c.is_control)
    assert found_correction.naive == pytest.approx(best)


def test_every_rule_reads_stored_predictions_and_writes_nothing(view: Overview) -> None:
    before = sorted(p for p in view.place.out.rglob("*"))
    candidates = view.candidates()
    made = select(view, candidates, "best")
    assert {e.label for e in made.contest.entrants} == {
        c.label for c in candidates if not c.is_control
    }
    for e in made.contest.entrants:
        runs = next(c.runs for c in candidates if c.label == e.label)
        values = [on_part(view, run, 2, "worst_auc@sex")["worst_auc@sex"] for run in runs]
        assert e.values["worst_auc@sex"] == pytest.approx(np.mean(values))
        assert made.contest.se(e.label, made.contest.primary) > 0
        assert e.trained == runs[0].costs["trainable"]
        scaled = [on_part(view, run, 2, "es_auc@sex")["es_auc@sex"] for run in runs]
        assert e.scaled == pytest.approx(np.mean(scaled))
    assert set(made.refused) == {"constraint", "knee"}
    assert picked(view, candidates).label == made.candidate.label
    for rule in made.picks:
        assert picked(view, candidates, rule).label == made.picks[rule].entrant.label
    assert sorted(p for p in view.place.out.rglob("*")) == before


def test_another_objective_attribute_or_epoch_is_another_reading(view: Overview) -> None:
    candidates = view.candidates()

    def read(**fields: Any) -> Selected:
        return select(view, candidates, "best", Reading(**fields))

    runs = {c.label: c.runs for c in candidates}
    two = read(objectives=("worst_auc@sex", "auc"), attribute="age")
    assert [str(o) for o in two.contest.objectives] == ["worst_auc@age", "auc"]
    assert two.contest.attribute == "age"
    assert "knee" in two.picks
    first = read(epoch="best:nll")
    for made, texts in ((two, ("worst_auc@age", "auc")), (first, ("worst_auc@sex",))):
        for e in made.contest.entrants:
            epochs = [2 if made is two else _best_nll(view, run) for run in runs[e.label]]
            each = [on_part(view, r, n, *texts) for r, n in zip(runs[e.label], epochs)]
            for text in texts:
                assert e.values[text] == pytest.approx(np.mean([v[text] for v in each]))
    for fields in ({"attribute": "race"}, {"epoch": "first"}, {"objectives": ("aucc",)}):
        with pytest.raises(ConfigError):
            read(**fields)


def _best_nll(view: Overview, run: StoredRun) -> int:
    """The epoch with the smallest loss on the patients that the search sees."""
    losses = [figures(run.validation(n).take(~kept(view)), "nll")["nll"] for n in (1, 2)]
    return losses.index(min(losses)) + 1


def test_table_and_json_say_who_is_picked_by_what_and_why(view: Overview) -> None:
    made = select(view, view.candidates(), "1se", Reading(objectives=("worst_auc@sex", "auc")))
    text, data = made.text(), json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert f"pick by '1se': {made.candidate.label}, because {made.choice.why}" in text
    assert "constraint is not used: the study has no constraints" in text
    assert "did not see" in text.splitlines()[0]
    for told in data["recipes"]:
        line = next(line for line in text.splitlines() if line.startswith(told["label"]))
        value = told["values"]["auc"]
        assert f"{value['value']:.3f} ({value['se']:.3f})" in line
        assert ", ".join(told["picked_by"]) in line
    by_rule = {rule: r["label"] for r in data["recipes"] for rule in r["picked_by"]}
    assert sorted([*by_rule, *data["not_used"]]) == SELECTIONS.names()
    assert by_rule["1se"] == data["pick"]


def test_constraints_are_read_on_confirmed_recipes(view: Overview) -> None:
    candidates = view.candidates()
    values = {
        e.label: e.values["auc"]
        for e in select(view, candidates, "best", Reading(("auc",))).contest.entrants
    }
    middle = sorted(values.values())[len(values) // 2]

    def limited(*texts: str) -> Overview:
        limits = tuple(Constraint.parse(text) for text in texts)
        return replace(view, judge=replace(view.judge, constraints=limits))

    made = select(limited(f"auc >= {middle}"), candidates, "constraint")
    for e in made.contest.entrants:
        assert e.violation == pytest.approx(max(0.0, middle - values[e.label]))
    base = limited("auc >= baseline[norm:all] - 1", "no_harm(0.9)")
    assert all(e.violation == 0 for e in select(base, candidates, "constraint").contest.entrants)
    with pytest.raises(StudyError, match="no confirmed recipe meets"):
        select(limited("auc >= 0.999"), candidates, "constraint")


def test_without_confirm_runs_only_best_can_pick(view: Overview) -> None:
    bare = replace(view, rows={**view.rows, CONFIRM: []})
    assert picked(bare, bare.candidates(), "best").confirmed is None
    with pytest.raises(StudyError, match="nothing is confirmed"):
        picked(bare, bare.candidates(), "dto")


def test_overtuning_follows_the_incumbents_on_what_the_search_did_not_see(view: Overview) -> None:
    outcome = Outcome.load(view)
    frame = overtuning_frame(view, outcome)
    assert frame["trial"].is_monotonic_increasing
    assert (frame["until"].iloc[:-1].to_numpy() == frame["trial"].iloc[1:].to_numpy()).all()
    assert frame["searched"].is_monotonic_increasing  # one run each: nothing is shrunk
    last = frame.iloc[-1]
    best = view.candidates()[0]
    assert last["searched"] == pytest.approx(best.searched)
    assert last["confirmed"] == pytest.approx(best.confirmed)
    assert (last["low"], last["high"]) == pytest.approx((min(best.values), max(best.values)))
    assert outcome is not None
    means = {
        str(t.runs[0].card["digest"]): t.mean(view, view.judge.primary)
        for t in outcome.tested.values()
    }
    expected = [means.get(digest, np.nan) for digest in frame["digest"]]
    assert frame["test"].to_numpy() == pytest.approx(np.array(expected), nan_ok=True)
    assert frame["test"].notna().any()
    assert frame["part"].notna().all()
    row = results(view.rows[SEARCH])[int(frame["trial"].iloc[0]) - 1]
    run = view.stored(row)
    assert run is not None
    value = on_part(view, run, 2, "worst_auc@sex")["worst_auc@sex"]
    assert frame["part"].iloc[0] == pytest.approx(value)
    unseen = frame["confirmed"].fillna(frame["part"])
    lost = [unseen[: i + 1].max() - unseen[i] for i in range(len(frame))]
    assert frame["overtuned"].to_numpy() == pytest.approx(np.array(lost))
    assert overtuning_frame(view)["test"].isna().all()


def test_the_control_stands_beside_the_verdict_and_not_in_it(view: Overview) -> None:
    outcome = Outcome.load(view)
    assert outcome is not None
    assert outcome.control is not None
    assert [b.label for b in outcome.baselines] == ["linear_readout", "norm:all"]
    assert outcome.attribution is not None
    assert f"best of {len(results(view.rows[SEARCH]))} random masks" in outcome.attribution
    bare = replace(outcome, tested={k: t for k, t in outcome.tested.items() if k != CONTROL})
    assert bare.control is None
    assert bare.attribution is None
    assert bare.verdict.answer == outcome.verdict.answer
    assert outcome.to_json()["control"] == outcome.attribution


def test_holm_runs_over_attributes_and_baselines(view: Overview) -> None:
    both = tuple(Objective.parse(t) for t in ("worst_auc@sex", "auc", "worst_auc@age"))
    outcome = Outcome.load(view)
    assert outcome is not None
    wide = replace(outcome, view=replace(view, judge=replace(view.judge, objectives=both)))
    assert set(wide.bounds) == {
        f"worst_auc@{a} vs {b}" for a in ("sex", "age") for b in ("linear_readout", "norm:all")
    }
    name = "worst_auc@sex vs norm:all"
    assert wide.bounds[name].p == outcome.bounds[name].p
    assert wide.bounds[name].tail <= outcome.bounds[name].tail
    assert wide.differences["norm:all"].value == outcome.differences["norm:all"].value


def test_constraints_that_fail_on_test_are_named(view: Overview) -> None:
    outcome = Outcome.load(view)
    assert outcome is not None
    limits = tuple(
        Constraint.parse(t)
        for t in ("auc >= 0.999", "auc >= 0.1", "auc >= baseline[fullft]", "no_harm(0.3)")
    )
    held = replace(outcome, view=replace(view, judge=replace(view.judge, constraints=limits)))
    assert held.broken == ["auc >= 0.999", "auc >= baseline[fullft]"]
    assert held.delta == 0.3
    assert outcome.broken == []


def test_studies_are_compared_by_block_and_too_few_blocks_have_no_diagram(
    view: Overview, tmp_path: Path
) -> None:
    other = search(tmp_path, front_plan(name="other", baselines=["norm:all"]))
    with pytest.raises(StudyError, match="not tested yet"):
        compare_studies([view, Overview.load(other)], "worst_auc")
    finetune(other)
    found = compare_studies([view, Overview.load(other)], "worst_auc")
    assert found.table.shape[0] == 2  # one data set, two attributes: the studies are averaged
    assert next(iter(found.table.columns)) == "pick"
    outcome = Outcome.load(view)
    assert outcome is not None
    alone = compare_studies([view], "worst_auc")
    for attribute in ("sex", "age"):
        objective = Objective.parse(f"worst_auc@{attribute}")
        value = alone.table.xs(attribute, level="attribute")["norm:all"].item()
        assert value == pytest.approx(outcome.tested["norm:all"].mean(view, objective))
    text, data = alone.text(), json.loads(json.dumps(alone.to_json(), allow_nan=False))
    assert "no critical-difference diagram: 2 blocks" in text
    assert "share patients" in text
    assert data["no_mean_ranks"]
    assert set(data["methods"]) == {"pick", "linear_readout", "norm:all", "control"}
    assert compare_studies([view], "auc").table.shape[0] == 1
    assert compare_studies([view], "auc_gap").sign == -1
    with pytest.raises(ConfigError):
        compare_studies([view], "worst_auc@sex")
    with pytest.raises(ConfigError):
        compare_studies([view], "aucc")


def test_methods_that_a_block_lacks_are_left_out(view: Overview) -> None:
    found = compare_studies([view], "worst_auc")
    values = found.values[
        ~((found.values["method"] == "norm:all") & (found.values["attribute"] == "age"))
    ]
    part = replace(found, values=values)
    assert part.left_out == ["norm:all"]
    assert "norm:all" not in part.ranking.methods
    one = replace(found, values=found.values[found.values["method"] == "pick"])
    with pytest.raises(DataError, match="fewer than two methods"):
        _ = one.ranking
