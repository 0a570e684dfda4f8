from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import tiny_fields, tiny_recipe

from fairtune.config import Source, parse
from fairtune.config.registry import declared_dimensions
from fairtune.config.yaml12 import loads
from fairtune.errors import ConfigError, FairtuneError
from fairtune.training.recipe import PROTOCOL, Recipe, Seeds
from fairtune.training.recipe_parts import DataPart, FitPart, OptimPart

MASK = {"mask": ["blocks.0.norm1.weight"]}
EMPTY: dict[str, Any] = {"mask": []}
UNUSED_WHEN_SOLVED = {
    "lr": 2e-4,
    "head_lr": 2e-3,
    "optimizer": "sgd",
    "accumulate": 2,
    "weight_decay": 0.05,
    "epochs": 7,
    "batch_size": 16,
    "schedule": "constant",
    "warmup": 0.0,
    "clip_norm": 0.0,
    "mixup": 0.2,
    "cutmix": 1.0,
    "ema": 0.99,
    "layer_decay": 0.8,
}
USED_WHEN_SOLVED = {"l2": 0.1, "class_weights": "balanced", "label_smoothing": 0.1}
ADDED: dict[str, dict[str, Any]] = {
    "data": {
        "augmentation": "ab",
        "fold": {"index": 1, "of": 2, "by": "sex"},
        "fraction": 0.5,
        "prompts": "cd",
        "seed": 3,
    },
    "optim": {
        "class_weights": "balanced",
        "label_smoothing": 0.1,
        "mixup": 0.2,
        "cutmix": 1.0,
        "ema": 0.99,
        "layer_decay": 0.8,
        "accumulate": 2,
    },
    "fit": {"copies": 4, "checkpointing": "blocks", "compile": "blocks"},
}
"""Fields that recipes stored before them do not have, each at a value at which it acts."""


@pytest.mark.parametrize("mask", ["none", "linear_readout", []])
def test_an_empty_mask_is_solved(mask: Any) -> None:
    assert tiny_recipe(adaptation={"mask": mask}).solved
    assert not tiny_recipe(adaptation=MASK).solved


@pytest.mark.parametrize("field", UNUSED_WHEN_SOLVED)
def test_a_solved_readout_does_not_depend_on_how_masks_are_trained(field: str) -> None:
    one = tiny_recipe(adaptation=EMPTY)
    other = tiny_recipe(adaptation=EMPTY, **{f"optim__{field}": UNUSED_WHEN_SOLVED[field]})
    assert one != other
    assert one.identity() == other.identity()
    trained = tiny_recipe(adaptation=MASK, **{f"optim__{field}": UNUSED_WHEN_SOLVED[field]})
    assert trained.identity() != tiny_recipe(adaptation=MASK).identity()


def test_the_examples_cover_every_field_of_optim() -> None:
    assert {*UNUSED_WHEN_SOLVED, *USED_WHEN_SOLVED} == set(OptimPart.model_fields)


@pytest.mark.parametrize("field", USED_WHEN_SOLVED)
def test_a_solved_readout_depends_on_what_its_problem_is_made_of(field: str) -> None:
    plain = tiny_recipe(adaptation=EMPTY)
    other = tiny_recipe(adaptation=EMPTY, **{f"optim__{field}": USED_WHEN_SOLVED[field]})
    assert plain.identity() != other.identity()
    assert other.canonical()["optim"] == {"l2": 0.01} | {field: USED_WHEN_SOLVED[field]}


def test_a_recipe_from_before_the_added_fields_is_still_the_same() -> None:
    part = {"dataset": "a", "target": "b", "attributes": ["c"]}
    fields = {"data": part, "model": {"name": "m"}, "adaptation": {"mask": "norm:all"}}
    trained = parse(Recipe, {**fields, "optim": {"lr": 1e-3}})
    # Computed by the version in which recipes were first stored.
    assert trained.identity() == "7c83a301773e28d30fb43a6068de2e7b"
    assert trained.key(Seeds()) == "f3facbdb1f5375082494deb5fc857c60"
    solved = parse(Recipe, {**fields, "adaptation": {"mask": "none"}})
    assert solved.identity() == "1113ab1510a0f32985c39eb356759659"
    assert PROTOCOL == 1


@pytest.mark.parametrize(
    ("part", "cls"), [("data", DataPart), ("optim", OptimPart), ("fit", FitPart)]
)
def test_added_fields_are_written_only_where_they_act(part: str, cls: Any) -> None:
    assert set(ADDED[part]) == set(cls.ADDED)
    assert not set(ADDED[part]) & set(tiny_recipe().to_json()[part])
    for name, value in ADDED[part].items():
        changed = tiny_recipe(**{f"{part}__{name}": value})
        written = changed.to_json()
        assert written[part][name] == value
        assert parse(Recipe, written) == changed
        assert set(written[part]) & set(ADDED[part]) == {name}


@pytest.mark.parametrize(
    ("augment", "acts"),
    [("none", set()), ("light", {"copies"}), ("medical", {"copies", "augmentation"})],
)
def test_augmentation_has_an_identity_only_where_it_is_used(augment: str, acts: set[str]) -> None:
    plain = tiny_recipe(adaptation=MASK, fit__augment=augment)
    for part, name in (("fit", "copies"), ("data", "augmentation")):
        other = tiny_recipe(
            **{"adaptation": MASK, "fit__augment": augment, f"{part}__{name}": ADDED[part][name]}
        )
        assert (plain.identity() != other.identity()) == (name in acts)
        solved = other.model_copy(update={"adaptation": tiny_recipe(adaptation=EMPTY).adaptation})
        assert solved.identity() == tiny_recipe(adaptation=EMPTY).identity()


def test_a_solved_readout_has_no_augmentation_and_no_method() -> None:
    canonical = tiny_recipe(adaptation=EMPTY, fit__augment="light").canonical()
    assert canonical["adaptation"] == {"mask": []}
    assert canonical["optim"] == {"l2": 0.01}
    idle = {"augment", "copies", "checkpointing", "compile"}
    assert set(canonical["fit"]) == set(FitPart.model_fields) - idle


def test_only_the_solved_readout_has_l2() -> None:
    assert "l2" not in tiny_recipe(adaptation=MASK).canonical()["optim"]
    one, other = (tiny_recipe(adaptation=MASK, optim__l2=l2) for l2 in (0.1, 0.2))
    assert one.identity() == other.identity()
    one, other = (tiny_recipe(adaptation=EMPTY, optim__l2=l2) for l2 in (0.1, 0.2))
    assert one.identity() != other.identity()


def test_pinned_weights_stand_for_the_name_they_were_asked_by() -> None:
    named = tiny_recipe(model__weights="some.safetensors", model__weights_sha="ab" * 32)
    auto = tiny_recipe(model__weights="auto", model__weights_sha="ab" * 32)
    assert named.identity() == auto.identity()
    assert named.identity() != tiny_recipe(model__weights_sha="cd" * 32).identity()


def test_a_mask_without_a_learning_rate_has_no_identity() -> None:
    with pytest.raises(ConfigError, match="trained without a learning rate"):
        tiny_recipe(adaptation=MASK, optim={}).identity()
    assert tiny_recipe(adaptation=EMPTY, optim={}).identity()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data__target", "other"),
        ("data__attributes", ["sex"]),
        ("data__where", {"view": "PA"}),
        ("data__fingerprint", "1"),
        ("data__split", "1"),
        ("model__image_size", 64),
        ("model__units", "1"),
        ("optim__lr", 1e-4),
        ("fit__precision", "bf16"),
        ("fit__rows", "train+val"),
        ("fit__augment", "light"),
        *[(f"optim__{name}", value) for name, value in ADDED["optim"].items()],
        ("adaptation", {"mask": ["stem"]}),
    ],
)
def test_whatever_changes_the_numbers_changes_the_identity(path: str, value: Any) -> None:
    plain = tiny_recipe(adaptation=MASK)
    changed = tiny_recipe(**{"adaptation": MASK, path: value})
    assert plain.identity() != changed.identity()


seeds = st.builds(Seeds, data=st.integers(0, 2**31), init=st.integers(0, 2**31))


@given(seeds, seeds)
def test_a_key_is_a_recipe_and_its_seeds(one: Seeds, other: Seeds) -> None:
    recipe = tiny_recipe(adaptation=MASK)
    assert (recipe.key(one) == recipe.key(other)) == (one == other)
    assert recipe.key(one) != recipe.identity()


def test_equal_recipes_have_equal_keys() -> None:
    one = tiny_recipe(adaptation=EMPTY, optim__epochs=3)
    other = tiny_recipe(adaptation=EMPTY, optim__epochs=4)
    assert one.key(Seeds(data=1)) == other.key(Seeds(data=1))


@given(
    st.floats(1e-6, 1.0),
    st.integers(1, 100),
    st.sampled_from(["adamw", "sgd"]),
    st.sampled_from(["none", "attn:9-11", "fullft"]),
)
def test_a_recipe_survives_json(lr: float, epochs: int, optimizer: str, rule: str) -> None:
    recipe = tiny_recipe(
        adaptation__mask=rule, optim={"lr": lr, "epochs": epochs, "optimizer": optimizer}
    )
    again = parse(Recipe, recipe.to_json())
    assert again == recipe
    assert again.identity() == recipe.identity()
    assert hash(again) == hash(recipe)


RECIPE = """\
data: {dataset: nih-cxr-64, target: abnormal, attributes: [sex]}
model: {name: test_vit}
"""


def read(text: str) -> Recipe:
    located = loads(text, "recipe.yaml")
    return parse(Recipe, located.data, Source(located))


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("optim: {lr: 1e-3, epoch: 3}\n", 3, "did you mean 'epochs'"),
        ("optim:\n  lr: fast\n", 4, "fast"),
        ("optim: {lr: 0}\n", 3, "0"),
        ("optim: {batch_size: 0}\n", 3, "batch_size"),
        ("optim: {epochs: 2.5}\n", 3, "2.5"),
        ("fit: {precision: fp16}\n", 3, "bf16"),
        ("fit: {rows: test}\n", 3, "train"),
        ("usage: segment\n", 3, "'segment' is not available in this version"),
        ("usage: clasify\n", 3, "did you mean 'classify'"),
        ("adaptation: {method: loar}\n", 3, "did you mean 'lora'"),
        ("adaptation: {method: {attn: {lora: {rank: 0}}}}\n", 3, "method.attn.lora.rank"),
        ("optim: {lr: .nan}\n", 3, "nan"),
        ("optim: {lr: '1e-3'}\n", 3, "1e-3"),
        ("optim: {ema: 1.0}\n", 3, "ema"),
        ("optim: {layer_decay: 0.0}\n", 3, "layer_decay"),
        ("optim: {label_smoothing: 1.0}\n", 3, "label_smoothing"),
        ("optim: {mixup: -0.1}\n", 3, "mixup"),
        ("optim: {class_weights: heavy}\n", 3, "balanced"),
        ("fit: {augment: strong}\n", 3, "medical"),
        ("fit: {copies: -1}\n", 3, "copies"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(FairtuneError, match=message) as caught:
        read(RECIPE + text)
    assert f"recipe.yaml:{line}" in str(caught.value)


def test_several_faults_are_told_at_once() -> None:
    with pytest.raises(FairtuneError, match="3 problems"):
        read(RECIPE + "optim: {lr: -1, epochs: 0}\nfit: {precision: int8}\n")


def test_the_learning_rate_has_no_default() -> None:
    assert OptimPart().lr is None


@pytest.mark.parametrize("part", [OptimPart, FitPart])
def test_defaults_lie_in_the_declared_range(part: type[Any]) -> None:
    for name, dimension in declared_dimensions(part).items():
        default = getattr(part(), name)
        assert default is None or dimension.contains(default), name


def test_attributes_are_needed() -> None:
    fields = tiny_fields(data__attributes=[])
    with pytest.raises(FairtuneError, match="attributes"):
        parse(Recipe, fields)


def test_younger_fields_leave_older_recipes_as_they_are() -> None:
    plain = tiny_recipe()
    assert "accumulate" not in plain.to_json()["optim"]
    assert "checkpointing" not in plain.to_json()["fit"]
    stated = tiny_recipe(optim__accumulate=1, fit__checkpointing="none")
    assert stated.to_json() == plain.to_json()
    assert stated.identity() == plain.identity()
    more = tiny_recipe(optim__accumulate=2)
    assert more.to_json()["optim"]["accumulate"] == 2
    assert more.identity() != plain.identity()
    assert parse(Recipe, more.to_json()) == more


def test_what_changes_no_number_is_not_in_the_key() -> None:
    assert tiny_recipe(fit__compile="blocks").identity() != tiny_recipe().identity()
    thrifty = tiny_recipe(fit__checkpointing="blocks")
    assert parse(Recipe, thrifty.to_json()) == thrifty
    assert thrifty.identity() == tiny_recipe().identity()
    solved = tiny_recipe(adaptation__mask="none", fit__checkpointing="blocks")
    assert solved.identity() == tiny_recipe(adaptation__mask="none").identity()
