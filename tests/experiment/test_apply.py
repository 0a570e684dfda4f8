"""A checkpoint on other data, on images without labels, and as a plain state dict."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kit import session
from kit_tiny import Tiny

from fairtune import store
from fairtune.errors import DataError, ModelError, StudyError
from fairtune.experiment.apply import evaluate, predict
from fairtune.experiment.checkpoint import export_bytes, merged, open_run, restore
from fairtune.experiment.finetune import SEEN
from fairtune.experiment.gate import LEDGER, Gate
from fairtune.experiment.stored import DONE, StoredRun
from fairtune.experiment.tables import probabilities
from fairtune.study.outcome import Outcome


def pick_of(tiny: Tiny) -> StoredRun:
    outcome = Outcome.load(tiny.view)
    assert outcome is not None
    run = tiny.view.runs.get(outcome.tested["search-1"].deploy)
    assert run is not None
    return run


def scored(tiny: Tiny, out: Path, **changes):  # type: ignore[no-untyped-def]
    asked = {"dataset": "nih-cxr-64", "split": "test", "metrics": ["auc"], "command": "c"}
    return evaluate(pick_of(tiny), session(out), gate=Gate(out), **(asked | changes))


def test_its_own_test_rows_are_not_opened_a_second_time(tiny: Tiny, tmp_path: Path) -> None:
    found = scored(tiny, tmp_path)
    assert (found.dropped, found.openings) == (0, 0)
    assert np.array_equal(found.predictions.score, pick_of(tiny).test().score)
    assert not (tmp_path / LEDGER).exists()


def test_on_its_own_data_nothing_of_test_is_left_out(tiny: Tiny, tmp_path: Path) -> None:
    run = pick_of(tiny)
    found = scored(tiny, tmp_path, attributes=["age", "sex"])
    assert found.dropped == 0
    assert found.openings == 1
    stored = run.test()
    assert np.array_equal(found.predictions.row, stored.row)
    assert np.allclose(found.predictions.score, stored.score, atol=1e-6)
    assert scored(tiny, tmp_path, attributes=["age", "sex"]).openings == 2
    assert set(found.frozen["attribute"].dropna()) == {"sex", "age"}
    assert {"auc", "worst_auc"} <= set(found.refitted["metric"])


@pytest.mark.parametrize("split", ["train", "val"])
def test_on_its_own_data_everything_else_is(tiny: Tiny, tmp_path: Path, split: str) -> None:
    with pytest.raises(DataError, match="every row was in the checkpoint's training") as caught:
        scored(tiny, tmp_path, split=split)
    assert split in str(caught.value.where)
    assert not (tmp_path / LEDGER).exists()


def test_of_all_rows_only_test_rows_are_left(tiny: Tiny, tmp_path: Path) -> None:
    found = scored(tiny, tmp_path, split="all")
    ground = tiny.session.ground(tiny.view.base)
    kept = len(ground.pack.rows("train")) + len(ground.pack.rows("val"))
    assert found.dropped == kept
    assert np.array_equal(found.predictions.row, pick_of(tiny).test().row)


def test_data_that_share_patients_or_images_are_dropped_and_counted(
    tiny: Tiny, tmp_path: Path
) -> None:
    run = pick_of(tiny)
    whole = tiny.session.ground(tiny.view.base).pack
    train = whole.rows("train")
    hashes = tiny.session.ground(tiny.view.base).patient_hashes(train)
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    seen = pd.read_parquet(copy / SEEN)
    # A checkpoint that saw one patient, and one image of another.
    first, image = hashes[0], whole.image_hashes[train[-1]]
    assert hashes[-1] != first
    part = pd.DataFrame({"image": [image], "patient": [first]})
    assert set(part["patient"]) <= set(seen["patient"])
    part.to_parquet(copy / SEEN)
    found = evaluate(
        StoredRun(copy), session(tmp_path), dataset="nih-cxr-64", split="train",
        metrics=["auc"], gate=Gate(tmp_path), command="c",
    )  # fmt: skip
    same = np.isin(whole.image_hashes[train], [image])
    lost = int((np.array([h == first for h in hashes]) | same).sum())
    assert found.dropped == lost >= 2
    assert len(found.predictions) == len(train) - lost
    assert found.openings is None


def test_a_slip_of_the_pen_costs_no_opening(tiny: Tiny, tmp_path: Path) -> None:
    for changes in (
        {"metrics": ["auk"]},
        {"split": "tst"},
        {"dataset": "nih"},
        {"target": "abnorml"},
        {"attributes": ["race"]},
    ):
        with pytest.raises(Exception, match=r"unknown|no such|not "):
            scored(tiny, tmp_path, **changes)
    assert not (tmp_path / LEDGER).exists()


def test_a_checkpoint_that_does_not_say_what_it_saw_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(pick_of(tiny).folder, copy)
    (copy / SEEN).unlink()
    with pytest.raises(DataError, match="which rows it was trained on"):
        evaluate(
            StoredRun(copy), session(tmp_path), dataset="nih-cxr-64", split="all",
            metrics=["auc"], gate=Gate(tmp_path), command="c",
        )  # fmt: skip
    assert not (tmp_path / LEDGER).exists()


@pytest.fixture
def images(tiny: Tiny, tmp_path: Path) -> list[Path]:
    table = tiny.session.ground(tiny.view.base).pack.table
    folder = tmp_path / "images"
    with zipfile.ZipFile(table.folder / "nih_cxr_64.zip") as file:
        names = list(table.frame["image"].iloc[:3])
        file.extractall(folder, names)
    return [folder / name for name in names]


def test_images_without_labels_get_the_scores_of_the_pack(tiny: Tiny, images: list[Path]) -> None:
    run = pick_of(tiny)
    frame = predict(run, session(), images)
    assert list(frame.columns) == ["image", "score", "positive"]
    restored = restore(run, tiny.session)
    rows = np.arange(3)
    pack = restored.ground.pack
    gate = Gate(images[0].parent)
    opened = gate.open(pack.table.split_hash, ["d"], command="c")
    expected = probabilities(restored.score(rows, test_pass=opened), "binary")
    assert frame["score"].to_numpy() == pytest.approx(expected, abs=1e-6)
    assert list(frame["positive"]) == list(expected >= run.operating["threshold"])


def test_a_broken_image_is_named_with_all_others(tiny: Tiny, images: list[Path]) -> None:
    images[0].write_bytes(b"no image")
    images[2].write_bytes(images[2].read_bytes()[:60])
    with pytest.raises(DataError) as caught:
        predict(pick_of(tiny), session(), images[:1])
    assert caught.value.where == images[0]
    with pytest.raises(Exception, match="2 problems") as several:
        predict(pick_of(tiny), session(), images)
    assert str(images[0]) in str(several.value)
    assert str(images[2]) in str(several.value)


def test_an_export_loads_strictly_into_timm_and_scores_alike(tiny: Tiny, tmp_path: Path) -> None:
    import timm
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    run = pick_of(tiny)
    restored = restore(run, tiny.session)
    path = tmp_path / "model.safetensors"
    path.write_bytes(export_bytes(merged(restored), restored))
    net = timm.create_model("test_vit", num_classes=1, img_size=32)
    net.load_state_dict(load_file(path), strict=True)
    net.eval()
    ground = restored.ground
    rows = ground.pack.rows("val")
    loader = ground.loader(rows, 256, edit=None)
    with torch.inference_mode():
        (batch,) = loader.epoch(shuffle=False)
        logits = net(batch.image).numpy()
    assert np.abs(logits - restored.score(rows)).max() < 1e-4
    assert logits.std() > 0
    with safe_open(path, "pt") as file:
        said = file.metadata()
    assert said["architecture"] == "test_vit"
    assert (said["image_size"], said["num_classes"]) == ("32", "1")


def test_a_missing_or_damaged_checkpoint_is_one_message(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no finished run here"):
        open_run(tmp_path)
    with pytest.raises(ModelError, match="no finished run here"):
        open_run(tmp_path / "none" / "model.safetensors")
    copy = tmp_path / "run"
    shutil.copytree(pick_of(tiny).folder, copy)
    assert open_run(copy / "model.safetensors").folder == copy
    weights = (copy / "model.safetensors").read_bytes()
    for content in (weights[: len(weights) // 2], b"", b"x" * 100):
        (copy / "model.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match="weights cannot be read") as caught:
            restore(open_run(copy), tiny.session)
        assert caught.value.where == copy / "model.safetensors"
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="kept no weights") as caught:
        open_run(copy)
    assert "--mask" in str(caught.value.todo)


def test_tensors_of_another_recipe_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "run"
    shutil.copytree(pick_of(tiny).folder, copy)
    whole = load_file(copy / "model.safetensors")
    save_file({k: v for k, v in whole.items() if k != "head.bias"}, copy / "model.safetensors")
    with pytest.raises(ModelError, match="not those of the recipe") as caught:
        restore(open_run(copy), tiny.session)
    assert caught.value.found == ["head.bias"]
    save_file({**whole, "head.bias": whole["head.weight"] + 1}, copy / "model.safetensors")
    with pytest.raises(ModelError, match="has another shape"):
        restore(open_run(copy), tiny.session)


def test_every_file_of_a_final_run_is_in_its_checksums(tiny: Tiny) -> None:
    import json

    folder = pick_of(tiny).folder
    recorded = json.loads((folder / DONE).read_text())
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert set(recorded) == found - {DONE}
    assert {"test.parquet", SEEN, "model.safetensors", "recipe.json"} <= set(recorded)
    for name, (size, sha) in recorded.items():
        assert (folder / name).stat().st_size == size
        assert store.file_sha256(folder / name) == sha


def test_a_study_error_is_what_a_missing_pass_gives(tiny: Tiny) -> None:
    restored = restore(pick_of(tiny), tiny.session)
    rows = pick_of(tiny).test().row
    with pytest.raises(StudyError, match="locked"):
        restored.score(np.asarray(rows))
