"""Edits as a dimension of the search: names, draws, what is refused, anchors, a real study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_plan import document, fields, plan
from kit_plan import study as built
from test_mitigations_in_studies import at_random

from fairtune.config import Choice, Float
from fairtune.config.yaml12 import loads
from fairtune.editing import MODES
from fairtune.errors import FairtuneError
from fairtune.study.phases import BaselinePhase, SearchPhase, point
from fairtune.study.schema import build_study

LR = {"float": [1e-4, 1e-2], "log": True}
EVERY: dict[str, Any] = {"one_of": ["none", {"dne": {"mode": {"one_of": list(MODES)}}}]}
EXAMPLE = """
name: ham10000-age
recipe:
  data: {dataset: ham10000, target: malignant, attributes: [age, sex]}
  model: {name: vit_small_dinov2, image_size: 112}
  optim: {epochs: 8, batch_size: 32, head_lr: 1e-3, schedule: cosine}
space:
  optim.lr: {float: [1e-5, 1e-3], log: true}
  adaptation.mask: {one_of: [{bits: {types: [norm, attn, mlp]}}]}
  adaptation.method.attn: {one_of: [direct, {lora: {rank: {one_of: [4, 8, 16]}, targets: {one_of: [qv, qkv, all]}}}]}
  adaptation.method.mlp:  {one_of: [direct, {adaptformer: {width: {one_of: [16, 64]}}}]}
  mitigations:
    max: 2
    subset_of:
      - resample: {by: {one_of: [group, both]}}
      - group_dro
      - sinkhorn:
          attribute: age
          given: {one_of: [none, label]}
          distance: {one_of: [w2, energy, {sinkhorn: {blur: {float: [0.1, 1.0], log: true}}}]}
          weight: {float: [1e-3, 10], log: true}
  edit:
    one_of:
      - none
      - dne:
          attribute: age
          mode:
            one_of:
              - random
              - white: {lr: {float: [5e-5, 2e-2], log: true}}
              - gezo: {init_step: {float: [5e-4, 3e-2], log: true}, samples: {one_of: [1, 2, 5, 10]},
                       momentum: {one_of: [0.0, 0.5, 0.9]}, step_decay: {float: [0.8, 0.99]}}
              - snes: {init_std: {float: [5e-3, 1e-1], log: true}}
          lambda_sa: {float: [0.1, 10], log: true}
          lambda_reg: {float: [1e-4, 1e-1], log: true}
          utility_weight: {one_of: [0.0, {float: [0.1, 3], log: true}]}
          noise_resolution: {one_of: [7, 14, 28, 56]}
          queries: 1000
objectives: [worst_auc@age, auc]
constraints: ["auc >= baseline[fullft] - 0.01", no_harm(0.02)]
baselines: [fullft, linear_readout, "block:last-3", "norm:all"]
seed: 0
validation: {epoch: last, threshold: youden, folds: 1, confirm_part: 0.0, min_group: {n: 20, positives: 10, negatives: 10}}
budget: {trials: 60, gpu_hours: 24}
sampler: auto
pruner: asha
confirm: {top: 5, seeds: 4}
select: minimax
"""  # noqa: E501 - as docs/study-file.md may show it
NAMES = [
    "edit",
    "edit.dne.mode",
    "edit.dne.mode.random.rms",
    "edit.dne.mode.white.lr",
    "edit.dne.mode.gezo.init_step",
    "edit.dne.mode.gezo.samples",
    "edit.dne.mode.gezo.momentum",
    "edit.dne.mode.gezo.step_decay",
    "edit.dne.mode.snes.init_std",
    "edit.dne.lambda_sa",
    "edit.dne.lambda_reg",
    "edit.dne.utility_weight",
    "edit.dne.utility_weight.range",
    "edit.dne.noise_resolution",
]


def space(edit: Any) -> dict[str, Any]:
    return {"optim.lr": LR, "adaptation.mask": "auto_peft1", "edit": edit}


def faults(**changes: Any) -> list[FairtuneError]:
    with pytest.raises(FairtuneError) as caught:
        build_study(document(**changes))
    return list(getattr(caught.value, "problems", [caught.value]))


def test_the_example_of_the_grammar_is_a_study() -> None:
    example = build_study(loads(EXAMPLE, "ham10000-age.yaml"))
    whole = plan(space={"optim.lr": LR, "edit": loads(EXAMPLE, "x").data["space"]["edit"]})
    own = {n: d for n, d in whole.dimensions().items() if n.startswith("edit")}
    assert list(own) == NAMES
    assert own["edit"] == Choice(("none", "dne"))
    assert own["edit.dne.mode"] == Choice(("random", "white", "gezo", "snes"))
    assert own["edit.dne.utility_weight"] == Choice((0.0, "float"))
    assert own["edit.dne.utility_weight.range"] == Float(0.1, 3.0, log=True)
    assert example.space.get("edit") == whole.space.get("edit")
    assert example.space.constants()["edit.dne.queries"] == 1000


@given(st.integers(0, 2**30))
@settings(max_examples=60, deadline=None)
def test_every_draw_is_a_recipe_whose_parameters_say_it(seed: int) -> None:
    whole = plan(space=space(EVERY))
    recipe, params = point(whole, at_random(seed))
    values = {
        "optim.lr": recipe.optim.lr,
        "adaptation.mask": list(recipe.adaptation.mask),
        "edit": "none" if params["edit"] == "none" else _said(recipe.to_json()["edit"], params),
    }
    assert whole.space.encode(values, whole.units) == params
    assert recipe.edited == (params["edit"] != "none")
    assert recipe.rule.attribute == ("sex" if recipe.edited else None)  # of the first objective


def _said(written: dict[str, Any], params: Any) -> Any:
    """Return what the space draws of an edit: the mode alone, with the fields that it searches."""
    ((mode, inner),) = written["dne"]["mode"].items()
    searched = [n.rpartition(".")[2] for n in params if n.startswith(f"edit.dne.mode.{mode}.")]
    return {"dne": {"mode": {mode: {name: inner[name] for name in searched}}}}


def test_no_edit_and_plain_training_is_among_the_first_trials() -> None:
    edit = {"one_of": [{"dne": {"queries": 9}}, "none"]}
    for searched in ({"optim.lr": LR, "edit": edit}, space(edit)):
        whole = plan(space=searched)
        first, *_ = SearchPhase(whole, BaselinePhase(whole)).anchors()
        assert first.params["edit"] == "none"
        assert "edit" not in first.recipe


def test_baselines_have_no_edit() -> None:
    edited = fields()["recipe"] | {"edit": {"dne": {"queries": 9}}}
    whole = plan(recipe=edited)
    assert whole.base.edited
    assert not whole.baseline("norm:all", 1e-3).edited
    searched = plan(space=space({"one_of": [{"dne": {"queries": 9}}]}))
    assert not searched.baseline("norm:all", 1e-3).edited


def test_an_edit_without_attribute_gets_that_of_the_first_objective_with_one() -> None:
    edited = fields()["recipe"] | {"edit": "dne"}
    assert built(recipe=edited, objectives=["auc", "worst_auc@age"]).recipe.rule.attribute == "age"


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"recipe": {"edit": {"dne": {"attribute": "race"}}}}, "recipe.edit", "not an attribute"),
        ({"recipe": {"edit": "dne"}, "objectives": ["auc"]}, "recipe.edit", "nothing says of"),
        ({"recipe": {"edit": {"dne": {"mode": "genzo"}}}}, "recipe.edit", "did you mean 'gezo'"),
        (
            {"edit": {"one_of": ["none", {"dne": {"attribute": {"one_of": ["age", "race"]}}}]}},
            "space.edit.one_of.1",
            "not an attribute",
        ),
        (
            {"edit": {"one_of": ["none", "dne"]}, "objectives": ["auc"]},
            "space.edit.one_of.1",
            "nothing says of which",
        ),
        (
            {"edit": {"one_of": ["none", {"dne": {"lambda_sa": {"one_of": [0.0, 1.0]}}}]}},
            "space.edit.one_of.1",
            "nothing is learned",
        ),
        ({"edit": {"one_of": ["none", {"dne": {"mod": "white"}}]}}, "space.edit", "'mode'"),
        ({"edit": {"one_of": ["none", "den"]}}, "space.edit", "did you mean 'dne'"),
        ({"edit": "declared"}, "space.edit", "declares no range"),
        (
            {"edit": {"one_of": ["none", {"file": {"path": "/nowhere/e.safetensors"}}]}},
            "space.edit.one_of.1",
            "no such edit file",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_edit_is_told_with_its_place(
    changes: dict[str, Any], where: str, words: str
) -> None:
    made: dict[str, Any] = {k: v for k, v in changes.items() if k == "objectives"}
    if "recipe" in changes:
        made["recipe"] = fields()["recipe"] | changes["recipe"]
    if "edit" in changes:
        made["space"] = space(changes["edit"])
    (fault,) = faults(**made)
    assert words in str(fault)
    assert where in str(fault.where)
    assert str(fault.where).startswith("study.yaml:")


def test_faults_of_edits_are_told_with_all_others() -> None:
    found = faults(
        recipe=fields()["recipe"] | {"optim": {"epoch": 1}},
        space=space({"one_of": ["none", "den"]}),
        budget={"trials": 0},
    )
    assert len(found) == 3


def test_a_searched_file_is_pinned_by_its_digest(tmp_path: Path) -> None:
    import torch

    from fairtune.editing.edit import Edit
    from fairtune.editing.stored import to_bytes

    made = Edit(torch.zeros(1, 4, 4), 32)
    path = tmp_path / "e.safetensors"
    path.write_bytes(to_bytes(made))
    (fault,) = faults(space=space({"one_of": ["none", {"file": {"path": str(path)}}]}))
    assert f"sha: {made.sha}" in str(fault.todo)
    whole = plan(space=space({"one_of": ["none", {"file": {"path": str(path), "sha": made.sha}}]}))
    assert whole.recipe({"edit": {"file": {"path": str(path), "sha": made.sha}}}).edited


@pytest.mark.parametrize(
    ("objectives", "constraints", "words"),
    [
        (["queries", "worst_auc@sex"], [], "the first objective says how well a model does"),
        (["auc_gap@sex", "queries"], [], "disparities or costs"),
        (["auc_gap@sex"], ["queries <= 500"], "disparities or costs"),
        (["worst_auc@sex", "queries@sex"], [], "the same for every group"),
    ],
)
def test_queries_are_no_utility(objectives: list[str], constraints: list[str], words: str) -> None:
    found = faults(objectives=objectives, constraints=constraints)
    assert words in str(found[0])


def test_an_epoch_is_not_kept_by_its_queries() -> None:
    (fault,) = faults(validation={"epoch": {"best": "queries"}})
    assert "never by a fairness objective or a cost" in str(fault)


def test_queries_stand_beside_a_utility() -> None:
    found = built(objectives=["worst_auc@sex", "queries"], constraints=["queries <= 500"])
    assert [o.direction for o in found.judge.objectives] == ["maximize", "minimize"]
