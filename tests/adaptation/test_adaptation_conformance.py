"""Every method and every mask space, those of plug-ins too, keeps the promises of its kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import session, tiny_recipe

from fairtune.adaptation import SPACES, Mask, MaskSpace
from fairtune.adaptation.methods import METHODS, Method
from fairtune.config import Choice, Dimension, Float, Int
from fairtune.config.registry import written
from fairtune.models import load
from fairtune.models.backbone import describe
from fairtune.training.lane import Lane
from fairtune.training.observer import Quiet
from fairtune.training.recipe import Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job, train_one

TINY = describe(load("test_vit"))
# Fields without a default; a new member that needs none is picked up without an edit here.
FIELDS = {"bits": {"types": ["norm", "attn", "mlp"]}}


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


def lane(held: Session, method: str, rule: str, **changes: Any) -> Lane:
    plain = {"optim__weight_decay": 0.0, "optim__batch_size": 8, **changes}
    recipe = held.resolve(tiny_recipe(adaptation={"mask": rule, "method": method}, **plain))
    return Lane(recipe, Seeds(), held.ground(recipe))


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("rule", ["fullft", "attn:last-1", "norm:0+3,final_norm", "singles"])
def test_a_step_moves_what_trains_and_nothing_else(method: str, rule: str, held: Session) -> None:
    one = lane(held, method, rule)
    assert isinstance(one.recipe.adaptation.method, Method)
    trained = {id(p) for p in one.trained.values()}
    # Copies: what is shared with the session would change together with its record.
    before = {name: value.clone() for name, value in one.net.state_dict().items()}
    owned = {name for name, p in one.net.named_parameters() if id(p) in trained}
    assert len(owned) == len(one.trained)
    loss = one.step(next(iter(one.loader.epoch())))
    assert torch.isfinite(loss)
    for name, parameter in one.trained.items():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    changed = {n for n, v in one.net.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == owned


@pytest.mark.parametrize("method", list(METHODS))
def test_a_batch_of_one_image_is_enough(method: str, held: Session) -> None:
    one = lane(held, method, "block:last-1", optim__batch_size=1)
    assert torch.isfinite(one.step(next(iter(one.loader.epoch()))))


@pytest.mark.parametrize("method", list(METHODS))
def test_the_same_seed_gives_the_same_weights(method: str, held: Session) -> None:
    recipe = held.resolve(
        tiny_recipe(adaptation={"mask": "attn:last-2", "method": method}, optim__epochs=1)
    )
    one, same, other = (
        train_one(Job(recipe, seeds), held, Quiet())
        for seeds in (Seeds(data=1, init=2), Seeds(data=1, init=2), Seeds(data=3, init=4))
    )
    assert one.weights.keys() == same.weights.keys()
    assert all(torch.equal(one.weights[n], same.weights[n]) for n in one.weights)
    assert not all(torch.equal(one.weights[n], other.weights[n]) for n in one.weights)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_method_survives_writing_and_reading(method: str) -> None:
    member = METHODS.parse(method)
    assert METHODS.parse(written(member)) == member


def space(name: str) -> MaskSpace:
    member = SPACES.parse({name: FIELDS.get(name, {})})
    assert isinstance(member, MaskSpace)
    return member


def value(dimension: Dimension) -> st.SearchStrategy[Any]:
    if isinstance(dimension, Choice):
        return st.sampled_from(dimension.options)
    if isinstance(dimension, Int):
        return st.integers(dimension.low, dimension.high)
    assert isinstance(dimension, Float)
    return st.floats(dimension.low, dimension.high)


@pytest.mark.parametrize("name", list(SPACES))
@given(data=st.data())
@settings(max_examples=30)
def test_every_point_of_a_space_is_a_mask_that_it_can_say(name: str, data: st.DataObject) -> None:
    asked = space(name)
    dimensions = asked.dimensions(TINY)
    point = {key: data.draw(value(dimension), key) for key, dimension in dimensions.items()}
    mask = asked.decode(point, TINY)
    assert mask == Mask.of(mask.units, TINY)
    again = asked.encode(mask, TINY)
    assert again is not None
    assert again.keys() == dimensions.keys()
    assert all(dimensions[key].contains(found) for key, found in again.items())
    assert asked.decode(again, TINY) == mask


@pytest.mark.parametrize("name", list(SPACES))
def test_a_space_survives_writing_and_reading(name: str) -> None:
    member = SPACES.parse({name: FIELDS.get(name, {})})
    assert SPACES.parse(written(member)) == member


@pytest.mark.parametrize("name", METHODS.later)
def test_methods_of_later_versions_are_refused_by_name(name: str) -> None:
    with pytest.raises(Exception, match=f"'{name}' is not available in this version"):
        tiny_recipe(adaptation={"mask": "attn:all", "method": name})
