"""Creating and resuming a study: what may change, what may not, and what is computed first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from kit import session
from kit_tiny import Tiny, make, study_fields, study_file

from fairtune.config.shipped import find
from fairtune.errors import FairtuneError, StudyError
from fairtune.study.dry import estimate
from fairtune.study.ledger import Ledger
from fairtune.study.opening import identity, open_study, pinned_base
from fairtune.study.overview import Overview
from fairtune.study.place import Place
from fairtune.study.rows import BASELINE, CONFIRM, FINAL, SEARCH
from fairtune.study.samplers import SAMPLERS
from fairtune.study.search import check_objectives, make_plan
from fairtune.study.status import summary
from fairtune.study.worker import Exit, StopFlag


def recipe(**optim: Any) -> dict[str, Any]:
    made = study_fields()["recipe"]
    made["optim"] |= optim
    return made  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"seed": 5}, ["seed"]),
        ({"objectives": ["worst_brier@sex"]}, ["objectives"]),
        ({"recipe": recipe(epochs=3)}, ["epochs"]),
        ({"validation": {"min_group": {"n": 6, "positives": 2, "negatives": 2}}}, ["min_group"]),
        (
            {"space": {"optim.lr": {"float": [1e-4, 1e-3], "log": True},
                       "adaptation.mask": "auto_peft1"}},
            ["optim.lr"],
        ),
        (
            {"space": {"optim.lr": {"float": [1e-4, 1e-2], "log": True},
                       "adaptation.mask": "tune_full_block"}},
            ["adaptation.mask"],
        ),
    ],
)  # fmt: skip
def test_a_resume_with_another_identity_names_the_differing_fields(
    tiny: Tiny, changes: dict[str, Any], differing: list[str]
) -> None:
    before = {p: tiny.view.rows[p] for p in (SEARCH, BASELINE, CONFIRM)}
    with pytest.raises(FairtuneError) as caught:
        open_study(tiny.place, tiny.plan(changes), create=True)
    for word in differing:
        assert word in str(caught.value)
    assert {p: tiny.view.rows[p] for p in (SEARCH, BASELINE, CONFIRM)} == before


def test_budget_baselines_sampler_pruner_and_confirm_may_change(
    tiny: Tiny, tmp_path: Path
) -> None:
    mine = tiny.copy(tmp_path / "out")
    before = {p: [r.key for r in mine.view.rows[p]] for p in (SEARCH, BASELINE, CONFIRM)}
    left = mine.search(
        budget={"trials": 5}, confirm={"top": 1, "seeds": 3}, sampler="tpe", pruner="median",
        baselines={"of": ["linear_readout", "norm:all", "none"], "lr_points": 2},
    )  # fmt: skip
    assert left is Exit.DONE
    after = {p: [r.key for r in mine.view.rows[p]] for p in (SEARCH, BASELINE, CONFIRM)}
    for phase, keys in before.items():
        assert after[phase][: len(keys)] == keys
    assert len(after[SEARCH]) == 5
    assert mine.view.settings["budget"]["trials"] == 5
    confirmed = [len(c.runs) for c in mine.view.candidates()]
    assert confirmed == [3] * len(confirmed)


def test_a_finished_study_resumes_to_nothing(tiny: Tiny, tmp_path: Path) -> None:
    mine = tiny.copy(tmp_path / "out")
    folders = sorted((mine.place.out / "runs").glob("*/*"))
    assert mine.search() is Exit.DONE
    assert sorted((mine.place.out / "runs").glob("*/*")) == folders
    assert [len(mine.view.rows[p]) for p in (SEARCH, BASELINE, CONFIRM)] == [4, 4, 6]


def test_a_stopped_search_gives_its_run_back_and_goes_on(tiny: Tiny, tmp_path: Path) -> None:
    mine = Tiny(Place(tmp_path / "out", "tiny"), session(tmp_path / "out"))
    stop = StopFlag()
    plan = mine.plan()
    mine.place.folder.mkdir(parents=True)
    from fairtune.study.search import run_study

    def notify(event: Any) -> None:
        if event.kind == "epoch" and event.claim.phase == SEARCH and event.claim.number == 1:
            stop.request("SIGINT")

    with open_study(mine.place, plan, create=True) as ledger:
        left = run_study(ledger, plan, mine.session, mine.place, stop, notify=notify)
    assert left is Exit.STOPPED
    rows = mine.view.rows[SEARCH]
    assert [(r.state, r.reason) for r in rows] == [("complete", None), ("failed", "stopped")]
    assert mine.search() is Exit.DONE
    rows = [r for r in mine.view.rows[SEARCH] if r.state == "complete"]
    assert len(rows) == 4
    key = {r.key: r.values for r in tiny.view.rows[SEARCH]}
    assert {r.key: r.values for r in rows} == key


def test_identity_has_hashes_space_and_judge_and_survives_json(tiny: Tiny) -> None:
    import json

    made = identity(tiny.plan())
    assert json.loads(json.dumps(made)) == made
    assert set(made) >= {"recipe", "space", "objectives", "validation", "seed", "protocol"}
    for part, name in (("data", "fingerprint"), ("data", "split"), ("model", "units")):
        assert made["recipe"][part][name]
    assert made["recipe"]["model"]["weights_sha"] == "none"


def test_pinned_precision_is_taken_over(tiny: Tiny) -> None:
    base = pinned_base(tiny.place)
    assert base is not None
    fields = study_fields()["recipe"]
    fields["fit"] = {}
    file = study_file(recipe=fields)
    assert file.recipe.fit.precision == "auto"
    pinned = base | {"fit": base["fit"] | {"precision": "bf16"}}
    assert make_plan(file, tiny.session, pinned).base.fit.precision == "bf16"
    assert pinned_base(Place(tiny.place.out, "none")) is None


def test_all_masks_that_the_model_does_not_have_are_told_at_once(tiny: Tiny) -> None:
    changes = {
        "baselines": ["attn:0-99", "conv:all"],
        "space": {"optim.lr": "declared", "adaptation.mask": {"bits": {"types": ["gate"]}}},
    }
    with pytest.raises(FairtuneError) as caught:
        tiny.plan(changes)
    assert len(caught.value.problems) == 3  # type: ignore[attr-defined]
    assert str(caught.value).count("tiny.yaml:") >= 3


CONDITIONAL = {
    "optim.lr": {"one_of": [1e-3, {"float": [1e-4, 1e-2], "log": True}]},
    "adaptation.mask": "auto_peft1",
}


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_sampler_that_needs_every_parameter_refuses_a_conditional_space(
    tiny: Tiny, name: str
) -> None:
    takes = SAMPLERS.get(name).conditional  # type: ignore[attr-defined]
    assert tiny.plan({"sampler": name}).study.sampler == SAMPLERS.parse(name)
    changes = {"sampler": name, "space": CONDITIONAL}
    if takes:
        assert tiny.plan(changes).space.conditional(tiny.plan(changes).units)
        return
    with pytest.raises(FairtuneError, match="needs every parameter in every trial") as caught:
        tiny.plan(changes)
    said = str(caught.value)
    assert "tiny.yaml:" in said
    assert "blr_ts" in said
    assert name in said


def test_an_objective_that_validation_cannot_answer_is_refused(tiny: Tiny) -> None:
    plan = tiny.plan({"validation": {"min_group": {"n": 5000}}})
    with pytest.raises(FairtuneError, match="at least two groups with enough rows"):
        check_objectives(plan, tiny.session)
    check_objectives(tiny.plan(), tiny.session)


def test_a_dry_run_counts_every_run_and_trains_nothing(tiny: Tiny, tmp_path: Path) -> None:
    mine = Tiny(Place(tmp_path / "out", "tiny"), tiny.session)
    said = estimate(mine.plan(), mine.session)
    assert "4 baseline + 4 search + 6 confirm" in said
    assert "space: 19 parameters" in said
    assert "budget of the search: 4 trials" in said
    assert "not in the budget: 4 baseline runs, at most 6 confirm runs" in said
    assert "sex (validation):" in said
    assert not (tmp_path / "out").exists()


def test_a_summary_names_phases_candidates_and_the_next_step(tiny: Tiny, tmp_path: Path) -> None:
    said = summary(tiny.place)
    for word in ("search: 4 complete", "confirm: 6 complete", "search-1", "norm:all", "pick by",
                 "fairtune finetune --study tiny"):  # fmt: skip
        assert word in said
    with pytest.raises(StudyError) as caught:
        summary(Place(tiny.place.out, "tinny"))
    assert caught.value.allowed == ["tiny"]


def test_a_study_of_another_tool_is_refused_in_words(tmp_path: Path) -> None:
    place = Place(tmp_path, "x")
    place.folder.mkdir()
    with Ledger.open(place.url, "x", directions=["maximize"], create=True):
        pass
    with pytest.raises(StudyError, match="not made by fairtune"):
        Overview.load(place)


def test_a_summary_of_a_study_without_a_result_says_so(tmp_path: Path) -> None:
    mine = Tiny(Place(tmp_path, "tiny"), session(tmp_path))
    mine.place.folder.mkdir()
    with open_study(mine.place, mine.plan(), create=True):
        pass
    assert "no recipe is finished yet" in summary(mine.place)


SPACE = {"optim.lr": {"float": [1e-5, 1e-1], "log": True}, "adaptation.mask": "auto_peft1"}
FREE: dict[str, Any] = {"one_of": ["none", "medical"]}


def test_ranges_of_augmentation_belong_to_a_study_that_can_use_them(tiny: Tiny) -> None:
    plan = tiny.plan()
    assert plan.base.data.augmentation is not None
    assert "augmentation" not in identity(plan)["recipe"]["data"]
    fixed = study_fields()["recipe"]
    fixed["fit"]["augment"] = "medical"
    for changes in ({"recipe": fixed}, {"space": SPACE | {"fit.augment": FREE}}):
        found = identity(tiny.plan(changes))["recipe"]["data"]["augmentation"]
        assert found == plan.base.data.augmentation


def test_a_space_with_ranges_that_are_not_declared_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    shipped = find("datasets", "nih-cxr-64").read_text()
    path.write_text(re.sub(r"^augment: .*$", "", shipped, flags=re.MULTILINE))
    fields = study_fields()["recipe"]
    fields["data"]["dataset"] = str(path)
    file = study_file(recipe=fields, space=SPACE | {"fit.augment": FREE})
    with pytest.raises(FairtuneError, match="declares no ranges"):
        make_plan(file, session(), None)


@pytest.mark.slow
def test_a_real_study_of_two_objectives_with_constraints(tmp_path: Path) -> None:
    mine = make(
        tmp_path / "out",
        objectives=["worst_auc@sex", "nll"],
        constraints=["worst_brier@sex <= baseline[norm:all] + 0.01", "no_harm(0.05)"],
        pruner="asha",
        budget={"trials": 3, "until": "2999-01-01", "stop": "auto"},
        baselines={"of": ["norm:all"], "lr_points": 1},
        confirm={"top": 1, "seeds": 1},
    )
    view = mine.view
    constraints = [str(c) for c in view.judge.constraints]
    assert constraints == ["worst_brier@sex <= baseline[norm:all] + 0.01", "no_harm(0.05)"]
    (base,) = view.rows[BASELINE]
    assert base.constraints == {}
    for row in view.rows[SEARCH]:
        assert list(row.constraints) == constraints
        lost = max(
            base.attrs[name] - row.attrs[name] for name in base.attrs if name.startswith("auc@")
        )
        assert row.constraints["no_harm(0.05)"] == pytest.approx(lost - 0.05)
        beyond = row.attrs["worst_brier@sex"] - base.attrs["worst_brier@sex"] - 0.01
        assert row.constraints[constraints[0]] == pytest.approx(beyond)
    for row in view.rows[FINAL]:
        assert row.values is not None
        assert len(row.values) == 2
    said = summary(mine.place)
    assert "worst_auc@sex, nll on validation" in said
    assert "search ended by budget.trials: 3 trials" in said
    assert "of 3 trials keep all of them" in said


def test_a_constraint_that_validation_cannot_answer_is_refused(tiny: Tiny) -> None:
    changes = {"objectives": ["auc"], "constraints": ["worst_auc@sex >= 0.5"]}
    bare = {**changes, "validation": {"min_group": {"n": 5000}}}
    with pytest.raises(FairtuneError, match="at least two groups with enough rows"):
        check_objectives(tiny.plan(bare), tiny.session)
    check_objectives(tiny.plan(changes), tiny.session)
