"""Post-processing from the command line: every command says what it needs, or leaves out."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from kit import session, tiny_recipe
from kit_cli import here
from kit_tiny import MINIMUM

from fairtune.experiment.judge import Judge
from fairtune.experiment.run import run
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.training.recipe import Seeds
from fairtune.training.train import Job

METHODS = [
    {"group_temperature": {"attribute": "sex"}},
    {"threshold_optimizer": {"attribute": "sex"}},
]


@pytest.mark.parametrize("methods", [[one] for one in METHODS] + [METHODS])
def test_a_recipe_is_finetuned_and_deployed(
    methods: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened = session(tmp_path)
    recipe = opened.resolve(tiny_recipe(data__where={}, mitigations=methods, optim__epochs=1))
    judge = Judge.of(["worst_auc@sex"], {"min_group": MINIMUM})
    source = run(Job(recipe, Seeds()), opened, Runs(tmp_path), judge)
    assert isinstance(source, StoredRun)

    def ran(*words: object) -> tuple[str, str]:
        code, out, err = here(words, monkeypatch, capsys)
        assert code == 0, err
        return out, err

    given = source.folder / "recipe.json"
    out, _ = ran("finetune", "--mask", given, "--seeds", 1, "--out", tmp_path)
    (line,) = [line for line in out.splitlines() if line.startswith("checkpoint: ")]
    folder = Path(line.removeprefix("checkpoint: "))
    operating = json.loads((folder / "operating.json").read_text())
    assert [next(iter(step)) for step in operating["post"]] == [next(iter(m)) for m in methods]
    assert "has to be known of every patient" in (folder / "README.md").read_text()

    words = ["evaluate", folder, "--dataset", "nih-cxr-64", "--out", tmp_path]
    _, err = ran(*words, "--metric", "auc", "--format", "json")
    assert "note:" not in err

    table = opened.ground(recipe).pack.table
    name = table.frame["image"].iloc[0]
    with zipfile.ZipFile(table.folder / "nih_cxr_64.zip") as file:
        file.extract(name, tmp_path)
    out, err = ran("predict", folder, tmp_path / name)
    assert out.splitlines()[0] == "image,score,positive"  # the note is not in the table
    (note,) = [line for line in err.splitlines() if line.startswith("note: ")]
    assert "(by sex)" in note
    assert "the rule of all validation rows pooled" in note
    _, err = ran("models", "export", folder, "--to", tmp_path / "model.safetensors")
    assert "post-processing is no part of the network" in err
