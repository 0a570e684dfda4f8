"""From a study file to the runs it expects by their first trained block."""

from __future__ import annotations

import pytest
from kit_language import network_spec
from kit_plan import plan, vit

from fairtune.models.backbone import describe
from fairtune.study.expected import expected_starts


def test_fixed_runs_are_counted_as_they_are() -> None:
    # Two penalties of the readout train nothing; two rates of norm:all start at block 0.
    made = plan(vit(3), space={"optim.lr": {"float": [1e-4, 1e-2], "log": True}}, **{
        "recipe": {
            "data": {"dataset": "d", "target": "t", "attributes": ["sex", "age"]},
            "model": {"name": "m", "image_size": 32, "weights": "none"},
            "adaptation": {"mask": "block:last-1"},
            "fit": {"precision": "fp32"},
        },
        "confirm": {"top": 2, "seeds": 2},
    })  # fmt: skip
    # Search and confirm: eight trials and two times two runs of the one mask.
    assert expected_starts(made) == {0: 2.0 + 2.0, 2: 8.0 + 4.0}


def test_masks_of_a_space_are_drawn() -> None:
    made = plan(vit(4), baselines=[], confirm={"top": 0, "seeds": 1}, budget={"trials": 100})
    found = expected_starts(made)
    assert sum(found.values()) <= 100.0
    # Three switches a block: seven of eight masks train something in the first.
    assert found[0] == pytest.approx(7 / 8 * 100, rel=0.1)
    assert found[0] > found[1] > found.get(2, 0.0)
    assert expected_starts(made) == found


def test_after_the_blocks_counts_as_the_depth() -> None:
    made = plan(
        vit(3),
        baselines={"of": ["final_norm"], "lr_points": 3},
        confirm={"top": 0, "seeds": 1},
        budget={"trials": 1},
    )
    assert expected_starts(made)[3] >= 3.0


def test_a_head_that_is_trained_with_mitigations_counts_and_a_readout_does_not() -> None:
    recipe = {
        "data": {"dataset": "d", "target": "t", "attributes": ["sex", "age"]},
        "model": {"name": "m", "image_size": 32, "weights": "none"},
        "adaptation": {"mask": "none"},
        "fit": {"precision": "fp32"},
    }
    more = {
        "baselines": ["linear_readout"],
        "confirm": {"top": 0, "seeds": 1},
        "budget": {"trials": 10},
    }
    searched = {"optim.head_lr": "declared", "mitigations": {"subset_of": ["group_dro"]}}
    # The first of ten trials is plain, and solved.
    assert expected_starts(plan(vit(3), recipe=recipe, space=searched, **more)) == {3: 9.0}
    fixed = recipe | {"mitigations": ["group_dro"]}
    space = {"optim.head_lr": "declared"}
    assert expected_starts(plan(vit(3), recipe=fixed, space=space, **more)) == {3: 10.0}
    assert expected_starts(plan(vit(3), recipe=recipe, space=space, **more)) == {}


def test_what_trains_of_a_text_tower_alone_starts_behind_the_images_blocks() -> None:
    recipe = {
        "data": {"dataset": "d", "target": "t", "attributes": ["sex", "age"]},
        "model": {"name": "m", "image_size": 32, "weights": "none"},
        "fit": {"precision": "fp32"},
    }
    space = {
        "optim.lr": {"float": [1e-4, 1e-2], "log": True},
        "adaptation.mask": {"one_of": ["text", "image.attn:last-1", "logit_scale"]},
    }
    more = {"baselines": [], "confirm": {"top": 0, "seeds": 1}, "budget": {"trials": 60}}
    units = describe(network_spec(num_hidden_layers=8))
    found = expected_starts(plan(units, recipe=recipe, space=space, **more))
    assert set(found) == {5, 6}
    assert sum(found.values()) == pytest.approx(60)
    assert found[6] == pytest.approx(40, rel=0.2)
