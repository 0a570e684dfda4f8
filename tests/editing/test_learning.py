"""How an edit is learned: within its budget, within its bounds, and of whom."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_scene import Bent, dne, small, stage

from fairtune.editing import MODES, OBJECTIVES
from fairtune.editing.edit import applied
from fairtune.errors import ConfigError, DataError, ModelError


@pytest.mark.parametrize("mode", ["white", "scalar_normalised"])
@pytest.mark.parametrize("refit_every", [0, 3])
def test_every_batch_that_the_model_sees_is_counted(mode: str, refit_every: int) -> None:
    held = small(rows=40)
    rule = dne(mode=mode, queries=61, batch_size=8, refit_every=refit_every)
    made = rule.make(held.scene)
    assert made.spent == len(held.batches) <= 61
    refits = made.queries["refits"]
    each = rule.searched.queries
    assert made.queries["steps"] == each * len(made.trace)
    assert made.queries["heads"] == 5
    assert refits % 5 == 0
    assert bool(refits) == bool(refit_every)
    # No further step would have fitted.
    assert made.spent + each > 61
    assert [row["queries"] for row in made.trace][-1] == made.spent


def test_an_edit_lowers_what_it_is_learned_by() -> None:
    held = small(rows=60)
    made = dne(mode="white", queries=80, batch_size=60).make(held.scene)
    losses = [row["loss"] for row in made.trace]
    assert losses[0] > math.log(2) + 0.05
    assert losses[-1] < math.log(2) + 0.01


@pytest.mark.parametrize("mode", ["white", "scalar_normalised", "random"])
@pytest.mark.parametrize("linf", [1, 7, 8, 16, 100, 255])
def test_linf_is_honoured_exactly(mode: str, linf: int) -> None:
    fields = {"rms": 200.0} if mode == "random" else {"lr": 0.5}
    rule = dne(mode={mode: fields}, linf=linf, queries=24, batch_size=8)
    made = rule.make(small().scene)
    largest = made.edit.value.abs().max()
    assert made.edit.norms()["linf"] <= linf
    # At the bound, and not a level below it.
    assert float(largest) * 255 == pytest.approx(linf, rel=1e-6)


@given(
    linf=st.integers(0, 255),
    clamp=st.booleans(),
    seed=st.integers(0, 99),
    cells=st.sampled_from([0, 1, 2, 5, 6]),
)
@settings(max_examples=25)
def test_an_edited_image_is_within_its_bounds(
    linf: int, clamp: bool, seed: int, cells: int
) -> None:
    rule = dne(
        mode={"random": {"rms": 90.0}}, linf=linf, clamp=clamp, seed=seed, noise_resolution=cells
    )
    made = rule.make(small().scene)
    image = torch.rand(4, 1, 6, 6)
    edited = made.edit.on("cpu")(image)
    if clamp:
        assert float(edited.min()) >= 0
        assert float(edited.max()) <= 1
    if linf:
        assert float((edited - image).abs().max()) <= linf / 255 + 1e-7
    torch.testing.assert_close(edited, applied(image, made.edit.full, clamp), rtol=0, atol=0)


def test_a_grid_is_searched_in_its_cells() -> None:
    made = dne(mode="white", noise_resolution=3, queries=10, channels=3).make(
        small(channels=3).scene
    )
    assert made.edit.value.shape == (3, 3, 3)
    full = made.edit.full
    assert full.shape == (3, 6, 6)
    torch.testing.assert_close(full[:, 0::2, 0::2], full[:, 1::2, 1::2])


def test_the_same_rule_learns_the_same_edit() -> None:
    rule = dne(mode="scalar_normalised", queries=64, refit_every=2, batch_size=16, refit_rows=20)
    made, again = rule.make(small().scene), rule.make(small().scene)
    assert made.edit.sha == again.edit.sha
    assert made.trace == again.trace
    other = rule.model_copy(update={"seed": 1})
    assert other.make(small().scene).edit.sha != made.edit.sha


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("objective", list(OBJECTIVES))
@pytest.mark.parametrize("mode", ["white", "gezo"])
def test_every_objective_is_learned_for_every_kind_of_label(
    mode: str, objective: str, task: Any
) -> None:
    draw = np.random.default_rng(0)
    labels = {
        "binary": (draw.integers(0, 2, 40), 1),
        "multiclass": (draw.integers(0, 3, 40), 3),
        "multilabel": (draw.integers(0, 2, (40, 2)), 2),
    }
    label, outputs = labels[task]
    held = small(names=("a", "b", "c"), unknown=5, label=label, task=task, outputs=outputs)
    rule = dne(
        mode=mode,
        objective=objective,
        utility_weight=0.5,
        queries=60,
        batch_size=8,
        refit_every=3,
        refit_rows=12,
    )
    made = rule.make(held.scene)
    assert made.spent == len(held.batches)
    assert float(made.edit.value.abs().max()) > 0
    assert made.edit.about["groups"] == ["a", "b", "c"]
    assert made.queries["refits"] > 0
    assert all(math.isfinite(row["loss"]) for row in made.trace)


def test_no_query_is_spent_on_heads_that_nothing_reads() -> None:
    held = small()
    made = dne(objective="mean_match", refit_every=2, queries=11, batch_size=8).make(held.scene)
    assert made.queries == {"heads": 0, "steps": 11, "refits": 0}
    assert len(held.batches) == 11


def test_random_noise_asks_nothing() -> None:
    held = small()
    made = dne(mode={"random": {"rms": 8.0}}, init_std=1.0).make(held.scene)
    assert held.batches == []
    assert held.told == []
    assert made.spent == 0
    assert made.trace == ()
    assert made.edit.norms()["rms"] == pytest.approx(8.0)


def test_what_is_told_are_queries_of_the_budget() -> None:
    held = small()
    made = dne(queries=30, batch_size=8, refit_every=5).make(held.scene)
    steps = [(spent, budget) for what, spent, budget in held.told if "learning" in what]
    assert [spent for spent, _ in steps] == [0, *(row["queries"] for row in made.trace[:-1])]
    assert {budget for _, _, budget in held.told} == {30}
    assert any("anew" in what for what, *_ in held.told)


def test_the_edit_says_what_it_is() -> None:
    rule = dne(mode="scalar_normalised", objective="entropy", queries=40, batch_size=8)
    made = rule.make(small(first_row=77_000).scene)
    about = json.loads(json.dumps(made.edit.about))
    assert about["rule"] == {"dne": rule.canonical()}
    assert about["model"] == "small"
    assert (about["attribute"], about["groups"]) == ("sex", ["F", "M"])
    assert (about["objective"], about["mode"]) == ("entropy", "scalar_normalised")
    assert about["image_size"] == 6
    assert about["norms"] == made.edit.norms()
    assert about["queries"] == made.queries
    assert set(about["versions"]) == {"fairtune", "torch"}
    assert "770" not in json.dumps(about)


def test_groups_without_a_row_are_left_out() -> None:
    group = np.array([0, 2] * 20)
    held = small(groups={"sex": (group, ("F", "other", "M"))})
    made = dne(queries=30, batch_size=8).make(held.scene)
    assert made.edit.about["groups"] == ["F", "M"]
    # Three groups would put the even distribution out of reach, and its loss above log 3.
    assert made.trace[-1]["loss"] < math.log(3)


def test_rows_of_an_unknown_group_tell_nothing_of_the_attribute() -> None:
    whole = small(rows=60, unknown=20)
    assert isinstance(whole.scene.label, np.ndarray)
    made = dne(queries=20, batch_size=8).make(whole.scene)
    image = whole.scene.image(np.arange(60))
    code, names = whole.scene.group("sex")
    known = stage(
        image[20:], Bent(1, 6), whole.scene.label[20:], {"sex": (code[20:], names)}, first_row=20
    )
    alone = dne(queries=20, batch_size=8).make(known.scene)
    assert made.edit.sha == alone.edit.sha
    assert made.queries["heads"] == 5
    assert any("20 training rows are of an unknown group" in note for note in made.notes)
    assert alone.notes == ()


def test_rows_of_an_unknown_group_count_for_the_task() -> None:
    held = small(rows=60, unknown=20)
    made = dne(queries=20, batch_size=8, utility_weight=1.0).make(held.scene)
    assert made.queries["heads"] == 8
    # A batch in which nobody's group is known asks for the task alone.
    strangers = small(rows=60, unknown=50)
    assert dne(queries=20, batch_size=1, utility_weight=1.0).make(strangers.scene).trace


@pytest.mark.parametrize(
    ("names", "unknown"), [(("F",), 0), (("F", "M"), 40)], ids=["one value", "none known"]
)
@pytest.mark.parametrize("mode", ["white", "random"])
def test_one_value_of_the_attribute_is_refused_by_its_name(
    names: tuple[str, ...], unknown: int, mode: str
) -> None:
    held = small(names=names, unknown=unknown)
    with pytest.raises(DataError, match="attribute 'sex'"):
        dne(mode=mode).make(held.scene)
    assert held.batches == []


def test_a_mode_that_needs_a_gradient_is_refused_for_a_black_box() -> None:
    held = small(differentiable=False)
    with pytest.raises(ModelError, match="no gradient") as fault:
        dne(mode="white").make(held.scene)
    (named,) = [mode for mode in MODES if mode in str(fault.value.todo)]
    rule = dne(mode=named, queries=40, batch_size=8)
    assert 0 < rule.make(held.scene).spent <= 40


def test_a_grid_finer_than_the_image_is_refused() -> None:
    with pytest.raises(ModelError, match="finer than the image"):
        dne(noise_resolution=7).make(small().scene)


def test_channels_that_images_do_not_have_are_refused() -> None:
    with pytest.raises(ModelError, match="channels"):
        dne(channels=3).make(small().scene)


def test_an_edit_without_an_attribute_is_refused() -> None:
    with pytest.raises(ConfigError, match="attribute"):
        dne(attribute=None).make(small().scene)


def test_a_budget_that_allows_no_step_is_said() -> None:
    held = small()
    made = dne(mode="scalar_normalised", queries=7, init_std=0.0).make(held.scene)
    assert held.batches == []
    assert made.edit.norms()["linf"] == 0
    assert any("no step fits 7 queries" in note for note in made.notes)


def test_refits_that_never_fit_are_said() -> None:
    made = dne(refit_every=5, queries=9, batch_size=4).make(small().scene)
    assert made.queries["steps"] == 9
    assert any("no refit (10 queries) fits" in note for note in made.notes)
