"""Recipes, seeds and proposals: what every worker computes alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit_plan import plan, vit

from fairtune.adaptation import Rule
from fairtune.errors import FairtuneError
from fairtune.study.plan import seeds_of
from fairtune.study.rows import BASELINE, CONFIRM, FINAL, SEARCH

STREAMS = (SEARCH, BASELINE, CONFIRM, FINAL)


@given(st.integers(0, 2**40), st.text(max_size=8), st.integers(0, 50))
def test_streams_never_share_seeds(seed: int, digest: str, number: int) -> None:
    made = [seeds_of(seed, stream, digest, number) for stream in STREAMS]
    assert len(set(made)) == len(STREAMS)
    assert made == [seeds_of(seed, stream, digest, number) for stream in STREAMS]
    for seeds in made:
        assert 0 <= seeds.data < 2**31
        assert 0 <= seeds.init < 2**31
        assert seeds.data != seeds.init


def test_seeds_follow_from_study_digest_and_replicate() -> None:
    base = seeds_of(0, SEARCH, "a", 0)
    others = {
        seeds_of(1, SEARCH, "a", 0),
        seeds_of(0, SEARCH, "b", 0),
        seeds_of(0, SEARCH, "a", 1),
    }
    assert base not in others
    assert len(others) == 3


def test_a_recipe_is_the_base_with_values_at_paths() -> None:
    whole = plan()
    made = whole.recipe({"optim.lr": 1e-3, "optim.epochs": 3, "adaptation.mask": ["pos"]})
    assert (made.optim.lr, made.optim.epochs) == (1e-3, 3)
    assert made.adaptation.mask == ("pos",)
    assert made.data == whole.base.data
    with pytest.raises(FairtuneError):
        whole.recipe({"optim.epochs": 0})


def test_a_proposal_carries_its_mask_and_key() -> None:
    whole = plan(vit(3))
    recipe = whole.baseline("attn:0-1", 1e-3)
    made = whole.proposal("baseline", recipe, stream=BASELINE, replicate=2, attrs={"label": "x"})
    assert made.attrs["mask"] == "::."
    assert made.attrs["units"] == 8
    assert 0 < made.attrs["trainable_share"] < 1
    assert made.attrs["mask_hash"] == Rule.parse("attn:0-1").mask(whole.units).hash
    assert made.key == recipe.key(whole.seeds(BASELINE, recipe.identity(), 2))
    assert made.digest == recipe.identity()
    assert made.attrs["label"] == "x"


def test_keys_differ_between_streams_and_replicates() -> None:
    whole = plan()
    recipe = whole.baseline("norm:all", 1e-3)
    keys = {
        whole.proposal("x", recipe, stream=stream, replicate=i).key
        for stream in STREAMS
        for i in range(4)
    }
    assert len(keys) == 16


@pytest.mark.parametrize(
    ("lr", "points"),
    [
        ({"float": [1e-4, 1e-2], "log": True}, [1e-4 * 10 ** (1 / 3), 1e-3, 1e-2 / 10 ** (1 / 3)]),
        ({"float": [0.1, 0.7]}, [0.2, 0.4, 0.6]),
        ({"one_of": [1e-2, 1e-4]}, [1e-4, 1e-2]),
        ({"one_of": [5.0, 1.0, 4.0, 2.0, 3.0]}, [1.0, 3.0, 5.0]),
        ({"one_of": [1e-3, {"float": [0.1, 0.7]}]}, [0.2, 0.4, 0.6]),
    ],
)
def test_a_baseline_is_tried_over_the_range_that_is_searched(lr: object, points: list) -> None:
    whole = plan(
        space={"optim.lr": lr, "adaptation.mask": "auto_peft1"},
        baselines={"of": ["norm:all", "linear_readout"], "lr_points": 3},
    )
    found = whole.baseline_points("norm:all")
    assert found == pytest.approx(points)
    for point in found:
        assert whole.baseline("norm:all", point).optim.lr == pytest.approx(point)
    assert whole.baseline_points("linear_readout") == pytest.approx(
        [10 ** (-10 / 3), 1e-2, 10 ** (-2 / 3)]
    )
    readout = whole.baseline("linear_readout", 1.0)
    assert readout.solved
    assert readout.optim.l2 == 1.0


def test_a_fixed_learning_rate_is_used_as_it_is() -> None:
    from kit_plan import fields

    recipe = fields()["recipe"] | {"optim": {"lr": 2e-3}}
    whole = plan(recipe=recipe, space={"adaptation.mask": "auto_peft1"})
    assert whole.baseline_points("norm:all") == [None]
    assert whole.baseline("norm:all").optim.lr == 2e-3
