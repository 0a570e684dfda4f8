"""Runs on pairs of images and texts: what is kept, and that it changes no number."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit_pairs import Pairs, shared
from kit_stepwise import SEEDS, Watching, equal
from torch import nn

from fairtune.config import parse
from fairtune.training import cuts as reckoning
from fairtune.training.checkpoint import Checkpoints
from fairtune.training.lane import Lane
from fairtune.training.recipe import Recipe
from fairtune.training.session import Session
from fairtune.training.train import Job, RunResult, train, train_one

IMAGE, TEXT = {"mask": "image.block:last-1"}, {"mask": "text.block:last-1"}
NEVER = 1e-9
"""Share of the time that lets nothing be written but where a run is told to stop."""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return shared(tmp_path_factory.getbasetemp())


def counted(held: Session, recipe: Any) -> Counter[str]:
    """Return the counts of texts and images that go through the model's towers from now on."""
    found: Counter[str] = Counter()
    net: Any = held.ground(recipe).backbone.net

    # Functions, and not methods: a run copies its modules, and with them what is hooked to them.
    def text(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        found["texts"] += len(kwargs["input_ids"])

    def image(module: nn.Module, args: Any, out: Any) -> None:
        found["images"] += len(args[0])

    net.text.register_forward_hook(text, with_kwargs=True)
    net.image.blocks[0].register_forward_hook(image)
    return found


def test_texts_are_embedded_once_where_their_tower_is_frozen(pairs: Pairs, tmp_path: Path) -> None:
    recipe = pairs.recipe(adaptation=IMAGE)
    prompts = pairs.session.ground(recipe).question(recipe).prompts
    assert prompts is not None
    sentences = len(prompts)
    changes: dict[str, Any] = {"cache": tmp_path}
    first = pairs.another(**changes)
    found = counted(first, recipe)
    whole = train_one(Job(recipe, SEEDS), first)
    rows = len(first.ground(recipe).fit_rows(recipe)) + len(first.ground(recipe).val_rows(recipe))
    # Sentences once for every pass over the validation rows.
    assert found["texts"] == rows + sentences * recipe.optim.epochs
    train_one(Job(pairs.recipe(adaptation={"mask": "image.attn:last-1"}), SEEDS), first)
    assert found["texts"] == rows + 2 * sentences * recipe.optim.epochs
    again = pairs.another(**changes)
    found = counted(again, recipe)
    equal(train_one(Job(recipe, SEEDS), again), whole)
    assert found["texts"] == sentences * recipe.optim.epochs
    # A file that is damaged is made again.
    (kept,) = (tmp_path / "text").glob("*/embeddings.npy")
    kept.write_bytes(b"nothing")
    equal(train_one(Job(recipe, SEEDS), pairs.another(**changes)), whole)


def test_nothing_is_kept_where_nothing_is_to_be(pairs: Pairs, tmp_path: Path) -> None:
    recipe = pairs.recipe(adaptation=IMAGE)
    plain = pairs.another(cache=tmp_path)
    plain.reuse = False
    equal(train_one(Job(recipe, SEEDS), plain), train_one(Job(recipe, SEEDS), pairs.session))
    assert not (tmp_path / "text").exists()


def test_where_texts_train_they_are_read_as_tokens(pairs: Pairs) -> None:
    recipe = pairs.recipe(adaptation=TEXT)
    one = Lane(recipe, SEEDS, pairs.session.ground(recipe))
    batch = next(iter(one.loader.epoch()))
    assert batch.text is not None
    assert not batch.text.is_floating_point()
    frozen = pairs.recipe(adaptation=IMAGE)
    other = Lane(frozen, SEEDS, pairs.session.ground(frozen))
    batch = next(iter(other.loader.epoch()))
    assert batch.text is not None
    assert batch.text.shape == (16, 24)
    assert batch.text.is_floating_point()


@pytest.mark.parametrize("mask", ["text.block:last-1", "logit_scale", "image.norm:last-1"])
def test_what_frozen_blocks_of_images_compute_is_kept(
    mask: str, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tiny network saves milliseconds, which is worth no file: here it is made all the same.
    for name, value in (("LEAST_SECONDS", -1e9), ("WRITE", 1e15), ("READ", 1e15)):
        monkeypatch.setattr(reckoning, name, value)
    recipe = pairs.recipe(adaptation={"mask": mask}, optim__batch_size=21)
    plain = pairs.another(cache=tmp_path / "plain")
    plain.reuse = False
    computed = counted(plain, recipe)
    whole = train_one(Job(recipe, SEEDS), plain)
    held = pairs.another(cache=tmp_path / "kept")
    equal(train_one(Job(recipe, SEEDS), held), whole)
    kept = counted(held, recipe)
    equal(train_one(Job(recipe, SEEDS), held), whole)
    assert kept["images"] < computed["images"]
    assert list((tmp_path / "kept" / "prefixes").iterdir())


RECIPES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "image": ([], {"adaptation": IMAGE}),
    "text": ([], {"adaptation": TEXT}),
    "both": ([], {}),
    "lora": (
        [],
        {"adaptation": {"mask": "text.attn:all", "method": {"lora": {"dropout": 0.2}}}},
    ),
    "averaged, accumulated": ([], {"optim__ema": 0.9, "optim__accumulate": 2}),
    "drawn anew": ([], {"fit__augment": "medical"}),
    "copies": ([], {"fit__augment": "light", "fit__copies": 2, "adaptation": IMAGE}),
    "followed": ([{"swad": {"converge": 1}}, "sam"], {}),
    "mined": (
        [
            {"bad_pairs": {"low": 1.0, "high": 1.0}},
            {"sinkhorn": {"score": "similarity", "queue": 16, "given": "none"}},
            {"laftr": {"attribute": "age"}},
            "group_dro",
        ],
        {"optim__epochs": 3},
    ),
    "twice": ([{"jtt": {"epochs": 1}}, {"resample": {"by": "both"}}], {}),
    "sigmoid": ([], {"usage": {"contrastive": {"loss_by": "sigmoid", "same": "negative"}}}),
    "classify both": (
        [],
        {
            "usage": {"classify": {"features": "both"}},
            "adaptation": {"mask": "image.block:last-1,text.block:last-1"},
        },
    ),
}


def recipe_of(pairs: Pairs, name: str) -> Any:
    members, changes = RECIPES[name]
    return pairs.recipe(*members, **changes)


def made(pairs: Pairs, recipe: Any, folder: Path | None, observer: Any) -> RunResult:
    kept = None if folder is None else Checkpoints(folder, "ab12", "last", share=NEVER)
    return train_one(Job(recipe, SEEDS, observer, kept), pairs.session)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_stopped_within_an_epoch_ends_as_if_it_had_not_been(
    name: str, pairs: Pairs, tmp_path: Path
) -> None:
    recipe = recipe_of(pairs, name)
    watching = Watching()
    whole = made(pairs, recipe, None, watching)
    assert watching.polls >= 4
    assert np.isfinite(whole.epochs[-1].train_loss)
    stopped = made(pairs, recipe, tmp_path, Watching(stops=watching.polls // 2))
    assert stopped.stopped == "enough"
    torch.rand(3)
    equal(made(pairs, recipe, tmp_path, Watching()), whole)


def test_runs_of_pairs_give_in_company_what_they_give_alone(pairs: Pairs) -> None:
    jobs = [Job(recipe_of(pairs, name), SEEDS) for name in ("image", "text", "mined", "lora")]
    for together, one in zip(train(jobs, pairs.session), jobs, strict=True):
        equal(together, train_one(one, pairs.session))


def test_half_precision_goes_with_it(pairs: Pairs) -> None:
    recipe = pairs.recipe({"sinkhorn": {"score": "similarity"}}, fit__precision="bf16")
    one = Lane(recipe, SEEDS, pairs.session.ground(recipe))
    assert np.isfinite(one.epoch())
    assert {p.dtype for p in one.parameters} == {torch.float32}


def test_an_edit_of_the_input_is_learned_and_trained_with(pairs: Pairs) -> None:
    edit = {"dne": {"attribute": "sex", "mode": "white", "queries": 20, "batch_size": 16}}
    recipe = pairs.recipe(edit=edit, adaptation=IMAGE, optim__epochs=1)
    edited = train_one(Job(recipe, SEEDS), pairs.session)
    plain = train_one(Job(recipe.unedited(), SEEDS), pairs.session)
    assert np.isfinite(edited.epochs[0].scores).all()
    assert not np.array_equal(edited.epochs[0].scores, plain.epochs[0].scores)
    assert edited.weights.keys() == plain.weights.keys()


def test_folds_and_fractions_read_their_own_texts(pairs: Pairs) -> None:
    official = pairs.recipe(adaptation=IMAGE, optim__epochs=1)
    for changes in ({"fold": {"index": 2, "of": 2, "by": "sex"}}, {"fraction": 0.6}):
        fields = pairs.fields(adaptation=IMAGE, optim__epochs=1)
        fields["data"] |= changes
        drawn = pairs.session.resolve(parse(Recipe, fields))
        result = train_one(Job(drawn, SEEDS), pairs.session)
        ground = pairs.session.ground(drawn)
        assert len(result.epochs[0].scores) == len(ground.val_rows(drawn))
        assert np.isfinite(result.epochs[0].train_loss)
        assert not np.array_equal(ground.fit_rows(drawn), ground.fit_rows(official))
