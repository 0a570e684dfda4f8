"""Runs with post-processing: judged cross-fitted, deployed as fitted on all of validation."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit import session, tiny_recipe
from kit_tiny import MINIMUM

from fairtune.config import shipped
from fairtune.errors import ConfigError, DataError, StorageError
from fairtune.evaluation.rules import ThresholdRule
from fairtune.experiment import alone
from fairtune.experiment.apply import evaluate, predict, without_groups
from fairtune.experiment.folded import fold_together
from fairtune.experiment.gate import Gate
from fairtune.experiment.judge import Judge
from fairtune.experiment.run import Unwatched, run
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.experiment.tables import probabilities
from fairtune.mitigation import post
from fairtune.report import card
from fairtune.training.observer import Epoch
from fairtune.training.recipe import Seeds
from fairtune.training.train import Job

JUDGE = Judge.of(["eo_diff@sex", "auc"], {"min_group": MINIMUM})
TEMPERATURE: dict[str, Any] = {"group_temperature": {"attribute": "sex"}}
THRESHOLDS: dict[str, Any] = {"threshold_optimizer": {"attribute": "sex"}}
EACH = pytest.mark.parametrize("methods", [[TEMPERATURE], [THRESHOLDS], [TEMPERATURE, THRESHOLDS]])


class Noted(Unwatched):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def epoch(self, report: Epoch, values: Any) -> str | None:
        self.seen.append(dict(values))
        return None


def made(
    out: Path, methods: list[Any], judge: Judge = JUDGE, **changes: Any
) -> tuple[StoredRun, Noted]:
    opened = session(out)
    recipe = opened.resolve(tiny_recipe(data__where={}, mitigations=methods, **changes))
    noted = Noted()
    stored = run(Job(recipe, Seeds()), opened, Runs(out), judge, watcher=noted)
    assert isinstance(stored, StoredRun)
    return stored, noted


def raw(stored: StoredRun, epoch: int = 2) -> np.ndarray:  # type: ignore[type-arg]
    return probabilities(np.asarray(stored.scores[epoch - 1]), stored.task)


@EACH
def test_stored_validation_is_the_cross_fitted_one_the_judge_saw(
    tmp_path: Path, methods: list[Any]
) -> None:
    stored, noted = made(tmp_path, methods)
    plain, _ = made(tmp_path, [])
    assert np.array_equal(stored.scores, plain.scores)  # it does not act on training
    assert stored.key != plain.key
    for number, values in enumerate(noted.seen, 1):
        assert JUDGE.values(stored.validation(number)) == values
    kept = stored.validation()
    assert kept.cut == (0.5 if THRESHOLDS in methods else None)
    assert not np.array_equal(kept.score, plain.validation().score)
    table = plain.validation()
    assert np.array_equal(kept.score, post.cross_fitted(stored.recipe.mitigations, table).score)
    # The table keeps what the model said; what is deployed is fitted on all of it.
    assert np.array_equal(stored.table("val.parquet")["score"], raw(stored))
    steps = post.fit(stored.recipe.mitigations, table)
    assert stored.operating["post"] == post.to_json(steps) == post.to_json(stored.post)
    whole = post.apply(steps, table)
    fitted = 0.5 if THRESHOLDS in methods else ThresholdRule().fit(whole.label, whole.score)
    assert stored.operating["threshold"] == fitted
    assert "post" not in plain.operating
    assert plain.post == ()


@EACH
def test_a_finetuned_run_is_tested_and_deployed_with_its_post_processing(
    tmp_path: Path, methods: list[Any]
) -> None:
    source, _ = made(tmp_path / "a", methods)
    opened = session(tmp_path / "b")
    done = alone.finetune_alone(
        str(source.folder / "recipe.json"), opened, tmp_path / "b", seed=3, command="c"
    )
    deployed = done.deploy
    model = deployed.raw_test()
    assert np.array_equal(deployed.table("test.parquet")["score"], model.score)
    steps = post.fit(
        deployed.recipe.mitigations, deployed.raw_validation(deployed.operating["epoch"])
    )
    expected = post.apply(steps, model)
    assert np.array_equal(deployed.test().score, expected.score)
    assert deployed.test().cut == expected.cut
    assert "auc" in alone.test_text(done)
    found = evaluate(
        deployed, opened, dataset="nih-cxr-64", split="test", metrics=["auc", "tpr"],
        gate=Gate(tmp_path / "b"), command="c", attributes=["age"],
    )  # fmt: skip
    # `sex` is read for the post-processing, though only `age` is asked for.
    assert set(found.frozen["attribute"].dropna()) == {"age"}
    assert np.allclose(found.predictions.score, expected.score, atol=1e-6)
    assert found.notes == ()


@EACH
def test_images_alone_get_the_pooled_rule_and_it_is_said(
    tmp_path: Path, methods: list[Any]
) -> None:
    source, _ = made(tmp_path / "a", methods)
    opened = session(tmp_path / "b")
    done = alone.finetune_alone(
        str(source.folder / "recipe.json"), opened, tmp_path / "b", seed=3, command="c"
    )
    told = without_groups(done.deploy)
    assert told is not None
    assert all(next(iter(method)) in told for method in methods)
    assert "sex" in told
    table = opened.ground(done.deploy.recipe).pack.table
    model = done.deploy.raw_test()
    names = list(table.frame["image"].iloc[model.row[:5]])
    with zipfile.ZipFile(table.folder / "nih_cxr_64.zip") as file:
        file.extractall(tmp_path, names)
    frame = predict(done.deploy, opened, [tmp_path / name for name in names])
    expected = post.apply(done.deploy.post, replace(model, attributes={}).take(np.arange(5)))
    assert frame["score"].to_numpy() == pytest.approx(expected.score, abs=1e-5)
    plain, _ = made(tmp_path / "c", [])
    assert without_groups(plain) is None


@EACH
def test_train_and_val_takes_the_post_processing_over(tmp_path: Path, methods: list[Any]) -> None:
    source, _ = made(tmp_path / "a", methods)
    out = tmp_path / "b"
    given = str(source.folder / "recipe.json")
    done = alone.finetune_alone(given, session(out), out, rows="train+val", seed=3, command="c")
    deployed = done.deploy
    assert deployed.operating["post"] == source.operating["post"]
    assert deployed.operating["threshold"] == source.operating["threshold"]
    assert not (deployed.folder / "val.parquet").exists()
    expected = post.apply(source.post, deployed.raw_test())
    assert np.array_equal(deployed.test().score, expected.score)


def test_train_and_val_of_a_run_without_what_it_needs_says_so(tmp_path: Path) -> None:
    source, _ = made(tmp_path / "a", [])
    text = json.loads((source.folder / "recipe.json").read_text())
    text["recipe"]["mitigations"] = [THRESHOLDS]
    (source.folder / "recipe.json").write_text(json.dumps(text))
    out = tmp_path / "b"
    with pytest.raises(ConfigError, match="takes post-processing from the run") as caught:
        alone.finetune_alone(
            str(source.folder / "recipe.json"), session(out), out, rows="train+val", command="c"
        )
    assert "--on train" in str(caught.value.todo)
    with pytest.raises(StorageError, match="does not say what its post-processing found"):
        StoredRun(source.folder).test()


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """The shipped images with targets of the other kinds."""
    text = shipped.find("datasets", "nih-cxr-64").read_text()
    more = (
        "  views: {column: view, classes: [PA, AP]}\n"
        '  findings: {column: findings, separator: "|", labels: [Infiltration, Effusion], '
        "negative: rest}\n"
    )
    path = tmp_path / "several.yaml"
    path.write_text(text.replace("\nattributes:", more + "\nattributes:"))
    return path


def test_a_task_it_is_not_made_for_is_refused_before_anything_is_trained(
    tmp_path: Path, several: Path
) -> None:
    with pytest.raises(DataError, match="not made for this kind of target") as caught:
        made(tmp_path, [THRESHOLDS], data__dataset=str(several), data__target="views")
    assert (caught.value.found, caught.value.allowed) == ("multiclass", ["binary", "multilabel"])
    # A recipe that a search has made is not resolved anew: its run is refused.
    opened = session(tmp_path)
    plain = tiny_recipe(data__dataset=str(several), data__target="views")
    members = tiny_recipe(mitigations=[THRESHOLDS]).mitigations
    drawn = opened.resolve(plain).model_copy(update={"mitigations": members})
    with pytest.raises(DataError, match="not made for this kind of target"):
        run(Job(drawn, Seeds()), opened, Runs(tmp_path), JUDGE)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("target", "methods"),
    [("views", [TEMPERATURE]), ("findings", [TEMPERATURE, THRESHOLDS])],
)
def test_other_kinds_of_targets_from_the_search_to_the_test(
    tmp_path: Path, several: Path, target: str, methods: list[Any]
) -> None:
    judge = Judge.of(["worst_auc@sex"], {"min_group": MINIMUM})
    source, noted = made(
        tmp_path / "a", methods, judge, data__dataset=str(several), data__target=target
    )
    assert noted.seen[-1] == judge.values(source.validation())
    out = tmp_path / "b"
    given = str(source.folder / "recipe.json")
    done = alone.finetune_alone(given, session(out), out, rows="train+val", seed=1, command="c")
    assert done.deploy.operating["post"] == source.operating["post"]
    expected = {"views": None, "findings": [0.5, 0.5]}[target]
    assert done.deploy.operating["threshold"] == expected
    tested = done.deploy.test()
    assert np.array_equal(tested.score, post.apply(source.post, done.deploy.raw_test()).score)
    assert tested.score.shape == done.deploy.raw_test().score.shape
    table = session(out).ground(done.deploy.recipe).pack.table
    with zipfile.ZipFile(table.folder / "nih_cxr_64.zip") as file:
        file.extract(table.frame["image"].iloc[0], tmp_path)
    frame = predict(done.deploy, session(out), [tmp_path / table.frame["image"].iloc[0]])
    assert list(frame.columns) == ["image", *(f"score:{name}" for name in table.classes)]


def test_folds_are_cross_fitted_each_and_deployed_together(tmp_path: Path) -> None:
    methods = [TEMPERATURE, THRESHOLDS]
    single = [made(tmp_path, methods, data__fold={"index": i, "of": 2})[0] for i in (1, 2)]
    whole = fold_together(single, Runs(tmp_path), JUDGE)
    kept = whole.validation()
    for run_, table in zip(single, kept.per_model()):
        assert np.array_equal(run_.validation().score, table.score)
    raw_table = whole.raw_validation(2)
    assert raw_table.models == 2
    assert np.array_equal(whole.table("val.parquet")["score"], raw_table.score)
    steps = post.fit(whole.recipe.mitigations, raw_table)
    assert whole.operating == {"epoch": 2, "threshold": 0.5, "post": post.to_json(steps)}


def test_the_card_says_what_has_to_be_known(tmp_path: Path) -> None:
    source, _ = made(tmp_path / "a", [TEMPERATURE, THRESHOLDS])
    out = tmp_path / "b"
    given = str(source.folder / "recipe.json")
    done = alone.finetune_alone(given, session(out), out, seed=1, command="c")
    said = " ".join(card.text(card.Card.of_run(done.deploy, done.judge)).split())
    for words in (
        "sex has to be known of every patient who is scored",
        "Decisions are made at thresholds that differ by group",
        "It gives scores from an image and the patient's sex.",
        "thresholds of each group, frozen on validation",
    ):
        assert words in said.replace("\\", "")
    for words in ("for every group alike", "from an image alone", "one threshold for all groups"):
        assert words not in said
    source, _ = made(tmp_path / "a", [])
    given = str(source.folder / "recipe.json")
    plain = alone.finetune_alone(given, session(out), out, seed=1, command="c")
    said = " ".join(card.text(card.Card.of_run(plain.deploy, plain.judge)).split())
    assert "It gives probabilities from an image alone. A score at or above" in said
    assert "for every group alike" in said
    assert "post-processed" not in said


@EACH
def test_data_without_the_attribute_get_the_pooled_rule_and_it_is_said(
    tmp_path: Path, methods: list[Any]
) -> None:
    text = shipped.find("datasets", "nih-cxr-64").read_text()
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(text.replace("  sex: {column: sex, map: {F: F, M: M}}\n", ""))
    source, _ = made(tmp_path / "a", methods)
    out = tmp_path / "b"
    given = str(source.folder / "recipe.json")
    done = alone.finetune_alone(given, session(out), out, seed=1, command="c")
    found = evaluate(
        done.deploy, session(out), dataset=str(elsewhere), split="test", metrics=["auc", "tpr"],
        gate=Gate(out), command="c", attributes=["age"],
    )  # fmt: skip
    *told, last = found.notes
    assert [note.partition(":")[0] for note in told] == [next(iter(m)) for m in methods]
    assert "rows are of no group of sex that it has a rule for" in told[0]
    assert last.startswith("post-processing could not be fitted on these rows: no such attribute")
    model = replace(done.deploy.raw_test(), attributes={})
    expected = post.apply(done.deploy.post, model)
    assert np.allclose(found.predictions.score, expected.score, atol=1e-6)
