"""A user's mistake: exit code 2, one message with place and finding, nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit_cli import files, here, process
from kit_tiny import Tiny, write_study

from fairtune.study.outcome import Outcome

Say = Callable[..., str]


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Say:
    """Return what is said on stderr of a command that has to fail."""

    def say(*words: object, where: Path = tmp_path / "results") -> str:
        before = files(where)
        code, _, err = here(words, monkeypatch, capsys)
        assert code == 2, err
        assert "Traceback" not in err
        assert files(where) == before
        return err

    return say


RECIPE = {
    "data": {"dataset": "nih-cxr-64", "target": "abnormal", "attributes": ["sex", "age"]},
    "model": {"name": "test_vit", "image_size": 32, "weights": "none"},
    "fit": {"precision": "fp32"},
}


def recipe(part: str, **changes: Any) -> dict[str, Any]:
    return {**RECIPE, part: {**RECIPE[part], **changes}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objectives": ["worst_auk@sex"]}, ["tiny.yaml:", "unknown metric", "worst_auk", "auc"]),
        ({"objectives": ["auc_gap@sex"]}, ["disparities", "worst_auc@sex"]),
        ({"objectives": ["worst_auc@race"]}, ["race", "allowed: sex, age"]),
        ({"budget": {"trials": "4"}}, ["tiny.yaml:", "budget.trials", "integer", "'4'"]),
        ({"budget": {"trial": 4}}, ["unknown field 'trial'", "did you mean 'trials'"]),
        ({"space": {"optim.lr": {"float": [1, 0]}}}, ["in order", "[1.0, 0.0]"]),
        ({"recipe": recipe("model", name="test_vti")}, ["unknown model", "test_vit"]),
        ({"recipe": recipe("data", dataset="nih-cxr-46")}, ["nih-cxr-46", "nih-cxr-64"]),
        ({"recipe": recipe("data", target="abnormality")}, ["abnormality", "abnormal"]),
        ({"recipe": recipe("data", attributes=["sex", "race"])}, ["race", "sex"]),
        ({"recipe": recipe("data", where={"view": "LL"})}, ["LL"]),
        ({"recipe": recipe("model", weights="w.safetensors")}, ["w.safetensors"]),
        ({"recipe": recipe("model", image_size=33)}, ["33", "16"]),
        ({"baselines": ["norm:all", "attn:0-99"]}, ["tiny.yaml:", "beyond", "0-99"]),
        (
            {"space": {"optim.lr": "declared", "adaptation.mask": {"bits": {"types": ["conv"]}}}},
            ["tiny.yaml:", "conv", "attn"],
        ),
        (
            {"space": {"optim.lr": "declared", "adaptation.mask": {"one_of": ["none", "attn:9"]}}},
            ["beyond the network's 6 blocks"],
        ),
        ({"validation": {"min_group": {"n": 5000}}}, ["5000"]),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_before_anything_is_written(
    refused: Say, tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    said = refused("search", write_study(tmp_path / "in", **changes))
    assert "fairtune: " in said
    for word in words:
        assert word in said, said


def test_all_faults_of_a_file_are_shown_at_once(refused: Say, tmp_path: Path) -> None:
    file = write_study(
        tmp_path / "in", objectives=["auk"], budget={"trials": 0}, constraints=["auc > 0.5"]
    )
    said = refused("search", file)
    assert "3 problems" in said
    assert said.count(f"{file}:") >= 4


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["search", "quickstrt"], ["quickstrt", "did you mean 'quickstart'"]),
        (["search", "no/such.yaml"], ["no such study file", "no/such.yaml"]),
        (["search", "quickstart", "--set", "budget"], ["PATH=VALUE", "budget"]),
        (["search", "quickstart", "--name", "a/b"], ["a/b", "name"]),
        (["search", "quickstart", "--stop", "soon"], ["budget.stop", "soon", "auto"]),
        (["finetune"], ["nothing to retrain", "--study"]),
        (["finetune", "--study", "none-such"], ["no such study", "none-such"]),
        (["finetune", "--mask", "attn:0"], ["bare mask", "--recipe"]),
        (["finetune", "--mask", "no.json"], ["cannot read the file", "no.json"]),
        (["finetune", "--study", "x", "--on", "test"], ["--on", "train+val"]),
        (["finetune", "--study", "x", "--recipe", "r.json"], ["--recipe", "does nothing"]),
        (["finetune", "--study", "x", "--mask", "none", "--trial", "2"], ["--trial"]),
        (["finetune", "--mask", "r.json", "--trial", "2"], ["--trial", "does nothing"]),
        (["finetune", "--study", "x", "--layout", "auto_peft1"], ["--layout"]),
        (["evaluate", "no/run", "--dataset", "nih-cxr-64"], ["no finished run here"]),
        (["predict", "no/run", "no.png"], ["no finished run here"]),
        (["models", "export", "no/run", "--to", "x.safetensors"], ["no finished run here"]),
    ],
)
def test_what_is_not_there_is_named(refused: Say, words: list[str], expected: list[str]) -> None:
    said = refused(*words)
    for word in expected:
        assert word in said, said


@pytest.mark.parametrize(
    "words",
    [
        ["finetune", "--study", "x", "--seeds", "0"],
        ["finetune", "--study", "x", "--seeds", "many"],
        ["search", "quickstart", "--trials", "0"],
        ["search"],
        ["serach"],
        ["search", "quickstart", "--trails", "3"],
    ],
)
def test_a_wrong_option_is_refused_with_its_name(refused: Say, words: list[str]) -> None:
    assert "Usage:" in refused(*words)


def pick_of(tiny: Tiny) -> Path:
    outcome = Outcome.load(tiny.view)
    assert outcome is not None
    return tiny.view.runs.folder(outcome.tested["search-1"].deploy)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--mask", "conv:all"], ["conv"]),
        (["--mask", "attn:0-99"], ["beyond"]),
        (["--mask", "attn"], ["needs a depth", "attn:all"]),
        (["--mask", "mask.npy"], ["--layout", "auto_peft1"]),
        (["--mask", "mask.npy", "--layout", "auto"], ["unknown FairTune tuning method"]),
        (["--mask", "mask.npy", "--layout", "auto_peft1"], ["cannot read the mask vector"]),
        (["--trial", "99"], ["no finished trial of that number", "1, 2, 3, 4"]),
        (["--rule", "bets"], ["unknown selection rule", "did you mean 'best'"]),
    ],
)
def test_a_mask_or_trial_that_does_not_fit_the_study(
    refused: Say, tiny: Tiny, words: list[str], expected: list[str]
) -> None:
    said = refused("finetune", "--study", "tiny", "--out", tiny.place.out, *words,
                   where=tiny.place.out)  # fmt: skip
    for word in expected:
        assert word in said, said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--dataset", "nih"], ["nih"]),
        (["--dataset", "nih-cxr-64", "--split", "tst"], ["--split", "tst", "val"]),
        (["--dataset", "nih-cxr-64", "--metric", "auk"], ["unknown metric", "auk"]),
        (["--dataset", "nih-cxr-64", "--format", "xml"], ["--format", "csv"]),
        (["--dataset", "nih-cxr-64", "--attribute", "race"], ["race"]),
        (["--dataset", "nih-cxr-64", "--split", "train"], ["every row"]),
    ],
)
def test_an_evaluation_that_cannot_be_made_opens_nothing(
    refused: Say, tiny: Tiny, tmp_path: Path, words: list[str], expected: list[str]
) -> None:
    said = refused("evaluate", pick_of(tiny), "--out", tmp_path / "results", *words)
    for word in expected:
        assert word in said, said


def test_images_that_cannot_be_read_are_all_named(
    refused: Say, tiny: Tiny, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"no image")
    said = refused("predict", pick_of(tiny), folder)
    assert str(folder / "a.png") in said
    assert str(folder / "b.png") in said
    assert "no such file" in refused("predict", pick_of(tiny), tmp_path / "c.png")
    (folder / "t.csv").write_text("path\nx.png\n")
    assert "no column `image`" in refused("predict", pick_of(tiny), folder / "t.csv")
    (folder / "t.csv").write_text("image\nx.png\n")
    assert str(folder / "x.png") in refused("predict", pick_of(tiny), folder / "t.csv")


def test_a_file_to_write_is_looked_at_before_the_work(
    refused: Say, tiny: Tiny, tmp_path: Path
) -> None:
    run = pick_of(tiny)
    assert "a folder" in refused("models", "export", run, "--to", tmp_path)
    (tmp_path / "file").write_text("x")
    said = refused("models", "export", run, "--to", tmp_path / "file" / "x.safetensors")
    assert "--to" in said


def test_an_out_that_is_a_file_is_refused(refused: Say, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    said = refused("search", write_study(tmp_path / "in"), "--out", tmp_path / "file")
    assert "--out" in said


def test_a_damaged_checkpoint_is_refused(refused: Say, tiny: Tiny, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(pick_of(tiny), copy)
    (copy / "recipe.json").write_text("{")
    words = ("evaluate", copy, "--dataset", "nih-cxr-64")
    assert "recipe.json" in refused(*words)
    (copy / "recipe.json").write_text(json.dumps({"recipe": {}, "judged_by": {}}))
    assert "missing" in refused(*words)


def test_another_study_under_the_same_name_is_refused_with_the_differing_fields(
    refused: Say, tiny: Tiny, tmp_path: Path
) -> None:
    file = write_study(tmp_path / "in", seed=3, objectives=["worst_auprc@sex"])
    said = refused("search", file, "--out", tiny.place.out, where=tiny.place.out)
    for word in ("seed", "objectives", "worst_auprc@sex"):
        assert word in said, said


def test_a_storage_that_cannot_be_reached_is_one_message_without_the_password(
    tmp_path: Path,
) -> None:
    url = "postgresql://me:hunter2@localhost:1/db"
    words = ["search", write_study(tmp_path / "in"), "--storage", url]
    done = process([*words, "--out", tmp_path / "results"])
    out, err = done.communicate(timeout=120)
    assert done.returncode == 2, err
    assert "Traceback" not in err
    assert "hunter2" not in out + err
    assert "localhost:1" in err
    assert files(tmp_path / "results") == set()
