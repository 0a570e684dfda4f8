"""Every usage, also a plug-in's, keeps the promises of its kind, on a tiny model of two towers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from kit import tiny_recipe
from kit_pairs import Pairs, shared

from fairtune.config.registry import written
from fairtune.data.batch import Batch
from fairtune.errors import ConfigError
from fairtune.models.net import Net
from fairtune.training.lane import Lane
from fairtune.training.net import build_net
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.train import Job, train_one
from fairtune.usage import USAGES, Question, Usage
from fairtune.usage.losses import sample_loss

TASKS = {"abnormal": 1, "kind": 3, "signs": 2}
"""Columns of the score by target."""

BOTH = "image.block:last-1,text.block:last-1"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return shared(tmp_path_factory.getbasetemp())


def usage(name: Any) -> Usage:
    member = USAGES.parse(name)
    assert isinstance(member, Usage)
    return member


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def recipe_of(pairs: Pairs, name: Any, target: str = "abnormal", **changes: Any) -> Recipe:
    """Return a recipe that trains as much as the usage can."""
    one = usage(name)
    mask = BOTH if one.fits in ("mask", "all") else "none"
    if one.fits == "all" and not one.reads_text:
        mask = "image.block:last-1"
    return pairs.recipe(target=target, usage=name, adaptation={"mask": mask}, **changes)


def served(pairs: Pairs, recipe: Recipe, size: int) -> tuple[Net, Batch]:
    """Return the net of a recipe and a batch of training rows as its steps get it."""
    ground = pairs.session.ground(recipe)
    net, _ = build_net(recipe, Seeds(), ground)
    texts = recipe.usage.reads_text
    text = ground.texts.server(recipe, net.backbone.text_trains) if texts else None
    rows = ground.pack.rows("train")[:size]
    return net, next(iter(ground.loader(rows, size, edit=None, text=text).epoch(shuffle=False)))


def lane_of(pairs: Pairs, recipe: Recipe, seed: int = 0) -> Lane:
    return Lane(recipe, Seeds(data=seed, init=seed), pairs.session.ground(recipe))


def trained(name: str) -> bool:
    return usage(name).fits in ("all", "mask")


TRAINED = [name for name in USAGES if trained(name)]


def test_the_binary_loss_by_hand() -> None:
    score, label = torch.tensor([[2.0], [-1.0]]), torch.tensor([1, 0])
    expected = [np.log1p(np.exp(-2.0)), np.log1p(np.exp(-1.0))]
    assert sample_loss(score, label, "binary").tolist() == pytest.approx(expected)


def test_the_multiclass_loss_by_hand() -> None:
    score = torch.tensor([[1.0, 2.0, 0.5]])
    expected = np.log(np.exp([1.0, 2.0, 0.5]).sum()) - 2.0
    found = sample_loss(score, torch.tensor([1]), "multiclass")
    assert found.tolist() == pytest.approx([expected])


def test_the_multilabel_loss_is_the_mean_over_targets() -> None:
    score = torch.tensor([[2.0, -1.0], [0.0, 3.0]])
    label = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    columns = [sample_loss(score[:, j : j + 1], label[:, j], "binary") for j in range(2)]
    found = sample_loss(score, label, "multilabel")
    assert found.tolist() == pytest.approx(torch.stack(columns).mean(dim=0).tolist())


@pytest.mark.parametrize("target", TASKS)
@pytest.mark.parametrize("name", list(USAGES))
def test_a_usage_gives_loss_score_and_embedding(name: str, target: str, pairs: Pairs) -> None:
    recipe = recipe_of(pairs, name, target)
    net, batch = served(pairs, recipe, 5)
    task = pairs.session.ground(recipe).task
    out = recipe.usage.paired(net, recipe.usage.forward(net, batch, task), batch)
    scored = recipe.usage.score(net, batch, task)
    assert out.loss.shape == scored.loss.shape == (5,)
    assert scored.score.shape == (5, TASKS[target])
    assert out.embedding.shape == scored.embedding.shape
    assert out.embedding.shape == (5, recipe.usage.dim(net.backbone))
    assert out.loss.isfinite().all()
    assert scored.loss.isfinite().all()
    assert (out.similarity is not None) == recipe.usage.pairs


@pytest.mark.parametrize("name", list(USAGES))
def test_loss_and_score_are_fp32_under_autocast(name: str, pairs: Pairs) -> None:
    recipe = recipe_of(pairs, name)
    net, batch = served(pairs, recipe, 3)
    with torch.autocast("cpu", torch.bfloat16):
        out = recipe.usage.forward(net, batch, "binary")
        scored = recipe.usage.score(net, batch, "binary")
    out = recipe.usage.paired(net, out, batch)
    for value in (out.loss, out.score, scored.loss, scored.score):
        assert value.dtype == torch.float32
    assert out.loss.isfinite().all()


@pytest.mark.parametrize("name", list(USAGES))
def test_the_head_follows_from_its_generator_alone(name: str, pairs: Pairs) -> None:
    recipe = recipe_of(pairs, name, "kind")
    ground = pairs.session.ground(recipe)
    question: Question = ground.question(recipe)

    def head(seed: int) -> dict[str, torch.Tensor]:
        return recipe.usage.build(ground.backbone, question, source(seed)).head.state_dict()

    one = head(1)
    torch.rand(5)
    same, other = head(1), head(2)
    assert one.keys() == same.keys() == other.keys()
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    if name == "classify":
        assert not torch.equal(one["weight"], other["weight"])


@pytest.mark.parametrize("name", TRAINED)
def test_the_gradient_reaches_all_that_trains_and_nothing_else(name: str, pairs: Pairs) -> None:
    one = lane_of(pairs, recipe_of(pairs, name, optim__weight_decay=0.0))
    before = {key: value.clone() for key, value in one.net.state_dict().items()}
    loss = one.step(next(iter(one.loader.epoch())))
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in one.trained.values())
    moved = {key for key, value in one.net.state_dict().items() if not value.equal(before[key])}
    assert {key.removeprefix("backbone.net.") for key in moved} == set(one.trained)


@pytest.mark.parametrize("code", [-1, 0])
@pytest.mark.parametrize("name", TRAINED)
def test_groups_do_not_matter_to_a_usage(name: str, code: int, pairs: Pairs) -> None:
    recipe = recipe_of(pairs, name)
    losses = []
    for change in (False, True):
        one = lane_of(pairs, recipe)
        batch = next(iter(one.loader.epoch()))
        if change:
            batch = dataclasses.replace(batch, group=torch.full_like(batch.group, code))
        losses.append(one.step(batch))
    assert torch.equal(losses[0], losses[1])
    assert losses[0].isfinite()


@pytest.mark.parametrize("name", TRAINED)
def test_a_batch_of_one_sample_is_enough(name: str, pairs: Pairs) -> None:
    one = lane_of(pairs, recipe_of(pairs, name))
    batches = one.loader.epoch()
    assert one.step(next(batches)).isfinite()
    batch = next(batches)
    single = dataclasses.replace(
        batch,
        **{
            field.name: getattr(batch, field.name)[:1]
            for field in dataclasses.fields(batch)
            if isinstance(getattr(batch, field.name), torch.Tensor)
        },
    )
    assert one.step(single).isfinite()
    assert all(p.isfinite().all() for p in one.parameters)


@pytest.mark.parametrize("name", list(USAGES))
def test_the_same_seed_gives_the_same_run_bit_for_bit(name: str, pairs: Pairs) -> None:
    recipe = recipe_of(pairs, name, optim__epochs=1)
    made = [
        train_one(Job(recipe, Seeds(data=seed, init=seed)), pairs.session) for seed in (1, 1, 2)
    ]
    scores = [run.epochs[-1].scores for run in made]
    assert np.isfinite(scores[0]).all()
    assert np.array_equal(scores[0], scores[1])
    if usage(name).fits in ("all", "mask"):
        assert not np.array_equal(scores[0], scores[2])
    assert made[0].weights.keys() == made[1].weights.keys()
    assert all(torch.equal(v, made[1].weights[n]) for n, v in made[0].weights.items())


@pytest.mark.parametrize("name", list(USAGES))
def test_a_usage_survives_writing_and_reading(name: str) -> None:
    member = USAGES.parse(name)
    assert USAGES.parse(written(member)) == member


def test_what_was_stored_before_there_were_texts_keeps_its_identity() -> None:
    assert tiny_recipe().canonical()["usage"] == {"classify": {}}
    both = tiny_recipe(usage={"classify": {"features": "both"}})
    assert both.canonical()["usage"] == {"classify": {"features": "both"}}


@pytest.mark.parametrize("name", USAGES.later)
def test_usages_of_later_versions_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is not available in this version"):
        USAGES.parse(name)


def test_the_head_of_a_classifier_starts_small(pairs: Pairs) -> None:
    recipe = recipe_of(pairs, "classify")
    ground = pairs.session.ground(recipe)
    built = recipe.usage.build(ground.backbone, Question("binary", 1), source())
    head: Any = built.head
    assert head.bias.tolist() == [0.0]
    assert 0.01 < head.weight.std() < 0.03
