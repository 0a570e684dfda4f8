"""Which recipes with mitigations are one recipe, and what of their fields acts."""

from __future__ import annotations

from typing import Any

import pytest
from kit import session, tiny_recipe

from fairtune.config import parse
from fairtune.errors import ConfigError
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.train import Job, train_one

EMPTY = {"mask": "none"}


def with_(*members: Any, **changes: Any) -> Recipe:
    return tiny_recipe(mitigations=list(members), **changes).attributed("sex")


def test_a_recipe_without_mitigations_is_written_and_named_as_before() -> None:
    assert "mitigations" not in tiny_recipe().to_json()
    assert "mitigations" not in tiny_recipe().canonical()
    assert tiny_recipe(mitigations=[]).identity() == tiny_recipe().identity()
    assert tiny_recipe(mitigations="none").identity() == tiny_recipe().identity()


def test_their_order_does_not_matter() -> None:
    one, other = with_("sam", "group_dro"), with_("group_dro", "sam")
    assert one == other
    assert one.identity() == other.identity()
    assert parse(Recipe, one.to_json()) == one


def test_an_attribute_that_does_not_act_is_no_part_of_it() -> None:
    by_class = {"resample": {"by": "class"}}
    named = {"resample": {"by": "class", "attribute": "age"}}
    assert with_(by_class).identity() == with_(named).identity()
    assert with_("resample").identity() != with_({"resample": {"attribute": "age"}}).identity()
    # It is asked for by nobody either.
    assert tiny_recipe(mitigations=[by_class]).attributed("sex").mitigations[0] is not None
    assert session().resolve(tiny_recipe(mitigations=[by_class])).mitigations


def test_with_an_empty_mask_the_head_is_trained_and_its_own_fields_act() -> None:
    plain, made = tiny_recipe(adaptation=EMPTY), with_("group_dro", adaptation=EMPTY)
    assert plain.solved
    assert made.head_only
    assert not made.solved
    assert "l2" not in made.canonical()["optim"]
    for field, acts in (
        ("lr", False),
        ("layer_decay", False),
        ("head_lr", True),
        ("epochs", True),
    ):
        value = {"lr": 0.5, "layer_decay": 0.5, "head_lr": 0.5, "epochs": 3}[field]
        changed = with_("group_dro", adaptation=EMPTY, **{f"optim__{field}": value})
        assert (changed.identity() != made.identity()) is acts, field
    without = with_("group_dro", adaptation=EMPTY, optim__lr=None)
    result = train_one(Job(session().resolve(without), Seeds()), session())
    assert set(result.weights) == {"head.weight", "head.bias"}
    assert len(result.epochs) == without.optim.epochs


def test_post_processing_leaves_an_empty_mask_solved() -> None:
    made = with_("group_temperature", adaptation=EMPTY)
    assert made.solved
    assert made.identity() != tiny_recipe(adaptation=EMPTY).identity()


@pytest.mark.parametrize(
    ("members", "changes", "words"),
    [
        (["swad"], {"optim__ema": 0.9}, "do not go together"),
        (["group_dro"], {"optim__mixup": 0.2}, "do not go together"),
        (["reweight"], {"optim__class_weights": "balanced"}, "do not go together"),
        (["reweight", "group_dro"], {}, "count the same samples twice"),
        (["sinkhorn", "sinkhorn_as_released"], {}, "count the same samples twice"),
        ([{"laftr": {"attribute": "race"}}], {}, "not an attribute of the recipe"),
        ([{"laftr": {"attribute": "sex*sex"}}], {}, "not an attribute of the recipe"),
    ],
)
def test_what_does_not_go_together_is_refused(
    members: list[Any], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_recipe(mitigations=members, **changes)


def test_nobody_says_of_which_attribute() -> None:
    with pytest.raises(ConfigError, match="nothing says of which attribute"):
        session().resolve(tiny_recipe(mitigations=["laftr"]))


def test_a_crossing_is_trained_with() -> None:
    recipe = session().resolve(tiny_recipe(mitigations=[{"group_dro": {"attribute": "sex*age"}}]))
    said = train_one(Job(recipe, Seeds()), session()).mitigations["group_dro"]["q"]
    assert len(said) == 4
    assert sum(said.values()) == pytest.approx(1.0)
