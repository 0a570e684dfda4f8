"""What is kept before a cut: the numbers of a run do not depend on it, and no fault ends a run."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import session, tiny_recipe

from fairtune.data.pack import Pack
from fairtune.models.backbone import Backbone
from fairtune.training import cuts as reckoning
from fairtune.training.cuts import Expected
from fairtune.training.lane import Lane
from fairtune.training.observer import Quiet
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job, RunResult, train_one

LATE = {"adaptation__mask": "block:last-2", "optim__batch_size": 48}
FOLD = {"index": 2, "of": 2, "by": "sex"}


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # The tiny network saves milliseconds, which is worth no file: here it is made all the same.
    monkeypatch.setattr(reckoning, "LEAST_SECONDS", -1e9)
    monkeypatch.setattr(reckoning, "WRITE", 1e15)
    monkeypatch.setattr(reckoning, "READ", 1e15)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fresh(cache: Path, *, reuse: bool = True) -> Session:
    """A session with a cache of its own, in which the pack stands already."""
    known = session()
    folder = known.ground(tiny_recipe()).pack.folder
    place = cache / "packs" / folder.name
    if not place.exists():
        shutil.copytree(folder, place)
    made = session(cache=cache)
    made.reuse = reuse
    return made


def made(held: Session, **changes: Any) -> RunResult:
    recipe = held.resolve(tiny_recipe(**(LATE | changes)))
    return train_one(Job(recipe, Seeds(data=1, init=2)), held, Quiet())


def lane(held: Session, **changes: Any) -> Lane:
    recipe: Recipe = held.resolve(tiny_recipe(**(LATE | changes)))
    return Lane(recipe, Seeds(data=3, init=4), held.ground(recipe))


def same(one: RunResult, other: RunResult) -> bool:
    scores = [np.array_equal(a.scores, b.scores) for a, b in zip(one.epochs, other.epochs)]
    losses = [a.train_loss == b.train_loss for a, b in zip(one.epochs, other.epochs)]
    equal = [torch.equal(value, other.weights[name]) for name, value in one.weights.items()]
    return all(scores) and all(losses) and all(equal) and len(scores) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adaptation__mask": "mlp:last-1", "fit__precision": "bf16"},
        {"fit__augment": "light", "fit__copies": 2, "optim__epochs": 3},
        pytest.param({"adaptation__mask": "final_norm"}, marks=pytest.mark.slow),
        pytest.param(
            {"adaptation__mask": "attn:2,norm:last-1", "optim__batch_size": 24},
            marks=pytest.mark.slow,
        ),
        pytest.param({"fit__rows": "train+val"}, marks=pytest.mark.slow),
        pytest.param({"data__fold": FOLD, "data__fraction": 0.6}, marks=pytest.mark.slow),
        pytest.param({"data__fraction": 0.6}, marks=pytest.mark.slow),
        pytest.param(
            {"data__fold": FOLD, "fit__augment": "light", "fit__copies": 2, "optim__epochs": 5},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_is_the_same_with_and_without(changes: dict[str, Any], cache: Path) -> None:
    with_it, without = fresh(cache), fresh(cache, reuse=False)
    one, other = made(with_it, **changes), made(without, **changes)
    assert one.costs["cut"] > 0
    assert other.costs["cut"] == 0.0
    assert same(one, other)
    recipe = with_it.resolve(tiny_recipe(**(LATE | changes)))
    assert recipe == without.resolve(tiny_recipe(**(LATE | changes)))


@pytest.mark.slow
def test_folds_share_what_is_kept(cache: Path) -> None:
    held = fresh(cache)
    for index in (1, 2):
        made(held, data__fold={**FOLD, "index": index})
    ground = held.ground(tiny_recipe())
    (prefix,) = ground.prefixes.values()
    rows = [*ground.pack.rows("train"), *ground.pack.rows("val")]
    assert set(np.flatnonzero(prefix.slot >= 0)) == set(rows)


@pytest.mark.slow
def test_the_readout_of_a_fold_is_the_same_with_and_without(cache: Path) -> None:
    with_it, without = fresh(cache), fresh(cache, reuse=False)
    plain = {"adaptation__mask": "none", "data__fold": FOLD}
    assert same(made(with_it, **plain), made(without, **plain))


def test_frozen_blocks_are_not_computed_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(fresh(cache))
    calls: list[int] = []
    real = Backbone.front

    def counted(self: Backbone, image: torch.Tensor, cut: int) -> torch.Tensor:
        calls.append(len(image))
        return real(self, image, cut)

    monkeypatch.setattr(Backbone, "front", counted)
    held = fresh(cache)
    one = lane(held)
    # A trial chunk to reckon with, twice, and one batch to compare with what is kept.
    assert len(calls) <= 3
    calls.clear()
    one.epoch()
    one.score(one.ground.val_rows(one.recipe))
    rows = len(one.ground.fit_rows(one.recipe))
    assert sum(calls) == rows % one.recipe.optim.batch_size


def test_images_are_not_read_where_a_prefix_is_served(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = lane(fresh(cache))
    read: list[int] = []
    real = Pack.images

    def counted(self: Pack, rows: Any, **more: Any) -> Any:
        read.append(len(rows))
        return real(self, rows, **more)

    monkeypatch.setattr(Pack, "images", counted)
    one.epoch()
    assert sum(read) == len(one.ground.fit_rows(one.recipe)) % one.recipe.optim.batch_size


def test_no_test_row_is_kept(cache: Path) -> None:
    one = lane(fresh(cache))
    pack = one.ground.pack
    (prefix,) = one.ground.prefixes.values()
    kept = np.flatnonzero(prefix.slot >= 0)
    assert set(kept) == {*pack.rows("train"), *pack.rows("val")}
    hidden = np.setdiff1d(np.arange(len(pack)), kept)
    assert len(hidden)
    assert not prefix.has(hidden[:1])
    assert len(prefix.held) == len(kept)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"adaptation__mask": "norm:0,attn:last-1"}, "the stem or the first block trains"),
        ({"adaptation__mask": "pos,block:last-1"}, "the stem or the first block trains"),
        ({"fit__augment": "light"}, "augmentation 'light' changes the images"),
        ({"optim__mixup": 0.2}, "mixup and cutmix change the images"),
        ({"optim__cutmix": 0.2}, "mixup and cutmix change the images"),
        (
            {
                "model": {"name": "tf_efficientnet_lite0", "image_size": 32, "weights": "none"},
                "adaptation__mask": "block:last-1",
            },
            "cannot be cut",
        ),
    ],
)
def test_where_it_does_not_apply_the_reason_is_told(changes: dict[str, Any], why: str) -> None:
    one = lane(session(), **changes)
    assert one.start.cut == 0
    assert why in one.start.why
    assert one.net.backbone.starts_at == 0


def test_expected_runs_decide_which_cuts_are_kept(cache: Path) -> None:
    held = fresh(cache)
    held.expected = Expected({2: 50.0, 4: 1.0}, 10)
    assert lane(held, adaptation__mask="block:last-1").start.cut == 4
    assert lane(held, adaptation__mask="block:3").start.cut == 2
    assert len(list((cache / "prefixes").glob("[0-9a-z]*"))) == 2
    held.expected = Expected({3: 50.0}, 10)
    one = lane(held, adaptation__mask="block:last-1")
    assert (one.start.cut, one.net.backbone.starts_at) == (3, 3)
    assert "not worth a file" in lane(held, adaptation__mask="block:1").start.why


def test_a_gain_of_less_than_a_second_is_not_worth_a_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    one = lane(fresh(cache))
    assert "not worth a file" in one.start.why
    assert not (cache / "prefixes").exists()


def damaged(folder: Path) -> None:
    file = folder / "hidden.bin"
    content = bytearray(file.read_bytes())
    content[: len(content)] = bytes(reversed(content))
    file.write_bytes(content)


def kept(cache: Path) -> Path:
    (folder,) = (path for path in (cache / "prefixes").iterdir() if path.is_dir())
    return folder


@pytest.mark.slow
def test_a_damaged_file_is_made_again(cache: Path) -> None:
    before = made(fresh(cache))
    damaged(kept(cache))
    after = made(fresh(cache))
    assert same(before, after)
    assert after.costs["cut"] == before.costs["cut"] > 0


def test_a_damaged_file_whose_checksum_is_not_looked_at_is_made_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from fairtune import store

    before = made(fresh(cache))
    whole = (kept(cache) / "hidden.bin").read_bytes()
    # Files this large are taken by their size.
    monkeypatch.setattr(store, "_HASH_LIMIT", 0)
    damaged(kept(cache))
    after = made(fresh(cache))
    assert same(before, after)
    assert after.costs["cut"] > 0
    assert (kept(cache) / "hidden.bin").read_bytes() == whole
    assert "does not hold what it should" in caplog.text


def test_a_full_disk_costs_speed_and_nothing_else(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held = fresh(cache)
    held.ground(tiny_recipe())
    from fairtune.training import prefix

    real = shutil.disk_usage
    monkeypatch.setattr(
        prefix.shutil,
        "disk_usage",
        lambda path: real(path)._replace(free=2**30 + 1000),
    )
    monkeypatch.setattr(prefix, "_measured", lambda *a: reckoning.Cost(1, 1, 9, 1.0, 1, 1e9))
    with caplog.at_level(logging.WARNING):
        result = made(held)
    assert result.costs["cut"] == 0.0
    assert "disk is too full" in caplog.text
    assert same(result, made(fresh(cache, reuse=False)))
    assert not [path for path in (cache / "prefixes").iterdir() if path.is_dir()]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_costs_speed_and_nothing_else(cache: Path) -> None:
    held = fresh(cache)
    held.ground(tiny_recipe())
    cache.chmod(0o500)
    try:
        assert made(held).costs["cut"] == 0.0
    finally:
        cache.chmod(0o700)


def test_a_cache_that_is_no_folder_costs_speed_and_nothing_else(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = fresh(cache)
    (cache / "prefixes").write_text("in the way")
    result = made(held)
    assert result.costs["cut"] == 0.0
    assert "computed anew in every pass" in caplog.text


def test_rounding_that_differs_is_not_used_on_a_cpu(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(fresh(cache))
    real = Backbone.front

    def nudged(self: Backbone, image: torch.Tensor, cut: int) -> torch.Tensor:
        return real(self, image, cut) * (1 + 1e-6)

    monkeypatch.setattr(Backbone, "front", nudged)
    one = lane(fresh(cache))
    assert one.start.cut == 0
    assert "rounded in another way" in one.start.why


def test_features_are_read_by_the_next_process(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fresh(cache, reuse=False)
    recipe = plain.resolve(tiny_recipe(adaptation__mask="none"))
    rows = [plain.ground(recipe).pack.rows(name) for name in ("train", "val")]
    expected = [plain.ground(recipe).features(recipe, part) for part in rows]
    first = fresh(cache)
    found = [first.ground(recipe).features(recipe, part) for part in rows]
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    monkeypatch.setattr(Backbone, "embed", lambda *a: pytest.fail("it was computed again"))
    second = fresh(cache)
    again = [second.ground(recipe).features(recipe, part) for part in rows]
    assert all(np.array_equal(a, b) for a, b in zip(again, expected, strict=True))
    both = np.sort(np.concatenate(rows))
    assert len(second.ground(recipe).features(recipe, both)) == len(both)


def test_other_weights_are_another_file(cache: Path) -> None:
    held = fresh(cache)
    one = lane(held)
    before = one.ground.tensor_digest(4)
    late = one.ground.tensor_digest(None)
    one.ground._tensors.clear()
    with torch.no_grad():
        one.ground.backbone.net.blocks[5].mlp.fc1.weight += 1  # type: ignore[union-attr,operator,index]
    assert one.ground.tensor_digest(4) == before
    assert one.ground.tensor_digest(None) != late
    one.ground._tensors.clear()
    with torch.no_grad():
        one.ground.backbone.net.blocks[3].mlp.fc1.weight += 1  # type: ignore[union-attr,operator,index]
    assert one.ground.tensor_digest(4) != before
