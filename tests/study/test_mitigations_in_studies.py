"""Mitigations as search dimensions: subsets of them, in fixed recipes, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import session
from kit_ledger import sqlite
from kit_plan import document, fields, plan, score_by
from kit_tiny import Tiny, make, study_fields, study_file

from fairtune.config import Choice, Dimension, Float, Int
from fairtune.config.dimensions import Scalar
from fairtune.errors import FairtuneError
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.combine import fits, unnamed
from fairtune.study.ledger import Ledger, Options
from fairtune.study.opening import identity
from fairtune.study.phases import BaselinePhase, SearchPhase, point
from fairtune.study.rows import SEARCH, mitigations_of
from fairtune.study.schema import build_study
from fairtune.study.search import make_plan, phases
from fairtune.study.worker import Limits, StopFlag, work

LR = {"float": [1e-4, 1e-2], "log": True}
EVERY: dict[str, Any] = {"subset_of": list(MITIGATIONS), "max": 2}
SOME: dict[str, Any] = {
    "max": 2,
    "subset_of": [
        {"resample": {"by": {"one_of": ["group", "both"]}}},
        "group_dro",
        {
            "sinkhorn": {
                "attribute": "age",
                "given": {"one_of": ["none", "label"]},
                "distance": {
                    "one_of": [
                        "w2",
                        "energy",
                        {"sinkhorn": {"blur": {"float": [0.1, 1.0], "log": True}}},
                    ]
                },
                "weight": {"float": [1e-3, 10], "log": True},
            }
        },
    ],
}


def space(mitigations: Any) -> dict[str, Any]:
    return {"optim.lr": LR, "adaptation.mask": "auto_peft1", "mitigations": mitigations}


def at_random(seed: int) -> Any:
    rng = random.Random(seed)

    def suggest(name: str, dimension: Dimension) -> Scalar:
        if isinstance(dimension, Choice):
            return rng.choice(dimension.options)
        if isinstance(dimension, Int):
            return rng.randint(dimension.low, dimension.high)
        assert isinstance(dimension, Float)
        return rng.uniform(dimension.low, dimension.high)

    return suggest


def test_names_are_those_of_path_member_and_field() -> None:
    found = plan(space=space(SOME)).dimensions()
    own = {name: d for name, d in found.items() if name.startswith("mitigations.")}
    assert list(own) == [
        "mitigations.resample",
        "mitigations.group_dro",
        "mitigations.sinkhorn",
        "mitigations.resample.by",
        "mitigations.group_dro.by",
        "mitigations.group_dro.eta",
        "mitigations.sinkhorn.given",
        "mitigations.sinkhorn.distance",
        "mitigations.sinkhorn.distance.sinkhorn.blur",
        "mitigations.sinkhorn.weight",
    ]
    assert own["mitigations.sinkhorn"] == Choice((False, True))
    assert own["mitigations.sinkhorn.distance"] == Choice(("w2", "energy", "sinkhorn"))


def test_a_member_named_alone_is_tried_with_what_it_declares() -> None:
    found = plan(space=space({"subset_of": ["sinkhorn"]})).dimensions()
    assert found["mitigations.sinkhorn.weight"] == Float(1e-3, 10.0, log=True)
    assert found["mitigations.sinkhorn.distance"] == Choice(("w2", "sinkhorn", "energy"))
    assert found["mitigations.sinkhorn.distance.sinkhorn.blur"] == Float(0.1, 1.0, log=True)
    assert "mitigations.sinkhorn.queue" not in found


@given(st.integers(0, 2**30))
@settings(max_examples=60, deadline=None)
def test_every_draw_is_a_recipe_whose_parameters_say_it(seed: int) -> None:
    whole = plan(space=space(EVERY))
    recipe, params = point(whole, at_random(seed))
    members = [type(m) for m in recipe.mitigations]
    assert len(members) <= 2
    assert all(fits(m, [o for o in members if o is not m]) for m in members)
    on = {n.split(".")[1] for n, v in params.items() if n.count(".") == 1 and v is True
          and n.startswith("mitigations.")}  # fmt: skip
    assert on == {m.registered_name for m in members}  # type: ignore[attr-defined]
    values = {path: None for path, _ in whole.space.nodes} | {
        "optim.lr": recipe.optim.lr,
        "adaptation.mask": list(recipe.adaptation.mask),
        "mitigations": recipe.to_json().get("mitigations", []),
    }
    again = whole.space.encode(values, whole.units)
    assert again == params
    assert unnamed(recipe.mitigations) is None


def test_which_members_a_full_draw_keeps_is_spread_evenly() -> None:
    node: Any = plan(space=space(EVERY)).space.get("mitigations")
    names = list(MITIGATIONS)
    rng = random.Random(0)
    kept: dict[str, int] = dict.fromkeys(names, 0)
    for _ in range(600):
        for name in node.kept([n for n in names if rng.random() < 0.5]):
            kept[name] += 1
    assert min(kept.values()) > 0.5 * max(kept.values())


def test_one_of_is_at_most_one_member_and_none_is_plain_training() -> None:
    whole = plan(space=space({"one_of": ["none", "group_dro", {"sinkhorn": {"weight": 2.0}}]}))
    assert whole.dimensions()["mitigations"] == Choice(("none", "group_dro", "sinkhorn"))
    drawn = {
        label: whole.recipe(
            whole.space.draw(
                lambda n, d, label=label: label if n == "mitigations" else at_random(1)(n, d),
                whole.units,
            )
        )
        for label in ("none", "group_dro", "sinkhorn")
    }
    assert drawn["none"].mitigations == ()
    assert drawn["sinkhorn"].to_json()["mitigations"][0]["sinkhorn"]["weight"] == 2.0
    assert drawn["none"].identity() == plan().recipe(
        {"optim.lr": drawn["none"].optim.lr, "adaptation.mask": drawn["none"].adaptation.mask}
    ).identity()  # fmt: skip
    never = plan(space=space({"one_of": ["none"]}))
    assert not any(name.startswith("mitigations") for name in never.dimensions())
    assert never.space.draw(at_random(0), never.units)["mitigations"] == []
    always = plan(space=space({"one_of": ["group_dro"]}))
    assert "mitigations" not in always.dimensions()
    assert "mitigations.group_dro.eta" in always.dimensions()


@pytest.mark.parametrize("trials", [1, 3, 40])
@pytest.mark.parametrize("mask", [True, False])
def test_plain_training_is_among_the_first_trials(trials: int, mask: bool) -> None:
    searched = space(SOME)
    recipe = fields()["recipe"]
    if not mask:
        del searched["adaptation.mask"]
        recipe = recipe | {"adaptation": {"mask": "norm:all"}}
    whole = plan(space=searched, recipe=recipe, budget={"trials": trials})
    first = SearchPhase(whole, BaselinePhase(whole)).anchors()
    assert first
    assert all(not p.recipe.get("mitigations") for p in first)
    assert all(p.params["mitigations.sinkhorn"] is False for p in first)
    if not mask:
        assert [p.attrs["label"] for p in first] == ["middle"]


def test_baselines_have_no_mitigation() -> None:
    fixed = fields()["recipe"] | {"mitigations": ["group_dro"]}
    for whole in (plan(space=space(SOME)), plan(recipe=fixed)):
        assert whole.baseline("norm:all", 1e-3).mitigations == ()


def test_the_attribute_is_that_of_the_first_objective_that_compares_groups() -> None:
    fixed = fields()["recipe"] | {"mitigations": ["resample"]}
    made = build_study(document(recipe=fixed, objectives=["auc", "auc_gap@age", "worst_auc@sex"]))
    assert made.recipe.to_json()["mitigations"] == [
        {"resample": {"attribute": "age", "by": "group"}}
    ]


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"mitigations": [{"resample": {"attribute": "race"}}]}, "recipe.mitigations", "race"),
        ({"mitigations": ["resample", "reweight"]}, "recipe.mitigations", "twice"),
        ({"mitigations": ["resample", "resample"]}, "recipe.mitigations", "stands twice"),
        ({"mitigations": ["reweight"], "optim": {"class_weights": "balanced"}},
         "recipe.mitigations", "do not go together"),
        ({"mitigations": ["laftr"], "optim": {"mixup": 0.2}}, "recipe.mitigations",
         "do not go together"),
        ({"mitigations": [{"sinkhorn": {"weight": 0.0}}]}, "recipe.mitigations", "greater than 0"),
        ({"mitigations": [{"sinkhorn": {"blur": 0.3}}]}, "recipe.mitigations", "unknown field"),
        ({"mitigations": "resample"}, "recipe.mitigations", "a list"),
    ],
)  # fmt: skip
def test_what_cannot_be_in_a_recipe_is_said_with_its_line(
    changes: dict[str, Any], where: str, words: str
) -> None:
    with pytest.raises(FairtuneError) as caught:
        build_study(document(recipe=fields()["recipe"] | changes))
    assert words in str(caught.value)
    assert where in str(caught.value)
    assert "study.yaml:" in str(caught.value)


@pytest.mark.parametrize(
    ("mitigations", "more", "words"),
    [
        (
            {"subset_of": [{"sinkhorn": {"attribute": "race"}}]},
            {},
            "not an attribute of the recipe",
        ),
        ({"subset_of": [{"sinkhorn": {"attribute": {"one_of": ["sex", "race"]}}}]}, {}, "race"),
        ({"subset_of": ["laftr"]}, {"optim.mixup": "declared"}, "does not go together"),
        ({"subset_of": ["reweight"]}, {"optim.class_weights": "declared"}, "does not go together"),
    ],
)
def test_what_no_draw_could_be_trained_with_is_said_at_creation(
    mitigations: Any, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(FairtuneError) as caught:
        build_study(document(space={**space(mitigations), **more}))
    assert words in str(caught.value)
    assert "space.mitigations" in str(caught.value)


def test_without_an_objective_of_groups_the_attribute_must_be_named() -> None:
    with pytest.raises(FairtuneError, match="nothing says of which attribute"):
        build_study(document(space=space({"subset_of": ["resample"]}), objectives=["auc"]))
    alone = fields()["recipe"]
    alone = alone | {"data": alone["data"] | {"attributes": ["sex"]}}
    whole = build_study(
        document(space=space({"subset_of": ["resample"]}), objectives=["auc"], recipe=alone)
    )
    assert whole.recipe.mitigations == ()


@pytest.mark.slow
def test_a_study_searches_mitigations_confirms_and_finetunes(tmp_path: Any) -> None:
    members = ["sinkhorn", {"bad_pairs": {"warmup": 1}}, "laftr", "resample"]
    found: Tiny = make(
        tmp_path,
        space={
            "optim.lr": {"float": [1e-3, 1e-1], "log": True},
            "mitigations": {"subset_of": members, "max": 2},
        },
        recipe=study_fields()["recipe"] | {"adaptation": {"mask": "norm:all"}},
        baselines={"of": ["norm:all"], "lr_points": 1},
        budget={"trials": 6},
    )
    rows = [row for row in found.view.rows[SEARCH] if row.state == "complete"]
    assert len(rows) == 6
    assert rows[0].recipe.get("mitigations") is None
    mitigated = [row for row in rows if row.recipe.get("mitigations")]
    assert mitigated
    for row in mitigated:
        names = {name for member in row.recipe["mitigations"] for name in member}
        said = row.attrs.get("terms", {})
        assert set(said) == {"sinkhorn", "laftr"} & names
        for part in said.values():
            assert set(part) == {"start", "end"}
            assert set(part["start"]) == {"loss", "gradient"}
        stored = found.view.runs.get(row.key)
        assert stored is not None
        assert {"sinkhorn", "laftr", "bad_pairs"} & names <= set(stored.mitigations)


@pytest.mark.parametrize("sampler", ["auto", "blr_ts", "tpe", "nsga2", "random"])
def test_every_sampler_of_conditional_spaces_searches_them(sampler: str, tmp_path: Path) -> None:
    made = plan(space=space(EVERY), budget={"trials": 30}, sampler=sampler, baselines=[])

    def value(recipe: Mapping[str, Any]) -> float:
        names = {name for member in recipe.get("mitigations", ()) for name in member}
        return 0.5 + 0.2 * ("group_dro" in names) - 0.1 * len(names) / 2

    with Ledger.open(
        sqlite(tmp_path),
        "s",
        directions=["maximize"],
        identity=identity(made),
        create=True,
        options=Options(sampler=made.study.sampler, seed=0),  # type: ignore[arg-type]
    ) as ledger:
        work(ledger, phases(made)[:2], score_by(value), Limits(), StopFlag())
        rows = ledger.rows(SEARCH)
    assert len(rows) == 30
    for row in rows:
        names = {name for member in row.recipe.get("mitigations", ()) for name in member}
        on = {
            name.split(".")[1]
            for name, value in row.params.items()
            if name.startswith("mitigations.") and name.count(".") == 1 and value
        }
        assert on == names
        assert len(names) <= 2
        assert mitigations_of(row.recipe) == " + ".join(sorted(names))
    assert not rows[0].recipe.get("mitigations")


@pytest.mark.parametrize("sampler", ["gp", "cmaes"])
def test_samplers_that_need_every_parameter_refuse_them(sampler: str) -> None:
    held = session()
    study = study_file(space={"optim.lr": LR, "mitigations": SOME}, sampler=sampler)
    with pytest.raises(FairtuneError, match="needs every parameter in every trial"):
        make_plan(study, held, None)
