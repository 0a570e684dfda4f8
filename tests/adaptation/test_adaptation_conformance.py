"""Every method, those of plug-ins too, keeps the promises of its kind."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import session, tiny_recipe
from kit_dimensions import value_of
from kit_nets import with_fields

from fairtune.adaptation.methods import METHODS, Method
from fairtune.config.registry import declared_dimensions, written
from fairtune.errors import ModelError
from fairtune.training.lane import Lane
from fairtune.training.net import load_methods_state, methods_state
from fairtune.training.observer import Quiet
from fairtune.training.recipe import Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job, train_one


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


def lane(
    held: Session, method: Any, rule: str, seeds: Seeds | None = None, **changes: Any
) -> Lane:
    plain = {"optim__weight_decay": 0.0, "optim__batch_size": 8, **changes}
    recipe = held.resolve(tiny_recipe(adaptation={"mask": rule, "method": method}, **plain))
    return Lane(recipe, seeds or Seeds(), held.ground(recipe))


def steps_move_what_trains_and_nothing_else(one: Lane) -> None:
    trained = {id(p) for p in one.trained.values()}
    # Copies: what is shared with the session would change together with its record.
    before = {name: value.clone() for name, value in one.net.state_dict().items()}
    owned = {name for name, p in one.net.named_parameters() if id(p) in trained}
    assert len(owned) == len(one.trained)
    moved: set[str] = set()
    batches = itertools.cycle(one.loader.epoch())
    # The first step of a method that starts as pretrained has zeros for gradients.
    for _ in range(2):
        assert torch.isfinite(one.step(next(batches)))
        for name, parameter in one.trained.items():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            if parameter.grad.abs().max() > 0:
                moved.add(name)
    assert moved == set(one.trained)
    changed = {n for n, v in one.net.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == owned


@pytest.mark.parametrize("rule", ["fullft", "attn:last-1", "norm:0+3,final_norm", "singles"])
def test_a_step_moves_what_trains_and_nothing_else(rule: str, held: Session) -> None:
    steps_move_what_trains_and_nothing_else(lane(held, "direct", rule))


@pytest.mark.parametrize("method", [m for m in METHODS if m != "direct"])
def test_steps_of_a_method_move_what_it_added_and_nothing_else(method: str, held: Session) -> None:
    one = lane(held, with_fields(method), "block:0+5")
    steps_move_what_trains_and_nothing_else(one)
    assert isinstance(METHODS.parse(method), Method)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_batch_of_one_image_is_enough(method: str, held: Session) -> None:
    one = lane(held, with_fields(method), "block:last-1", optim__batch_size=1)
    assert torch.isfinite(one.step(next(iter(one.loader.epoch()))))


def after_two_steps(held: Session, method: str, seed: int) -> dict[str, torch.Tensor]:
    one = lane(held, with_fields(method), "block:last-1", seeds=Seeds(data=seed, init=seed))
    batches = iter(one.loader.epoch())
    for _ in range(2):
        one.step(next(batches))
    return one.weights()


@pytest.mark.parametrize("method", list(METHODS))
def test_the_same_seed_gives_the_same_weights(method: str, held: Session) -> None:
    one, same, other = (after_two_steps(held, method, seed) for seed in (1, 1, 2))
    assert one.keys() == same.keys()
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("method", list(METHODS))
def test_half_precision_leaves_what_trains_in_single(method: str, held: Session) -> None:
    one = lane(held, with_fields(method), "block:last-1", fit__precision="bf16")
    assert torch.isfinite(one.step(next(iter(one.loader.epoch()))))
    assert {p.dtype for p in one.trained.values()} == {torch.float32}


@pytest.mark.parametrize("method", ["adalora", "lora"])
def test_a_checkpoint_in_the_middle_goes_on_as_if_nothing_had_been(
    method: str, held: Session
) -> None:
    def steps(one: Lane, batches: Any) -> None:
        for batch in batches:
            one.step(batch)

    whole, first, second = (lane(held, with_fields(method), "attn:last-1") for _ in range(3))
    batches = [batch for batch, _ in zip(whole.loader.epoch(), range(6))]
    steps(whole, batches)
    steps(first, batches[:3])
    with torch.no_grad():
        for name, parameter in second.trained.items():
            parameter.copy_(first.weights()[name])
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.schedule.load_state_dict(first.schedule.state_dict())
    second.taken = first.taken
    load_methods_state(second.net, copy.deepcopy(methods_state(first.net)))
    steps(second, batches[3:])
    assert all(torch.equal(whole.weights()[n], second.weights()[n]) for n in whole.trained)


@pytest.mark.parametrize("method", ["direct", "lora", "vpt"])
def test_costs_count_what_trains(method: str, held: Session) -> None:
    recipe = held.resolve(
        tiny_recipe(
            adaptation={"mask": "block:last-1", "method": with_fields(method)}, optim__epochs=1
        )
    )
    made = train_one(Job(recipe, Seeds()), held, Quiet())
    trained = sum(v.numel() for n, v in made.weights.items() if not n.startswith("head."))
    assert made.costs["trainable"] == trained
    assert made.costs["trainable_share"] == trained / held.ground(recipe).units.total


@pytest.mark.parametrize("method", list(METHODS))
def test_a_method_survives_writing_and_reading(method: str) -> None:
    member = METHODS.parse(method)
    assert METHODS.parse(written(member)) == member


@given(data=st.data())
@settings(max_examples=40)
def test_every_declared_point_of_a_method_is_one(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(METHODS)))
    ranges = declared_dimensions(METHODS.get(name))
    fields = {key: data.draw(value_of(dimension), key) for key, dimension in ranges.items()}
    assert METHODS.parse({name: fields}).to_json() == fields


def test_layers_of_several_methods_are_trained_together(held: Session) -> None:
    method = {
        "attn": {"lora": {"rank": 2}},
        "norm": "direct",
        "mlp": {"adaptformer": {"width": 4}},
    }
    one = lane(held, method, "block:0+5")
    names = set(one.trained)
    assert {"blocks.0.norm1.weight", "blocks.5.attn.proj.lora_B.weight"} <= names
    assert "blocks.5.mlp.adaptformer.up.weight" in names
    steps_move_what_trains_and_nothing_else(one)


def test_scaling_vectors_are_never_decayed(held: Session) -> None:
    method = {"attn": "ia3", "mlp": {"lora": {"rank": 2}}}
    one = lane(held, method, "block:5", optim__weight_decay=0.1)
    decayed = {
        id(p) for g in one.optimizer.param_groups if g["weight_decay"] > 0 for p in g["params"]
    }
    found = {name for name, p in one.trained.items() if id(p) in decayed}
    assert found == {
        "head.weight",
        *(f"blocks.5.mlp.fc{i}.lora_{x}.weight" for i in (1, 2) for x in "AB"),
    }


def test_a_layer_that_the_network_never_calls_is_said_at_the_first_step(held: Session) -> None:
    one = lane(held, {"lora": {"rank": 2}}, "attn:5")
    attention = one.net.backbone.net.blocks[5].attn
    proj = attention.proj.base_layer
    attention.proj.forward = lambda x: torch.nn.functional.linear(x, proj.weight, proj.bias)
    with pytest.raises(ModelError, match="the network bypasses these layers") as caught:
        one.step(next(iter(one.loader.epoch())))
    assert "blocks.5.attn.proj.lora_A.weight" in str(caught.value.found)
