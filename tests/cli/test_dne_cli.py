"""`fairtune dne`: what attributes are read, an edit learned and assessed, an edit's file shown."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from kit import session, tiny_recipe
from kit_cli import files, here, process

from fairtune.editing.edit import Edit
from fairtune.editing.stored import read_edit, to_bytes
from fairtune.evaluation.rules import GroupMinimum
from fairtune.experiment.assess import assess
from fairtune.experiment.gate import LEDGER
from fairtune.experiment.probing import probe_attributes

DATA = ["--dataset", "nih-cxr-64", "--model", "test_vit", "--image-size", 32, "--weights", "none"]
TINY = [*DATA, "--where", "view=AP"]
LEARN = ["dne", "learn", *TINY, "--attribute", "sex", "--min-group", "n=5,positives=2,negatives=2"]
Patch, Capture = pytest.MonkeyPatch, pytest.CaptureFixture[str]


def learn(to: Path, *words: object, mode: str = "two_point", queries: int = 16) -> list[object]:
    return [*LEARN, "--mode", mode, "--queries", queries, "--to", to, *words]


def test_every_attribute_is_probed(monkeypatch: Patch, capsys: Capture) -> None:
    words = ["dne", "probe", *DATA, "--format", "json"]
    code, out, err = here(words, monkeypatch, capsys)
    assert code == 0, err
    told = json.loads(out)
    assert [one["attribute"] for one in told] == ["sex", "age", "view"]
    recipe = tiny_recipe(
        adaptation__mask="none", data__where={}, data__attributes=["sex", "age", "view"]
    )
    for one, found in zip(told, probe_attributes(recipe, session(), ["sex", "age", "view"])):
        assert one["auc"]["value"] == found.auc.value
        assert sum(one["val"].values()) == 141
        low, high = one["auc"]["low"], one["auc"]["high"]
        assert one["reading"].startswith("cannot be told") == (low <= 0.5 <= high)


def test_a_crossing_is_probed_in_a_table(monkeypatch: Patch, capsys: Capture) -> None:
    words = ["dne", "probe", *DATA, "--attribute", "sex*view"]
    code, out, err = here(words, monkeypatch, capsys)
    assert code == 0, err
    assert "M * PA" in out
    assert "be told from .5" in out


def test_an_edit_is_learned_assessed_and_written(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    to = tmp_path / "made" / "sex.safetensors"
    code, out, err = here(
        learn(to, "--set", "lambda_sa=2", "--set", "mode.two_point.lr=0.02"), monkeypatch, capsys
    )
    assert code == 0, err
    assert files(tmp_path) == {f"made/sex.{end}" for end in ("safetensors", "html", "json")}
    edit = read_edit(to)
    rule = edit.about["rule"]["dne"]
    assert (rule["lambda_sa"], rule["mode"]["two_point"]["lr"]) == (2, 0.02)
    assert "learning an edit, loss" in err
    assert "s left" in err
    assert f"next: fairtune finetune --study NAME --edit {to}" in out
    told = json.loads(to.with_suffix(".json").read_text())
    held = session()
    rules = {
        "attribute": "sex",
        "mode": {"two_point": {"lr": 0.02}},
        "queries": 16,
        "lambda_sa": 2,
    }
    data = {**tiny_recipe().data.to_json(), "attributes": ["sex"]}
    asked = held.resolve(tiny_recipe(data=data, adaptation__mask="none", edit={"dne": rules}))
    found = assess(asked, held, minimum=GroupMinimum(5, 2, 2))
    for one, arm in zip(told["arms"], found.arms):
        assert one["arm"] == arm.name
        assert one["figures"]["auc"]["value"] == pytest.approx(arm.figures["auc"].value)
        assert f"{arm.figures['sa_auc_retrained'].value:.3f}" in out


def test_nothing_written_or_printed_names_a_patient_or_a_folder(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    to = tmp_path / "sex.safetensors"
    code, out, _ = here(learn(to), monkeypatch, capsys)
    assert code == 0
    held = session()
    frame = held.table(tiny_recipe()).frame
    names = set(frame["image"].astype(str)) | set(frame["patient"].astype(str))
    names = {name for name in names if len(name) > 3}
    assert names
    page = to.with_suffix(".html").read_text()
    body = page.rpartition("<script>")[0].rpartition("<script>")[0]
    for content in (body, to.with_suffix(".json").read_text()):
        assert str(tmp_path) not in content
        assert str(held.settings.cache) not in content
        assert not [name for name in names if name in content]
        assert "data:image/png" not in content
    assert str(held.settings.cache) not in out


def test_images_are_shown_when_asked(tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    to = tmp_path / "sex.safetensors"
    code, _, err = here(learn(to, "--show-images", mode="random"), monkeypatch, capsys)
    assert code == 0, err
    page = to.with_suffix(".html").read_text()
    assert page.count('<img src="data:image/png') == 8
    assert "This page shows images of patients" in page
    assert "data:image" not in to.with_suffix(".json").read_text()


def test_test_rows_are_opened_once_and_written_down(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    words = learn(tmp_path / "e.safetensors", "--split", "test", "--out", tmp_path, mode="random")
    code, out, err = here(words, monkeypatch, capsys)
    assert code == 0, err
    (line,) = (tmp_path / LEDGER).read_text().splitlines()
    assert json.loads(line)["command"].startswith("fairtune dne learn")
    assert "AUC with 95 % interval, test" in out


def test_data_and_model_may_come_from_a_recipe(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    card = tmp_path / "recipe.json"
    recipe = session().resolve(tiny_recipe()).to_json()
    card.write_text(json.dumps({"recipe": recipe, "judged_by": {}}))
    few = ["--min-group", "n=5,positives=2,negatives=2"]
    made = {}
    for name, words in {"recipe": ["--recipe", card], "words": TINY}.items():
        to = tmp_path / f"{name}.safetensors"
        asked = ["dne", "learn", *words, "--attribute", "sex", "--mode", "random", *few]
        code, _, err = here([*asked, "--to", to], monkeypatch, capsys)
        assert code == 0, err
        made[name] = to.read_bytes()
    assert made["recipe"] == made["words"]
    code, _, err = here(["dne", "probe", "--recipe", card, "--model", "x"], monkeypatch, capsys)
    assert code == 2
    assert "those of the recipe" in err


def test_what_is_in_a_file_is_shown(tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    path = tmp_path / "e.safetensors"
    edit = Edit(torch.full((1, 8, 8), 2 / 255), 32, True, {"attribute": "sex", "mode": "white"})
    path.write_bytes(to_bytes(edit))
    code, out, _ = here(["dne", "show", path], monkeypatch, capsys)
    assert code == 0
    for words in ("1 x 8 x 8, for images of 32 px", "2.000 / 255", "white", edit.sha):
        assert words in out
    torch.save({"noise": torch.zeros(16, 16)}, tmp_path / "dne_layer.pt")
    code, out, _ = here(["dne", "show", tmp_path / "dne_layer.pt"], monkeypatch, capsys)
    assert code == 0
    assert "model and attribute are unknown" in out
    assert "edited images are not cut" in out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--mode": "two_points"}, ["unknown edit mode", "did you mean 'two_point'?"]),
        ({"--set": "lambda_s=1"}, ["lambda_s", "did you mean 'lambda_sa'?"]),
        ({"--set": "lambda_sa=much"}, ["lambda_sa"]),
        ({"--set": "mode.gezo.samples=3"}, ["field of another mode", "mode.two_point.FIELD"]),
        ({"--set": "objective=unifrm"}, ["did you mean 'uniform'?"]),
        ({"--set": "noise_resolution=64"}, ["finer than the image"]),
        ({"--attribute": "sexx"}, ["sexx", "did you mean 'sex'?"]),
        ({"--attribute": "view"}, ["fewer than two groups"]),
        ({"--dataset": "nowhere"}, ["nowhere"]),
        ({"--split": "train"}, ["unknown rows", "val, test"]),
        ({"--min-group": "n=many"}, ["KEY=WHOLE NUMBER"]),
        ({"--to": "edit.pt"}, ["ends in .safetensors"]),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    change: dict[str, str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: Patch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = learn(Path("e.safetensors"))
    for option, value in change.items():
        if option in asked:
            asked[asked.index(option) + 1] = value
        else:
            asked += [option, value]
    code, out, err = here(asked, monkeypatch, capsys)
    assert code == 2, out
    assert "Traceback" not in err
    for word in words:
        assert word in err, err
    assert files(tmp_path) == set()


def test_neither_data_nor_recipe_is_refused(monkeypatch: Patch, capsys: Capture) -> None:
    code, _, err = here(["dne", "probe", "--model", "test_vit"], monkeypatch, capsys)
    assert code == 2
    assert "--dataset: data and model are not named" in err


def test_a_file_that_cannot_be_written_is_told_before_any_work(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = here(learn(tmp_path / "file" / "e.safetensors"), monkeypatch, capsys)
    assert code == 2
    assert "cannot make the folder" in err
    assert "learning" not in err


def test_a_file_without_an_edit_is_refused(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    code, _, err = here(["dne", "show", tmp_path / "no.safetensors"], monkeypatch, capsys)
    assert code == 2
    assert "no such edit file" in err


@pytest.mark.slow
def test_ctrl_c_keeps_the_state_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """Three processes that load torch, one of them told to leave in the midst of its search."""
    words = learn(tmp_path / "whole.safetensors", mode="two_point", queries=480)
    whole = process(words, FAIRTUNE_CACHE=str(tmp_path / "one"))
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    words = learn(tmp_path / "cut.safetensors", mode="two_point", queries=480)
    cut = process(words, FAIRTUNE_CACHE=str(tmp_path / "two"))
    assert cut.stderr is not None
    begun = time.monotonic()
    for line in cut.stderr:
        assert time.monotonic() - begun < 300
        if line.startswith("learning an edit, loss"):
            break
    cut.send_signal(signal.SIGINT)
    _, err = cut.communicate(timeout=300)
    assert cut.returncode == 130, err
    assert "what was done of the search is kept" in err
    assert not list(tmp_path.glob("cut.*"))
    again = process(words, FAIRTUNE_CACHE=str(tmp_path / "two"))
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    first = next(line for line in err.splitlines() if line.startswith("learning an edit"))
    assert not first.split(": ")[1].startswith("0/"), err
    assert (tmp_path / "cut.safetensors").read_bytes() == (
        tmp_path / "whole.safetensors"
    ).read_bytes()
