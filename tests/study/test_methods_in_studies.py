"""Adaptation methods as search dimensions: of the whole mask, and of single unit types."""

from __future__ import annotations

from typing import Any

import pytest
from kit_language import network_spec
from kit_plan import document, fields, plan, vit
from kit_tiny import Tiny, make, study_file

from fairtune.adaptation.placement import METHOD
from fairtune.config import Choice, Float, Int
from fairtune.errors import FairtuneError
from fairtune.models.backbone import describe
from fairtune.study.opening import identity
from fairtune.study.phases import BaselinePhase, SearchPhase
from fairtune.study.rows import SEARCH
from fairtune.study.schema import build_study
from fairtune.study.search import make_plan

LR = {"float": [1e-4, 1e-2], "log": True}
RANK = {"one_of": [2, 4]}
TYPED: dict[str, Any] = {
    "optim.lr": LR,
    "adaptation.mask": {"bits": {"types": ["norm", "attn", "mlp"]}},
    f"{METHOD}.attn": {"one_of": ["direct", {"lora": {"rank": RANK}}]},
    f"{METHOD}.mlp.fc1": {"one_of": ["direct", {"ssf": {}}]},
}


def drawn(whole: Any, choices: dict[str, Any]) -> Any:
    def suggest(name: str, dimension: Any) -> Any:
        if name in choices:
            return choices[name]
        if isinstance(dimension, Choice):
            return True if dimension.options == (False, True) else dimension.options[0]
        return dimension.low

    return whole.recipe(whole.space.draw(suggest, whole.units))


def test_a_member_named_alone_brings_its_declared_ranges() -> None:
    whole = plan(space={"optim.lr": LR, METHOD: {"one_of": ["direct", "lora"]},
                        "adaptation.mask": "auto_peft1"})  # fmt: skip
    found = whole.dimensions()
    assert found[METHOD] == Choice(("direct", "lora"))
    assert found[f"{METHOD}.lora.rank"] == Choice((2, 4, 8, 16))
    assert isinstance(found[f"{METHOD}.lora.dropout"], Float)
    assert not any(isinstance(found[f"{METHOD}.lora.{n}"], Int) for n in ("alpha", "targets"))
    recipe = drawn(whole, {METHOD: "lora", f"{METHOD}.lora.rank": 16})
    assert recipe.adaptation.method.to_json()["lora"]["rank"] == 16
    assert drawn(whole, {METHOD: "direct"}).canonical()["adaptation"]["method"] == {"direct": {}}


def test_a_method_for_each_type_is_a_parameter_of_its_own() -> None:
    whole = plan(space=TYPED)
    assert {n for n in whole.dimensions() if n.startswith(METHOD)} == {
        f"{METHOD}.attn",
        f"{METHOD}.attn.lora.rank",
        f"{METHOD}.mlp.fc1",
    }
    recipe = drawn(whole, {f"{METHOD}.attn": "lora", f"{METHOD}.attn.lora.rank": 4,
                           f"{METHOD}.mlp.fc1": "ssf"})  # fmt: skip
    placed = recipe.adaptation.method.placements(recipe.adaptation.mask, whole.units)
    assert [(p.name, p.type) for p in placed] == [
        ("lora", "attn"), ("ssf", "mlp.fc1"), ("direct", None)
    ]  # fmt: skip


def test_types_of_towers_have_switches_and_methods_of_their_own() -> None:
    space = {
        "optim.lr": LR,
        "adaptation.mask": {"bits": {"types": ["attn", "image.norm"]}},
        f"{METHOD}.image.attn": {"one_of": ["direct", {"lora": {"rank": RANK}}]},
        f"{METHOD}.text": {"one_of": ["direct", "ia3"]},
    }
    units = describe(network_spec())
    whole = plan(units, space=space, baselines={"of": ["image", "text"], "lr_points": 2})
    mask = [n for n in whole.dimensions() if n.startswith("adaptation.mask")]
    assert len(mask) == 2 * 6 + 2
    assert "adaptation.mask.bits.text.attn.1" in mask
    recipe = drawn(whole, {f"{METHOD}.image.attn": "lora", f"{METHOD}.image.attn.lora.rank": 4,
                           f"{METHOD}.text": "ia3"})  # fmt: skip
    placed = recipe.adaptation.method.placements(recipe.adaptation.mask, units)
    assert [(p.name, p.type, {u.split(".")[0] for u in p.units}) for p in placed] == [
        ("lora", "image.attn", {"image"}), ("ia3", "text", {"text"}), ("direct", None, {"image"}),
    ]  # fmt: skip
    for name in ("image", "text"):
        assert set(whole.baseline(name).adaptation.mask) == set(units.of_tower(name))


def test_what_does_not_act_on_the_mask_makes_no_other_recipe() -> None:
    whole = plan(space=TYPED)
    off = {f"adaptation.mask.bits.attn.{i}": False for i in range(3)}
    one = drawn(whole, {**off, f"{METHOD}.attn": "lora"})
    other = drawn(whole, {**off, f"{METHOD}.attn": "direct"})
    assert one.identity() == other.identity()
    assert drawn(whole, {f"{METHOD}.attn": "lora"}).identity() != other.identity()


def test_fixed_methods_of_types_stand_beside_searched_ones() -> None:
    recipe = fields()["recipe"] | {"adaptation": {"method": {"mlp": "bitfit"}}}
    space = {n: TYPED[n] for n in ("optim.lr", "adaptation.mask", f"{METHOD}.attn")}
    found = drawn(plan(recipe=recipe, space=space), {f"{METHOD}.attn": "lora"})
    assert set(found.adaptation.method.to_json()) == {"attn", "mlp"}


def test_baselines_train_directly() -> None:
    recipe = fields()["recipe"] | {"adaptation": {"method": {"attn": "lora"}}}
    for whole in (plan(space=TYPED), plan(recipe=recipe)):
        made = whole.baseline("attn:all", 1e-3)
        assert made.adaptation.method.to_json() == {"direct": {}}
        plain = plan().baseline("attn:all", 1e-3)
        assert made.identity() == plain.identity()
        assert list(BaselinePhase(whole).proposals())


def test_anchors_take_the_first_method_that_is_written() -> None:
    found = SearchPhase(plan(space=TYPED), BaselinePhase(plan(space=TYPED))).anchors()
    assert found
    assert all(p.params[f"{METHOD}.attn"] == "direct" for p in found)


@pytest.mark.parametrize(
    ("space", "recipe", "words"),
    [
        ({METHOD: {"one_of": ["lora"]}, f"{METHOD}.attn": {"one_of": ["ssf"]}}, {}, "whole mask"),
        ({f"{METHOD}.attn": {"one_of": ["ssf"]}}, {"method": "lora"}, "whole mask"),
        ({f"{METHOD}.attn.qkv": {"one_of": ["ssf"]}}, {"method": {"attn.qkv": "lora"}},
         "both in recipe and in space"),
        ({METHOD: {"one_of": ["ssf"]}}, {"method": "lora"}, "both in recipe and in space"),
    ],
)  # fmt: skip
def test_a_method_is_said_once(space: Any, recipe: Any, words: str) -> None:
    whole = {"optim.lr": LR, "adaptation.mask": "auto_peft1", **space}
    with pytest.raises(FairtuneError) as caught:
        build_study(document(space=whole, recipe=fields()["recipe"] | {"adaptation": recipe}))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("path", "words"),
    [("attnn", "did you mean 'attn'"), ("bias", "share a unit")],
)
def test_types_are_checked_before_anything_runs(path: str, words: str, tiny_session: Any) -> None:
    space = {
        "optim.lr": LR,
        "adaptation.mask": "auto_peft1",
        f"{METHOD}.attn": {"one_of": ["direct", "lora"]},
        f"{METHOD}.{path}": {"one_of": ["direct", "bitfit"]},
    }
    with pytest.raises(FairtuneError) as caught:
        make_plan(study_file(space=space), tiny_session, None)
    assert words in str(caught.value)
    assert "tiny.yaml:" in str(caught.value)


@pytest.fixture
def tiny_session() -> Any:
    from kit import session

    return session()


def test_a_field_fixed_inside_a_member_is_part_of_the_study() -> None:
    def of(rank: int) -> Any:
        member = {"one_of": ["direct", {"lora": {"rank": rank}}]}
        return identity(plan(vit(3), space={**TYPED, f"{METHOD}.attn": member}))

    assert of(2) != of(4)
    assert of(2) == of(2)
    assert "fields fixed in space" not in identity(plan())


@pytest.mark.slow
def test_a_study_searches_methods_confirms_and_finetunes(tmp_path: Any) -> None:
    space = {
        "optim.lr": {"float": [1e-3, 1e-1], "log": True},
        "adaptation.mask": {"bits": {"types": ["norm", "attn"]}},
        f"{METHOD}.attn": {"one_of": [{"lora": {"rank": {"one_of": [2, 4]}}}, "ssf"]},
    }
    found: Tiny = make(tmp_path, space=space, baselines={"of": ["norm:all"], "lr_points": 1})
    rows = [row for row in found.view.rows[SEARCH] if row.state == "complete"]
    named = set()
    for row in rows:
        made = found.view.runs.get(row.key)
        assert made is not None
        assert row.attrs["trainable_share"] == made.costs["trainable_share"]
        text = (made.folder / "mask.txt").read_text()
        methods = set(
            row.recipe["adaptation"]["method"].get("attn", row.recipe["adaptation"]["method"])
        )
        named |= methods
        assert all(f"attn.qkv.weight {name}" in text for name in methods - {"direct"})
    assert named & {"lora", "ssf"}
