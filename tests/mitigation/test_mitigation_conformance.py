"""Every mitigation that acts on training, also a plug-in's, keeps the promises of its kind."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import session
from kit_dimensions import value_of
from kit_mitigation import TRAINING, lane_with, recipe_with, steps

from fairtune.config.registry import declared_dimensions, written
from fairtune.data.batch import Batch
from fairtune.mitigation import MITIGATIONS, SLOTS, Mitigation
from fairtune.training.recipe import Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job, train_one


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


def with_group(batch: Batch, code: int) -> Batch:
    return dataclasses.replace(batch, group=torch.full_like(batch.group, code))


@pytest.mark.parametrize("name", list(MITIGATIONS))
def test_a_member_declares_what_the_registry_asks_for(name: str) -> None:
    member: Any = MITIGATIONS.parse(name)
    assert set(member.slots) <= set(SLOTS)
    assert member.paper
    assert member.formula
    assert set(member.idle) <= set(type(member).model_fields)
    assert set(member.clashes) <= set(MITIGATIONS)
    if member.trains:
        assert isinstance(member, Mitigation)


@pytest.mark.parametrize("name", TRAINING)
def test_a_step_is_finite_and_its_gradient_reaches_all_that_trains(
    name: str, held: Session
) -> None:
    one = lane_with(held, name, optim__weight_decay=0.0)
    frozen = {
        key: value.clone()
        for key, value in one.net.state_dict().items()
        if not any(key.endswith(trained) for trained in one.trained)
    }
    before = [p.detach().clone() for p in one.parameters]
    for loss in steps(one, 3):
        assert torch.isfinite(loss)
    for parameter, old in zip(one.parameters, before):
        assert torch.isfinite(parameter).all()
        assert not torch.equal(parameter, old)
    after = one.net.state_dict()
    assert all(torch.equal(after[key], value) for key, value in frozen.items())


@pytest.mark.parametrize("code", [-1, 0])
@pytest.mark.parametrize("name", TRAINING)
def test_a_batch_of_one_group_or_of_none_is_trained_on(
    name: str, code: int, held: Session
) -> None:
    one = lane_with(held, name)
    batch = with_group(next(iter(one.loader.epoch())), code)
    for _ in range(2):
        assert torch.isfinite(one.step(batch))
    assert all(torch.isfinite(p).all() for p in one.parameters)


@pytest.mark.parametrize("name", TRAINING)
def test_a_batch_of_one_sample_is_enough(name: str, held: Session) -> None:
    one = lane_with(held, name, optim__batch_size=1)
    for loss in steps(one, 2):
        assert torch.isfinite(loss)
    assert all(torch.isfinite(p).all() for p in one.parameters)


@pytest.mark.parametrize("name", TRAINING)
def test_the_same_seed_gives_the_same_weights(name: str, held: Session) -> None:
    def made(seed: int) -> dict[str, torch.Tensor]:
        one = lane_with(held, name, seeds=Seeds(data=seed, init=seed))
        steps(one, 3)
        return one.weights()

    one, same, other = made(1), made(1), made(2)
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("name", TRAINING)
def test_half_precision_and_accumulation_go_together_with_it(name: str, held: Session) -> None:
    one = lane_with(held, name, fit__precision="bf16", optim__accumulate=2)
    batches = iter(one.loader.epoch(order=one._order()))
    assert torch.isfinite(one.step(next(batches), next(batches)))
    assert {p.dtype for p in one.parameters} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in one.parameters)


@pytest.mark.parametrize("name", TRAINING)
def test_a_state_in_the_middle_goes_on_as_if_nothing_had_been(name: str, held: Session) -> None:
    def passes(one: Any, count: int) -> None:
        for _ in range(count):
            one.epoch()
            one.validate(one.ground.val_rows(one.recipe))

    changes: dict[str, Any] = {"optim__epochs": 4}
    whole = lane_with(held, name, **changes)
    passes(whole, 4)
    first = lane_with(held, name, **changes)
    passes(first, 2)
    kept = copy.deepcopy(first.state_dict())
    passes(first, 1)  # what goes on does not change what was kept
    second = lane_with(held, name, **changes)
    second.load_state_dict(kept)
    passes(second, 2)
    assert whole.weights().keys() == second.weights().keys()
    assert all(torch.equal(whole.weights()[n], second.weights()[n]) for n in whole.trained)


@pytest.mark.parametrize("name", TRAINING)
def test_a_run_ends_with_scores_and_says_what_its_terms_weighed(name: str, held: Session) -> None:
    recipe = recipe_with(held, name)
    made = train_one(Job(recipe, Seeds()), held)
    assert len(made.epochs) == recipe.optim.epochs
    said = made.mitigations.get(name, {})
    one = lane_with(held, name)
    if one.mitigating.hooks[name].loss is not None:
        assert {"start", "end"} <= set(said)
        assert all(said["end"][key] is not None for key in ("loss", "gradient"))


@pytest.mark.parametrize("name", list(MITIGATIONS))
def test_a_mitigation_survives_writing_and_reading(name: str) -> None:
    member = MITIGATIONS.parse(name)
    assert MITIGATIONS.parse(written(member)) == member


@given(data=st.data())
@settings(max_examples=40)
def test_every_declared_point_of_a_mitigation_is_one(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(MITIGATIONS)))
    ranges = declared_dimensions(MITIGATIONS.get(name))
    fields = {key: data.draw(value_of(dimension), key) for key, dimension in ranges.items()}
    made = MITIGATIONS.parse({name: fields}).to_json()
    assert {key: made[key] for key in fields} == fields
