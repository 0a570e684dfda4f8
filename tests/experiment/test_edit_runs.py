"""A run with an edit: kept with it, and applied wherever its model is used."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from kit import session, tiny_recipe
from kit_tiny import MINIMUM

from fairtune.config import shipped
from fairtune.editing.edit import Edit
from fairtune.editing.stored import read_edit, to_bytes
from fairtune.experiment.alone import finetune_alone
from fairtune.experiment.apply import evaluate, predict
from fairtune.experiment.checkpoint import restore
from fairtune.experiment.gate import Gate
from fairtune.experiment.judge import Judge
from fairtune.experiment.run import run
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.training.recipe import Seeds
from fairtune.training.train import Job

JUDGE = Judge.of(["worst_auc@sex"], {"min_group": MINIMUM})


def edit_file(folder: Path) -> Path:
    value = 0.3 * torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(1))
    path = folder / "edit.safetensors"
    path.write_bytes(to_bytes(Edit(value, 32)))
    return path


@pytest.fixture(params=["none", "norm:all"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> StoredRun:
    held = session(tmp_path)
    recipe = tiny_recipe(
        edit={"file": {"path": str(edit_file(tmp_path))}}, adaptation__mask=request.param
    )
    job = Job(held.resolve(recipe), Seeds())
    found = run(job, held, Runs(tmp_path), JUDGE, keep_weights=True)
    assert isinstance(found, StoredRun)
    # From here on the run is all there is.
    (tmp_path / "edit.safetensors").unlink()
    return found


def test_the_edit_is_kept_with_the_run(made: StoredRun, tmp_path: Path) -> None:
    assert made.edit is not None
    assert made.edit.sha == made.recipe.edit.sha  # type: ignore[attr-defined]
    assert made.costs["queries_used"] == 0


def test_the_restored_model_scores_edited_images(made: StoredRun, tmp_path: Path) -> None:
    restored = restore(made, session(tmp_path))
    ground = restored.ground
    rows = ground.val_rows(made.recipe)
    np.testing.assert_allclose(restored.score(rows), made.scores[-1], rtol=1e-4, atol=1e-5)
    plain = ground.loader(rows, 64, edit=None)
    (first, *_) = list(plain.epoch(shuffle=False))
    with torch.inference_mode():
        unedited = restored.net.head(restored.net.backbone.embed(first.image))
    assert not np.allclose(unedited.numpy(), made.scores[-1][:64], atol=1e-3)


def test_predictions_of_files_are_those_of_validation(made: StoredRun, tmp_path: Path) -> None:
    held = session(tmp_path)
    table = held.ground(made.recipe).pack.table.frame
    validation = made.validation()
    names = table["image"].iloc[validation.row[:5]].astype(str).tolist()
    paths = unpacked(names, tmp_path)
    found = predict(made, held, paths)
    np.testing.assert_allclose(found["score"], validation.score[:5], rtol=1e-4, atol=1e-5)


def unpacked(names: list[str], folder: Path) -> list[Path]:
    from PIL import Image

    archive = shipped.root("configs") / "datasets" / "nih_cxr_64" / "nih_cxr_64.zip"
    paths = []
    with zipfile.ZipFile(archive) as opened:
        inside = {Path(name).name: name for name in opened.namelist()}
        for name in names:
            path = folder / Path(name).name
            Image.open(io.BytesIO(opened.read(inside[path.name]))).save(path)
            paths.append(path)
    return paths


def test_finetune_takes_an_edit_from_a_file(tmp_path: Path) -> None:
    held = session(tmp_path)
    job = Job(held.resolve(tiny_recipe(adaptation__mask="none")), Seeds())
    plain = run(job, held, Runs(tmp_path), JUDGE, keep_weights=True)
    assert isinstance(plain, StoredRun)
    alone = finetune_alone(
        str(plain.folder / "recipe.json"),
        held,
        tmp_path,
        edit=str(edit_file(tmp_path)),
        seed=1,
        command="test",
    )
    assert alone.deploy.edit is not None
    assert alone.deploy.edit.sha == read_edit(tmp_path / "edit.safetensors").sha
    assert "edit from edit.safetensors" in alone.said
    assert not np.allclose(alone.deploy.raw_validation(1).score, plain.raw_validation(1).score)
    evaluated = evaluate(
        alone.deploy,
        held,
        dataset="nih-cxr-64",
        split="test",
        metrics=["auc"],
        gate=Gate(tmp_path),
        command="test",
        attributes=("view",),
    )
    test = alone.deploy.raw_test()
    same = np.searchsorted(test.row, evaluated.predictions.row)
    np.testing.assert_allclose(evaluated.predictions.score, test.score[same], rtol=1e-4, atol=1e-5)
