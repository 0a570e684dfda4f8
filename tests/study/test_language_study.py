"""Studies of models with a text tower: usages, their baselines, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from kit import session
from kit_two_towers import spec_fields, study_fields, write_data

from fairtune.config.yaml12 import dumps, loads
from fairtune.errors import FairtuneError
from fairtune.study.baselines import baseline_of, default_for
from fairtune.study.dry import estimate
from fairtune.study.expected import expected_starts
from fairtune.study.final import Wanted, finetune_study
from fairtune.study.ledger import Options
from fairtune.study.opening import open_study
from fairtune.study.overview import Overview
from fairtune.study.place import Place
from fairtune.study.plan import Plan
from fairtune.study.rows import BASELINE, CONFIRM, SEARCH
from fairtune.study.samplers.random import Random
from fairtune.study.schema import StudyFile, build_study
from fairtune.study.search import make_plan, run_study
from fairtune.study.worker import Exit, StopFlag
from fairtune.usage import USAGES

SINKHORN = {"sinkhorn": {"score": "similarity", "given": "none", "weight": 0.1}}


def study(folder: Path, usage: Any = "contrastive", **changes: Any) -> StudyFile:
    fields = study_fields(folder, usage, **changes)
    if usage is None:
        del fields["recipe"]["usage"]
    return build_study(loads(dumps(fields), "pairs.yaml"))


def planned(folder: Path, usage: Any = "contrastive", **changes: Any) -> Plan:
    return make_plan(study(folder, usage, **changes), session(folder / "out"), None)


def made(folder: Path, usage: Any = "contrastive", **changes: Any) -> Overview:
    plan, place = planned(folder, usage, **changes), Place(folder / "out", "pairs")
    place.folder.mkdir(parents=True)
    own = session(folder / "out")
    options = Options(sampler=Random(), pruner=plan.study.judging, patience=20.0)
    with open_study(place, plan, create=True, options=options) as ledger:
        assert run_study(ledger, plan, own, place, StopFlag()) is Exit.DONE
    finetune_study(Overview.load(place), own, Wanted(seeds=2), command="c")
    return Overview.load(place)


def test_baselines_go_with_the_usage() -> None:
    contrastive, zero = (
        USAGES.parse("contrastive"),
        USAGES.parse({"zero_shot": {"templates": ["{}"]}}),
    )
    assert default_for(USAGES.parse("classify"))[1] == "linear_readout"
    assert default_for(contrastive)[1] == "zero_shot"
    assert default_for(zero) == ()
    assert str(baseline_of("zero_shot", contrastive).rule) == "none"
    assert baseline_of("zero_shot", contrastive).usage is None
    assert baseline_of("linear_readout", zero).usage == {"classify": {}}
    assert baseline_of("zero_shot", zero).usage == {"zero_shot": {"templates": ["{}"]}}
    for name in ("linear_readout", "zero_shot", "norm:all"):
        assert baseline_of(name, USAGES.parse("classify") if name != "zero_shot" else zero)
    for name, usage in (
        ("linear_readout", contrastive),
        ("norm:all", zero),
        ("zero_shot", USAGES.parse("classify")),
    ):
        with pytest.raises(FairtuneError):
            baseline_of(name, usage)


def test_zero_shot_is_one_point_and_a_text_mask_starts_behind_the_image(tmp_path: Path) -> None:
    plan = planned(tmp_path, baselines={"of": ["fullft", "zero_shot"], "lr_points": 2})
    assert plan.baseline_points("zero_shot") == [None]
    assert len(plan.baseline_points("fullft")) == 2
    zero = plan.baseline("zero_shot")
    assert zero.scored
    assert zero.to_json()["usage"] == plan.base.to_json()["usage"]
    starts = expected_starts(plan)
    # 2 points and 2 confirm runs of fullft; of the rest half has an image mask, half a text mask.
    assert set(starts) == {0, 5, 6}
    assert starts[0] == 4
    text = plan.recipe({"adaptation.mask": "text.block:last-1", "optim.lr": 1e-3})
    assert plan.mask(text).lowest_block(plan.units) is None
    assert plan.mask(text).start(plan.units) == 6


def test_a_study_of_pairs_ends_with_a_verdict(tmp_path: Path) -> None:
    view = made(
        tmp_path,
        space={
            "optim.lr": {"float": [1e-3, 1e-2], "log": True},
            "adaptation.mask": {"one_of": ["none", "text.block:last-1"]},
            "mitigations": {"subset_of": [SINKHORN]},
        },
        baselines={"of": ["zero_shot"], "lr_points": 2, "control": "random"},
    )
    (zero,) = view.rows[BASELINE]
    empty = [r for r in view.rows[SEARCH] if not r.recipe["adaptation"]["mask"]]
    assert empty
    for row in empty:  # the empty mask is zero-shot: written alike, with nothing that is idle
        assert row.digest == zero.digest
        assert row.recipe == zero.recipe
    assert [r.digest for r in view.rows[CONFIRM]].count(zero.digest) == 1
    from fairtune.study.audit import audit
    from fairtune.study.outcome import Outcome

    assert not audit(view).findings
    outcome = Outcome.load(view)
    assert outcome is not None
    assert {label: len(t.runs) for label, t in outcome.tested.items()}["zero_shot"] == 1
    assert {d.speaks_of for d in outcome.differences.values()} <= {"this method"}


def test_usages_are_searched_together(tmp_path: Path) -> None:
    own = {"zero_shot": {"templates": ["{}", "a photo of {}"]}}
    image = {"classify": {"features": "image"}}
    plan = planned(tmp_path, None, space={"usage": {"one_of": [image, own]}}, baselines=[])
    assert plan.base.usage.reads_prompts
    assert plan.base.data.prompts is not None
    readout = plan.recipe({"usage": {"classify": {}}})
    assert "prompts" not in readout.canonical()["data"]
    assert "tokenizer" not in readout.canonical()["model"]
    said = estimate(plan, session(tmp_path / "out"))
    assert "space: 1 parameters" in said
    ways = {"usage": {"one_of": [{"contrastive": {"loss_by": "declared"}}]}}
    more = {
        "optim.lr": {"float": [1e-3, 1e-2]},
        "adaptation.mask": {"one_of": ["text.block:last-1"]},
    }
    names = set(planned(tmp_path, None, space=ways | more, baselines=[]).dimensions())
    assert names == {"usage.contrastive.loss_by", "optim.lr"}


def test_rows_without_a_text_are_told_before_anything_is_trained(tmp_path: Path) -> None:
    write_data(tmp_path / "data", bare=3, text_leaks_label=True)
    plan = planned(tmp_path, baselines=[])
    said = estimate(plan, session(tmp_path / "out"))
    assert "3 rows without a text are left out" in said
    assert "knew the label" in said


@pytest.mark.parametrize(
    ("usage", "changes", "match"),
    [
        ("contrastive", {"baselines": ["linear_readout"]}, "has no head"),
        ("contrastive", {"baselines": ["zero_shot", "zero_shot"]}, "stands twice"),
        ("contrastive", {"space": {"mitigations": {"subset_of": ["sinkhorn"]}}}, "no logits"),
        ("zero_shot", {"baselines": ["fullft"]}, "trains no units"),
        ("zero_shot", {}, "a mask is searched beside a usage"),
        (None, {"space": {"usage": {"one_of": ["classify", "contrastive"]}}}, "other rows"),
        (None, {"space": {"usage": {"one_of": ["classify", "zero_shot"]}}}, "other rows"),
        (None, {"space": {"usage": {"one_of": ["zero_shit"]}}}, "zero_shot"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, usage: Any, changes: dict[str, Any], match: str
) -> None:
    fields = copy.deepcopy(changes)
    if "space" in fields and usage is not None:
        fields["space"] |= study_fields(tmp_path)["space"]
    with pytest.raises(FairtuneError, match=match):
        study(tmp_path, usage, **fields)


def test_other_prompts_make_another_study(tmp_path: Path) -> None:
    plan = planned(tmp_path, baselines=[])
    reworded = copy.deepcopy(spec_fields()["prompts"])
    reworded["ill"]["templates"] = ["{}"]
    write_data(tmp_path / "data", prompts=reworded)
    other = planned(tmp_path, baselines=[])
    assert plan.base.data.prompts != other.base.data.prompts
    assert plan.base.data.fingerprint == other.base.data.fingerprint
