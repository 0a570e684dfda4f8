"""An edit in a run: the same for training, validation and whatever is scored later."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from kit import session, tiny_recipe

from fairtune.data.batch import normalise
from fairtune.editing.edit import Edit
from fairtune.editing.stored import to_bytes
from fairtune.errors import ConfigError, ModelError
from fairtune.training.observer import Decision, Epoch
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.train import Job, RunResult, train


def edit_file(folder: Path, size: int = 32, scale: float = 0.3, name: str = "edit") -> Path:
    value = scale * torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(1))
    path = folder / f"{name}.safetensors"
    path.write_bytes(to_bytes(Edit(value, size)))
    return path


def recipes(folder: Path, **changes: object) -> tuple[Recipe, Recipe]:
    path = edit_file(folder)
    plain = tiny_recipe(**changes)
    return plain, tiny_recipe(edit={"file": {"path": str(path)}}, **changes)


def test_a_recipe_without_edit_is_what_it_was() -> None:
    plain = tiny_recipe()
    assert "edit" not in plain.to_json()
    assert "edit" not in plain.canonical()
    assert tiny_recipe(edit="none").identity() == plain.identity()


def test_the_digest_of_the_values_stands_for_the_file(tmp_path: Path) -> None:
    held = session(tmp_path)
    _, edited = recipes(tmp_path)
    resolved = held.resolve(edited)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    again = held.resolve(tiny_recipe(edit={"file": {"path": str(edit_file(moved))}}))
    assert resolved.identity() == again.identity()
    other = edit_file(moved, scale=0.2, name="other")
    assert held.resolve(tiny_recipe(edit={"file": {"path": str(other)}})).identity() not in (
        resolved.identity(),
        held.resolve(tiny_recipe()).identity(),
    )


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    held = session(tmp_path)
    resolved = held.resolve(recipes(tmp_path)[1])
    edit_file(tmp_path, scale=0.1)
    with pytest.raises(ModelError, match="not the edit that was pinned"):
        held.resolve(resolved)


def test_an_edit_of_another_size_is_refused(tmp_path: Path) -> None:
    held = session(tmp_path)
    path = edit_file(tmp_path, size=64)
    resolved = held.resolve(tiny_recipe(edit={"file": {"path": str(path)}}))
    with pytest.raises(ModelError, match="another image size"):
        train([Job(resolved, Seeds())], held)


def test_an_edit_of_another_model_is_refused_unless_that_is_what_is_wanted(tmp_path: Path) -> None:
    held = session(tmp_path)
    path = tmp_path / "other.safetensors"
    path.write_bytes(to_bytes(Edit(torch.zeros(1, 4, 4), 32, about={"model": "vit_small_dinov2"})))
    said = {"path": str(path)}
    with pytest.raises(ModelError, match="another model"):
        train([Job(held.resolve(tiny_recipe(edit={"file": said})), Seeds())], held)
    wanted = tiny_recipe(edit={"file": {**said, "other_model": True}})
    (made,) = train([Job(held.resolve(wanted), Seeds())], held)
    assert len(made.epochs) == 2


WITH: dict[str, dict[str, object]] = {
    "readout": {"adaptation__mask": "none"},
    "mask": {"adaptation__mask": "norm:all"},
    "adapters": {"adaptation__mask": "attn:last-1", "adaptation__method": "lora"},
    "mitigations": {
        "adaptation__mask": "block:last-1",
        "mitigations": [{"sinkhorn": {"attribute": "sex"}}, {"sam": {"rho": 0.05}}],
    },
    "a head with a mitigation": {
        "adaptation__mask": "none",
        "mitigations": [{"group_dro": {"attribute": "sex"}}],
    },
    "augmentation": {"adaptation__mask": "norm:all", "fit__augment": "medical"},
}


@pytest.mark.parametrize("changes", WITH.values(), ids=list(WITH))
def test_training_and_validation_see_the_edited_images(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    held = session(tmp_path)
    plain, edited = (held.resolve(r) for r in recipes(tmp_path, **changes))
    ground = held.ground(edited)
    found = ground.edit(edited)
    assert found is not None
    rows = ground.val_rows(edited)[:40]
    loader = ground.loader(rows, 40, edit=found)
    (batch,) = list(loader.epoch(shuffle=False))
    image = torch.from_numpy(ground.pack.images(rows)).permute(0, 3, 1, 2).float() / 255
    view = normalise(found.on("cpu")(image), ground.spec.mean, ground.spec.std)
    torch.testing.assert_close(batch.image, view)
    results = train([Job(plain, Seeds()), Job(edited, Seeds())], held)
    assert not np.array_equal(results[0].epochs[-1].scores, results[1].epochs[-1].scores)


@pytest.mark.parametrize("mask", ["none", "block:last-1"])
def test_what_is_kept_of_edited_images_is_what_is_computed(tmp_path: Path, mask: str) -> None:
    edited = recipes(tmp_path, adaptation__mask=mask)[1]
    kept = session(tmp_path, cache=tmp_path / "cache")
    anew = dataclasses.replace(session(tmp_path), reuse=False)
    both = [train([Job(held.resolve(edited), Seeds())], held)[0] for held in (kept, anew)]
    again = train([Job(kept.resolve(edited), Seeds())], kept)[0]
    for one in (both[1], again):
        assert np.array_equal(both[0].epochs[-1].scores, one.epochs[-1].scores)


def test_drawn_rows_have_features_of_edited_images(tmp_path: Path) -> None:
    held = session(tmp_path)
    plain, edited = recipes(tmp_path, adaptation__mask="none", data__fraction=0.5)
    ground = held.ground(edited)
    rows = ground.fit_rows(edited)[:8]
    assert not np.allclose(ground.features(plain, rows), ground.features(edited, rows))


def test_it_is_told_what_an_edit_of_a_file_costs(tmp_path: Path) -> None:
    held = session(tmp_path)
    (result,) = train([Job(held.resolve(recipes(tmp_path)[1]), Seeds())], held)
    assert result.costs["queries_used"] == result.costs["queries_paid"] == 0
    (plain,) = train([Job(held.resolve(tiny_recipe()), Seeds())], held)
    assert "queries_used" not in plain.costs


def test_an_unknown_edit_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="unknown edit"):
        tiny_recipe(edit={"fil": {"path": "x"}})


class Leaving:
    """An observer that is told to leave, once so many queries were made for an edit."""

    def __init__(self, after: int | None) -> None:
        self.after, self.asked = after, 0

    def progress(self, what: str, done: int, total: int) -> None:
        self.asked = done if what.startswith("learning an edit") else self.asked

    def epoch(self, report: Epoch) -> Decision:
        return Decision()

    def poll(self) -> str | None:
        return None if self.after is None or self.asked < self.after else "stop --now"


def left(cache: Path, recipe: Recipe, after: int | None) -> RunResult:
    held, leaving = session(cache=cache), Leaving(after)
    held.progress = leaving.progress
    return train([Job(held.resolve(recipe), Seeds(), leaving)], held)[0]


@pytest.mark.parametrize("mask", ["none", "norm:all"])
def test_a_run_told_to_stop_while_its_edit_is_learned_goes_on_from_there(
    tmp_path: Path, mask: str
) -> None:
    rule = {"dne": {"attribute": "sex", "mode": "two_point", "queries": 40, "refit_every": 4}}
    recipe = tiny_recipe(edit=rule, adaptation__mask=mask, optim__epochs=1)
    one, two = tmp_path / "one", tmp_path / "two"
    stopped = left(one, recipe, 12)
    assert stopped.stopped == "stop --now"
    assert "queries_paid" not in stopped.costs
    assert len(list((one / "edits").glob(".*.state/*"))) == 1
    again, whole = left(one, recipe, None), left(two, recipe, None)
    assert np.array_equal(again.epochs[-1].scores, whole.epochs[-1].scores)
    assert again.costs["queries_used"] == whole.costs["queries_used"] > 24
    assert again.costs["queries_paid"] == again.costs["queries_used"]
    assert left(one, recipe, None).costs["queries_paid"] == 0


def test_a_run_that_is_left_after_its_edit_was_made_pays_nothing(tmp_path: Path) -> None:
    recipe = tiny_recipe(edit={"dne": {"attribute": "sex", "mode": "white", "queries": 2}})
    held = session(cache=tmp_path)
    assert held.ground(recipe).edit(held.resolve(recipe)) is not None
    stopped = left(tmp_path, recipe, 0)
    assert stopped.stopped == "stop --now"
    assert stopped.costs.get("queries_paid", 0) == 0
    whole = left(tmp_path, recipe, None)
    assert whole.costs["queries_paid"] == whole.costs["queries_used"] > 2
