from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import session, tiny_recipe

from fairtune.adaptation import Rule
from fairtune.config import parse
from fairtune.config.shipped import find
from fairtune.data.pack import Pack
from fairtune.errors import ConfigError, FairtuneError, ModelError, StudyError
from fairtune.training import session as room
from fairtune.training.observer import Quiet
from fairtune.training.pins import without_pins
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job, train_one


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


def test_a_second_run_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    held = session()
    counted: dict[str, int] = {}

    def counting(name: str) -> None:
        real: Callable[..., Any] = getattr(room, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            counted[name] = counted.get(name, 0) + 1
            return real(*args, **kwargs)

        monkeypatch.setattr(room, name, call)

    opening = ("open_pack", "load_table", "build", "resolve")
    for name in opening:
        counting(name)
    for rule in ("norm:all", "attn:last-1", "none"):
        recipe = held.resolve(tiny_recipe(adaptation__mask=rule, optim__epochs=1))
        train_one(Job(recipe, Seeds()), held, Quiet())
    assert counted == dict.fromkeys(opening, 1)


def test_the_next_run_starts_at_once(held: Session) -> None:
    recipe = held.resolve(tiny_recipe(optim__epochs=1))
    train_one(Job(recipe, Seeds()), held, Quiet())
    began = time.perf_counter()
    first: list[float] = []

    class Clock(Quiet):
        def poll(self) -> None:
            first.append(time.perf_counter() - began)

    train_one(Job(recipe, Seeds()), held, Clock())
    assert first[0] < 1.0


def test_resolving_pins_everything(held: Session) -> None:
    recipe = held.resolve(tiny_recipe(adaptation__mask="norm:0", fit__precision="auto"))
    ground = held.ground(recipe)
    assert recipe.data.fingerprint == ground.pack.table.fingerprint
    assert recipe.data.split == ground.pack.table.split_hash
    assert recipe.model.weights_sha == "none"
    assert recipe.model.units == ground.units.hash
    assert recipe.adaptation.mask == Rule.parse("norm:0").mask(ground.units).units
    assert recipe.fit.precision in ("fp32", "bf16")
    again = parse(Recipe, recipe.to_json())
    assert held.resolve(again) == recipe


def test_the_default_image_size_is_pinned(held: Session) -> None:
    recipe = tiny_recipe(model={"name": "test_vit", "weights": "none"})
    assert held.image_size(recipe) == 64
    assert held.units(recipe).depth == 6


@pytest.mark.parametrize(
    ("path", "value"),
    [("data__fingerprint", "ab"), ("data__split", "ab"), ("model__units", "ab")],
)
def test_other_data_or_units_than_those_pinned_are_refused(
    path: str, value: str, held: Session
) -> None:
    with pytest.raises(ModelError, match=f"pinned to another {path.split('__')[1]}"):
        held.resolve(tiny_recipe(**{path: value}))


def test_other_weights_than_those_pinned_are_refused(held: Session) -> None:
    with pytest.raises(ModelError, match="weights"):
        held.resolve(tiny_recipe(model__weights_sha="ab" * 32))


def test_pins_can_be_taken_off(held: Session) -> None:
    recipe = held.resolve(tiny_recipe())
    free = without_pins(recipe)
    assert (free.data.fingerprint, free.data.split) == (None, None)
    assert (free.model.weights_sha, free.model.units) == (None, None)
    assert held.resolve(free) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adaptation__mask": "attn:9"}, "6 blocks"),
        ({"adaptation__mask": ["blocks.0.nothing"]}, "does not have"),
        ({"model__image_size": 33}, "image size"),
        ({"model__name": "test_vitt"}, "test_vit"),
        ({"data__target": "abnormall"}, "abnormal"),
        ({"data__attributes": ["gender"]}, "gender"),
    ],
)
def test_what_cannot_be_had_is_named(changes: dict[str, Any], message: str, held: Session) -> None:
    with pytest.raises(FairtuneError, match=message):
        held.resolve(tiny_recipe(**changes))


def test_the_backbone_is_frozen_and_in_evaluation_mode(held: Session) -> None:
    ground = held.ground(tiny_recipe())
    assert not any(p.requires_grad for p in ground.backbone.parameters())
    assert not ground.backbone.training
    assert ground.outputs == 1


def test_rows_of_the_test_split_cannot_be_loaded(held: Session) -> None:
    ground = held.ground(tiny_recipe())
    hidden = len(ground.pack.table.frame) - 1
    visible = {*ground.pack.rows("train").tolist(), *ground.pack.rows("val").tolist()}
    rows = [row for row in range(hidden + 1) if row not in visible]
    assert rows
    with pytest.raises(StudyError):
        ground.loader(torch.tensor(rows[:2]).numpy(), 2, edit=None)
    with pytest.raises(StudyError):
        ground.pack.rows("test")


def test_features_are_computed_once(held: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = held.resolve(tiny_recipe(adaptation__mask="none"))
    ground = held.ground(recipe)
    rows = ground.pack.rows("val")
    first = ground.features(recipe, rows)
    calls: list[int] = []
    monkeypatch.setattr(Pack, "images", lambda *a, **k: calls.append(1))
    assert ground.features(recipe, rows) is first
    assert calls == []
    assert first.shape == (len(rows), ground.backbone.dim)


def test_progress_of_packing_is_told(tmp_path: Any) -> None:
    told: list[tuple[str, int, int]] = []
    held = session(cache=tmp_path)
    held.progress = lambda what, done, total: told.append((what, done, total))
    held.ground(tiny_recipe())
    assert told[-1][1] == told[-1][2]
    assert {what for what, _, _ in told} == {"packing images"}


def without_ranges(folder: Path) -> str:
    """Write the spec of the tiny data without its ranges of augmentation; return its path."""
    shipped = find("datasets", "nih-cxr-64").read_text()
    path = folder / "plain.yaml"
    path.write_text(re.sub(r"^augment: .*$", "", shipped, flags=re.MULTILINE))
    return str(path)


def test_the_ranges_of_augmentation_are_pinned(held: Session) -> None:
    spec = held.table(tiny_recipe()).spec
    for kind in ("none", "medical"):
        recipe = held.resolve(tiny_recipe(fit__augment=kind))
        assert recipe.data.augmentation == spec.augmentation
        assert parse(Recipe, recipe.to_json()) == recipe


def test_other_ranges_are_refused_only_where_they_are_used(held: Session) -> None:
    other = {"data__augmentation": "ab"}
    assert held.resolve(tiny_recipe(**other)).data.augmentation != "ab"
    with pytest.raises(ModelError, match="pinned to another augmentation"):
        held.resolve(tiny_recipe(**other, fit__augment="medical"))


def test_ranges_that_are_not_declared_are_refused(tmp_path: Path) -> None:
    held, dataset = session(), without_ranges(tmp_path)
    plain = held.resolve(tiny_recipe(data__dataset=dataset))
    assert plain.data.augmentation is None
    # The images are the same, so that nothing else could tell the two specs apart.
    assert plain.data.fingerprint == held.table(tiny_recipe()).fingerprint
    with pytest.raises(ConfigError, match="declares no ranges"):
        held.resolve(tiny_recipe(data__dataset=dataset, fit__augment="medical"))
