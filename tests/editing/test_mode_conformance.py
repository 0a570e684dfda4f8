"""Every way of searching an edit, also a plug-in's, keeps the promises of its kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_affine import Affine, Batch, Batches, neg_ce
from kit_dimensions import value_of

from fairtune.config.registry import declared_dimensions, written
from fairtune.editing import MODES, Mode, Optimiser
from fairtune.errors import RunError

ASKING = [name for name in MODES if MODES.parse(name).queries]  # type: ignore[attr-defined]
GENEROUS = 50


def mode(name: str, **fields: Any) -> Any:
    return MODES.parse({name: fields})


def built(name: str, size: int = 300, seed: int = 0, steps: int = 8, **fields: Any) -> Optimiser:
    generator = torch.Generator().manual_seed(seed)
    made: Optimiser = mode(name, **fields).build(torch.zeros(size), steps, generator)
    return made


def gone(optimiser: Optimiser, batches: Batches, steps: int) -> Any:
    for _ in range(steps):
        optimiser.step(batches.next())
    return optimiser


@pytest.mark.parametrize("name", list(MODES))
def test_a_member_declares_what_the_registry_asks_for(name: str) -> None:
    member: Any = MODES.parse(name)
    assert isinstance(member, Mode)
    assert member.paper
    assert member.formula
    assert MODES.parse(written(member)) == member
    point = built(name).point
    assert point.shape == (300,)
    assert point.dtype == torch.float32


@pytest.mark.parametrize("name", list(MODES))
def test_a_step_costs_exactly_the_queries_that_the_mode_names(name: str) -> None:
    optimiser, batches = built(name), Batches(Affine.drawn(300))
    for _ in range(4):
        batch = batches.next()
        optimiser.step(batch)
        assert batch.asked == mode(name).queries


@given(data=st.data())
@settings(max_examples=60)
def test_every_declared_point_is_a_mode_and_costs_what_it_says(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(MODES)))
    ranges = declared_dimensions(MODES.get(name))
    fields = {key: data.draw(value_of(dimension), key) for key, dimension in ranges.items()}
    member: Any = MODES.parse({name: fields})
    found = member.to_json()
    assert {key: found[key] for key in fields} == fields
    batch = Batches(Affine.drawn(20, rows=50)).next()
    optimiser = built(name, size=20, **fields)
    optimiser.step(batch)
    assert batch.asked == member.queries
    assert torch.isfinite(optimiser.point).all()


@pytest.mark.parametrize("name", list(MODES))
def test_the_same_generator_gives_the_same_edit(name: str) -> None:
    model = Affine.drawn(300)

    def made(seed: int) -> torch.Tensor:
        found: torch.Tensor = gone(built(name, seed=seed), Batches(model), 5).point
        return found

    assert torch.equal(made(1), made(1))
    assert name == "white" or not torch.equal(made(1), made(2))


@pytest.mark.parametrize("cut", [0, 1, 3])
@pytest.mark.parametrize("name", list(MODES))
def test_a_state_goes_on_bit_for_bit(name: str, cut: int) -> None:
    model = Affine.drawn(300)
    batches = Batches(model, weight=1e-3)
    asked = [batches.next() for _ in range(6)]
    whole, first, second = built(name), built(name), built(name, seed=9)
    for batch in asked:
        whole.step(batch)
    for batch in asked[:cut]:
        first.step(batch)
    kept = first.state()
    assert all(isinstance(value, torch.Tensor) for value in kept.values())
    gone(first, Batches(model), 1)  # what goes on does not change what was kept
    second.load_state(kept)
    for batch in asked[cut:]:
        second.step(batch)
    assert torch.equal(second.point, whole.point)
    left, right = second.state(), whole.state()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("name", list(MODES))
def test_bounds_are_kept_exactly(name: str) -> None:
    linf = 4 / 255
    batches = Batches(Affine.drawn(300), linf=linf)
    optimiser = built(name, steps=GENEROUS)
    allowed = torch.tensor(linf)  # as a pixel of float32 has it
    for _ in range(GENEROUS):
        optimiser.step(batches.next())
        assert (optimiser.point.abs() <= allowed).all()
    assert float(optimiser.point.abs().max()) > 0


@pytest.mark.parametrize("name", ["gezo", "gezo_as_published", "snes"])
def test_what_may_be_taken_is_asked_about_as_the_bounds_cut_it(name: str) -> None:
    batch = Batch(Affine.drawn(300), torch.arange(64), linf=1e-3, points=[])
    optimiser = built(name)
    optimiser.step(batch)
    assert batch.points
    assert all((point.abs() <= torch.tensor(1e-3)).all() for point in batch.points)
    if name != "snes":
        assert any(torch.equal(point, optimiser.point) for point in batch.points)


@pytest.mark.parametrize("broken", [0, 1, 3])
@pytest.mark.parametrize("name", ASKING)
def test_a_loss_that_is_not_finite_is_never_stepped_on(name: str, broken: int) -> None:
    member = mode(name)
    if broken >= member.queries or name == "white":
        broken = 0
    batch = Batch(Affine.drawn(300), torch.arange(64), broken=frozenset([broken]))
    optimiser = built(name)
    before = optimiser.point.clone()
    few = member.queries <= 2
    if few:
        with pytest.raises(RunError) as caught:
            optimiser.step(batch)
        assert caught.value.reason == "nan"
        assert torch.equal(optimiser.point, before)
    else:
        optimiser.step(batch)
        assert torch.isfinite(optimiser.point).all()
        assert batch.asked == member.queries


@pytest.mark.parametrize("name", ASKING)
def test_where_no_loss_is_finite_the_search_ends(name: str) -> None:
    batch = Batch(Affine.drawn(300), torch.arange(64), broken=frozenset(range(200)))
    optimiser = built(name)
    with pytest.raises(RunError, match="no loss near the edit is finite") as caught:
        optimiser.step(batch)
    assert caught.value.reason == "nan"
    assert torch.equal(optimiser.point, torch.zeros(300))


@pytest.mark.parametrize("name", list(MODES))
def test_an_edit_of_one_number_is_searched_too(name: str) -> None:
    # f falls with the one number, which therefore grows.
    model = Affine(torch.ones(1), torch.zeros(64), torch.ones(64))
    asked = Batch(model, torch.arange(64), lambda logit, group: -logit.mean())
    optimiser = built(name, size=1, steps=30)
    for _ in range(30):
        optimiser.step(asked)
    assert torch.isfinite(optimiser.point).all()
    assert name in ("random",) or float(optimiser.point) > 0


@pytest.mark.parametrize("name", list(MODES))
def test_a_loss_that_is_flat_moves_nothing_to_infinity(name: str) -> None:
    flat = Batch(Affine.drawn(300), torch.arange(64), lambda logit, group: logit.sum() * 0)
    optimiser = built(name)
    for _ in range(5):
        optimiser.step(flat)
    assert torch.isfinite(optimiser.point).all()


@pytest.mark.parametrize("name", ASKING)
def test_the_scale_of_the_loss_does_not_matter(name: str) -> None:
    model = Affine.drawn(300)
    rows = torch.arange(64)

    def made(scale: float) -> torch.Tensor:
        def loss(logit: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
            return neg_ce(logit.double(), group.double()) * scale

        optimiser = built(name)
        for _ in range(5):
            optimiser.step(Batch(model, rows, loss))
        return optimiser.point

    # Powers of two are exact.
    assert torch.allclose(made(1.0), made(2.0**-10), rtol=1e-5, atol=1e-9)
