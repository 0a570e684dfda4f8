"""The card of a model whose images are edited says so."""

from __future__ import annotations

from pathlib import Path

import torch
from kit import session, tiny_recipe
from kit_tiny import MINIMUM

from fairtune.editing.edit import Edit
from fairtune.editing.stored import to_bytes
from fairtune.experiment.alone import finetune_alone
from fairtune.experiment.judge import Judge
from fairtune.experiment.run import run
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import StoredRun
from fairtune.report.card import Card, text
from fairtune.training.recipe import Seeds
from fairtune.training.train import Job


def test_the_card_says_that_images_are_edited(tmp_path: Path) -> None:
    judge = Judge.of(["worst_auc@sex"], {"min_group": MINIMUM})
    held = session(tmp_path)
    job = Job(held.resolve(tiny_recipe(adaptation__mask="none")), Seeds())
    plain = run(job, held, Runs(tmp_path), judge, keep_weights=True)
    assert isinstance(plain, StoredRun)
    path = tmp_path / "sex.safetensors"
    path.write_bytes(
        to_bytes(Edit(torch.full((1, 8, 8), 3 / 255), 32, True, {"attribute": "sex"}))
    )
    made = finetune_alone(
        str(plain.folder / "recipe.json"), held, tmp_path, edit=str(path), seed=1, command="test"
    )
    told = text(Card.of_run(made.deploy, judge))
    assert "One input edit that was learned to hide sex (root mean square 3.0 / 255)" in told
    assert "is added to every image" in told
    assert str(tmp_path) not in told
    bare = finetune_alone(
        str(plain.folder / "recipe.json"), held, tmp_path, seed=1, command="test"
    )
    assert "input edit" not in text(Card.of_run(bare.deploy, judge))
