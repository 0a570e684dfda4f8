"""Runs of models with a text tower: of no epoch, of pairs; elsewhere, on images, exported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit import session
from kit_language import SIDE
from kit_two_towers import PROMPTS, recipe_fields, write_data
from safetensors import safe_open

from fairtune.config import parse
from fairtune.config.yaml12 import dumps
from fairtune.errors import ConfigError, DataError, FairtuneError, ModelError
from fairtune.evaluation.objectives import Objective
from fairtune.experiment.alone import Alone, finetune_alone
from fairtune.experiment.apply import evaluate, predict
from fairtune.experiment.checkpoint import export_bytes, load_words, merged, open_run, restore
from fairtune.experiment.gate import LEDGER, Gate
from fairtune.experiment.judge import Judge
from fairtune.experiment.recipe_file import read_recipe
from fairtune.experiment.run import Stopped, Unwatched, run
from fairtune.experiment.runs import Runs
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.train import Job

MINIMUM = {"n": 5, "positives": 2, "negatives": 2}
IMAGE = {"adaptation": {"mask": "image.block:last-1"}, "optim": {"lr": 1e-2}}


def written(
    folder: Path, usage: Any = "zero_shot", objective: str = "worst_auc@sex", **changes: Any
) -> Path:
    """Write a recipe in YAML, with data and model below `folder`."""
    made = {
        "recipe": recipe_fields(folder, usage, **changes),
        "objectives": [objective],
        "validation": {"min_group": MINIMUM},
    }
    path = folder / "one.yaml"
    path.write_text(dumps(made))
    return path


def made(folder: Path, usage: Any = "zero_shot", **changes: Any) -> Alone:
    path, out = written(folder, usage, **changes), folder / "out"
    return finetune_alone(None, session(out), out, recipe_file=path, seeds=2, seed=1, command="c")


def applied(alone: Alone, folder: Path, dataset: Path, split: str = "test") -> Any:
    asked: Mapping[str, Any] = {"metrics": ["auc"], "command": "c", "gate": Gate(folder)}
    return evaluate(alone.deploy, session(folder), dataset=str(dataset), split=split, **asked)


def images(folder: Path) -> list[Path]:
    return sorted((folder / "data" / "images").glob("test0-*.png"))[:5]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Alone, Path]:
    """A zero-shot run, tested."""
    folder = tmp_path_factory.mktemp("zero")
    return made(folder), folder


def test_a_run_of_no_epoch_is_whole(scored: tuple[Alone, Path]) -> None:
    alone, folder = scored
    (run,) = alone.made.runs["pick"]  # seeds change nothing: one run
    assert run.costs["epochs"] == run.costs["images"] == run.costs["trainable"] == 0
    assert list(run.epochs["images"]) == [0]
    assert np.isnan(run.epochs["train_loss"]).all()
    assert np.isfinite(run.epochs["val_loss"]).all()
    assert run.operating["threshold"] is not None
    assert run.has_test
    assert len((folder / "out" / LEDGER).read_text().splitlines()) == 1
    assert json.loads((run.folder / "prompts.json").read_text()) == PROMPTS["ill"]
    restored = restore(open_run(run.folder), session())
    assert np.array_equal(restored.score(restored.ground.pack.rows("val")), run.scores[0])


def test_an_image_file_gets_the_score_of_its_row(scored: tuple[Alone, Path]) -> None:
    alone, folder = scored
    run = alone.deploy
    frame = predict(run, session(), images(folder))
    table = session().table(run.recipe).frame
    test = run.test()
    by_name = dict(zip(table["image"].iloc[test.row], test.score, strict=True))
    wanted = [by_name[path.name] for path in images(folder)]
    assert frame["score"].to_numpy() == pytest.approx(wanted, abs=1e-6)


def test_prompts_travel_with_the_run(scored: tuple[Alone, Path], tmp_path: Path) -> None:
    alone, _ = scored
    other = {"ill": {**PROMPTS["ill"], "classes": {"not ill": ["fluid"], "ill": ["clear lungs"]}}}
    here = applied(alone, tmp_path, write_data(tmp_path / "same", seed=7), "all")
    reworded = write_data(tmp_path / "reworded", seed=7, prompts=other)
    assert np.array_equal(
        applied(alone, tmp_path, reworded, "all").predictions.score, here.predictions.score
    )
    none = write_data(tmp_path / "none", seed=7, prompts=None, text=None)
    assert np.array_equal(
        applied(alone, tmp_path, none, "all").predictions.score, here.predictions.score
    )


def test_only_rows_that_a_run_saw_are_left_out(scored: tuple[Alone, Path], tmp_path: Path) -> None:
    alone, folder = scored
    found = applied(alone, tmp_path, folder / "data" / "pairs.yaml", "all")
    assert (found.dropped, len(found.predictions)) == (48, 80)  # a threshold was fitted on val


def test_a_prompt_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    def key(usage: Any = "zero_shot", **changes: Any) -> str:
        fields = recipe_fields(tmp_path, usage, **changes)
        return session().resolve(parse(Recipe, fields)).key(Seeds())

    first, readout = key(), key("classify", optim={"epochs": 2})
    pinned = session().resolve(parse(Recipe, recipe_fields(tmp_path)))
    wording = {"ill": {**PROMPTS["ill"], "templates": ["{}"]}}
    write_data(tmp_path / "data", prompts=wording)
    assert key() != first
    assert key("classify", optim={"epochs": 2}) == readout
    with pytest.raises(ModelError, match="pinned to another prompts"):
        session().resolve(pinned)
    write_data(tmp_path / "data")
    assert key() == first


def test_classes_of_several_that_stand_in_another_order_are_refused(tmp_path: Path) -> None:
    rule = {"column": "sex", "classes": ["F", "M"]}
    said = {"sex": {"templates": ["{}"], "classes": {n: [n] for n in "FM"}}}
    own = write_data(tmp_path / "data", targets={"sex": rule}, prompts=said)
    alone = made(tmp_path, objective="auc", data={"dataset": str(own), "target": "sex"})
    turned = {**rule, "classes": ["M", "F"]}
    other = write_data(tmp_path / "other", seed=3, targets={"sex": turned}, prompts=None)
    with pytest.raises(DataError, match="other classes than those of the target"):
        applied(alone, tmp_path / "gate", other)
    assert not (tmp_path / "gate" / LEDGER).exists()


def test_pairs_are_scored_where_there_are_no_texts(tmp_path: Path) -> None:
    alone = made(tmp_path, "contrastive", **IMAGE)
    assert len(alone.made.runs["pick"]) == 2
    own = alone.deploy
    bare = write_data(tmp_path / "bare", seed=7, text=None, prompts=None)
    found = applied(alone, tmp_path / "a", bare, "all")
    assert len(found.predictions) == 128
    assert np.isfinite(predict(own, session(), images(tmp_path))["score"]).all()
    restored = restore(own, session())
    with pytest.raises(ModelError, match="has a text tower"):
        load_words(restored, "timm")
    assert "prompts" in load_words(restored, "safetensors")
    path = tmp_path / "model.safetensors"
    path.write_bytes(export_bytes(merged(restored), restored))
    with safe_open(path, "np") as file:
        names = set(file.keys())
        assert json.loads(file.metadata()["prompts"]) == PROMPTS["ill"]
    assert names == set(restored.net.backbone.net.state_dict())


def test_texts_that_are_scored_are_needed_everywhere(tmp_path: Path) -> None:
    alone = made(tmp_path, {"classify": {"features": "both"}})
    with pytest.raises(DataError, match="image files have none"):
        predict(alone.deploy, session(), images(tmp_path))
    other = write_data(tmp_path / "other", seed=7, bare=5)
    found = applied(alone, tmp_path / "a", other, "train")
    assert len(found.predictions) == 43
    bare = write_data(tmp_path / "bare", seed=7, text=None, prompts=None)
    with pytest.raises(FairtuneError, match="text"):
        applied(alone, tmp_path / "a", bare, "train")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"budget": {"trials": 2}}, "this is a study file"),
        ({"objectives": ["worst_auc@age"]}, "not among recipe.data.attributes"),
        ({"objectives": ["worst_auk@sex"]}, "auk"),
        ({"objectives": []}, "objectives"),
        ({"validation": {"folds": 3}}, "the official split alone"),
        ({"recipe": {"usage": "zero_shot"}}, "data"),
    ],
)
def test_a_recipe_file_that_is_none_is_one_message(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    fields = {"recipe": recipe_fields(tmp_path), "objectives": ["auc"]} | changes
    path = tmp_path / "one.yaml"
    path.write_text(dumps(fields))
    with pytest.raises(FairtuneError, match=match) as caught:
        read_recipe(path)
    assert "one.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "changes", "match"),
    [
        ({}, {"model": {"name": "test_vit", "image_size": SIDE}}, "this model reads none"),
        ({"prompts": None}, {}, "declares no prompts for this target"),
        ({"text": None}, {"usage": "contrastive", **IMAGE}, "text"),
        ({}, {"adaptation": {"mask": "image.attn:all"}}, "trains no units"),
    ],
)
def test_what_a_usage_needs_is_said_before_anything_is_made(
    tmp_path: Path, data: dict[str, Any], changes: dict[str, Any], match: str
) -> None:
    write_data(tmp_path / "data", **data)
    with pytest.raises((ConfigError, DataError, ModelError), match=match):
        made(tmp_path, **changes)
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_told_to_stop_leaves_while_texts_are_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairtune.training.texts._CHUNK", 16)
    fields = recipe_fields(tmp_path, {"classify": {"features": "both"}})
    own = session(tmp_path / "out", cache=tmp_path / "cache")
    recipe = own.resolve(parse(Recipe, fields))
    asked: list[str] = []
    own.progress = lambda what, done, total: asked.append(what)
    judge, runs = Judge((Objective.parse("auc"),)), Runs.at(tmp_path / "out", None)

    class Told(Unwatched):
        def poll(self) -> str | None:
            return "told" if "embedding texts" in asked else None

    left = run(Job(recipe, Seeds()), own, runs, judge, watcher=Told())
    assert isinstance(left, Stopped)
    assert left.reason == "told"
    assert not list((tmp_path / "cache" / "text").glob("*/embeddings.npy"))
    assert not isinstance(run(Job(recipe, Seeds()), own, runs, judge), Stopped)


def test_texts_that_cannot_be_kept_cost_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scores = []
    for name in ("kept", "full"):
        own = session(tmp_path / name, cache=tmp_path / f"cache-{name}")
        recipe = own.resolve(
            parse(Recipe, recipe_fields(tmp_path, {"classify": {"features": "both"}}))
        )
        if name == "full":  # nothing can be written where a file stands
            (tmp_path / "cache-full" / "text").write_text("")
        judge, runs = Judge((Objective.parse("auc"),)), Runs.at(tmp_path / name, None)
        done = run(Job(recipe, Seeds()), own, runs, judge)
        assert not isinstance(done, Stopped)
        scores.append(done.scores[0])
    assert np.array_equal(*scores)
    assert "embedded texts are not kept" in caplog.text


def test_texts_that_two_embed_at_once_are_kept_once(tmp_path: Path) -> None:
    fields = recipe_fields(tmp_path, {"classify": {"features": "text"}})
    recipe = session().resolve(parse(Recipe, fields))

    def embedded(name: str) -> Any:
        ground = session(tmp_path / name, cache=tmp_path / "cache").ground(recipe)
        return ground.texts.embedded(recipe, ground.fit_rows(recipe)).numpy()

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(embedded, ("one", "two"))
    assert np.array_equal(one, two)
    assert len([path for path in (tmp_path / "cache" / "text").iterdir() if path.is_dir()]) == 1
