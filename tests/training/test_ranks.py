"""Several processes that share every batch of one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import session, tiny_recipe
from kit_tiny import MINIMUM

from fairtune.data.batch import Batch
from fairtune.experiment.gate import LEDGER
from fairtune.experiment.judge import Judge
from fairtune.experiment.stored import StoredRun
from fairtune.training.observer import Quiet
from fairtune.training.ranks import Ranks, agreed, current, joined
from fairtune.training.train import Job, train_one

PROGRAM = Path(__file__).with_name("ranks_program.py")


def batch(size: int) -> Batch:
    return Batch(
        row=torch.arange(size),
        image=torch.rand(size, 3, 2, 2),
        label=torch.arange(size),
        group=torch.arange(size)[:, None],
        weight=torch.rand(size),
        text=[str(i) for i in range(size)],
        copy=3,
    )


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_a_batch_without_rest(size: int, world: int) -> None:
    whole = batch(size)
    parts = [Ranks(rank, world).share(whole) for rank in range(world)]
    assert sorted(torch.cat([p.row for p in parts]).tolist()) == list(range(size))
    assert max(len(p) for p in parts) - min(len(p) for p in parts) <= 1
    for part in parts:
        assert part.text == [str(row) for row in part.row.tolist()]
        assert torch.equal(part.image, whole.image[part.row])
        assert torch.equal(part.weight, whole.weight[part.row])
        assert part.copy == 3
        assert part.target_mask is None


def test_one_process_has_everything_to_itself() -> None:
    alone = current()
    assert alone == Ranks()
    assert alone.alone
    whole, rows = batch(3), np.arange(4)
    assert alone.share(whole) is whole
    assert alone.agree("enough") == ("enough", False)
    assert alone.agree(None, due=True) == (None, True)
    assert alone.lead(5) == 5
    assert alone.all(5) == [5]
    assert agreed(lambda: 5) == 5
    assert alone.rows(rows).tolist() == rows.tolist()
    part = np.ones((4, 1), dtype=np.float32)
    assert alone.gather(part, 0.5) == (part, 0.5)
    value = torch.tensor(2.0)
    assert alone.total(value) is value
    with joined(session().settings) as found:
        assert found == alone


def card(folder: Path, **changes: Any) -> Path:
    """Write a recipe.json that `finetune --mask` reads."""
    path = folder / "recipe.json"
    judged = Judge.of(["auc"], {"min_group": MINIMUM}).to_json()
    recipe = tiny_recipe(**changes).to_json()
    path.write_text(json.dumps({"recipe": recipe, "judged_by": judged}))
    return path


def launched(
    folder: Path, *words: object, program: tuple[object, ...] = ("-m", "fairtune.cli.app")
) -> subprocess.CompletedProcess[str]:
    """Run `fairtune finetune --mask recipe.json` in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", *map(str, program)]
    command += ["finetune", "--mask", str(folder / "recipe.json"), "--out", str(folder / "out")]
    own = {"OMP_NUM_THREADS": "1", "FAIRTUNE_DEVICE": "cpu"}
    return subprocess.run(
        [*command, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, **own},
        timeout=240,
    )


def runs(folder: Path) -> list[StoredRun]:
    return [StoredRun(done.parent) for done in sorted((folder / "out").rglob("DONE"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"adaptation__mask": "block:last-2"},
        {
            "optim__class_weights": "balanced",
            "optim__mixup": 0.4,
            "optim__ema": 0.9,
            "fit__augment": "medical",
        },
        {
            "adaptation__mask": "block:last-2",
            "mitigations": [
                {"sinkhorn": {"attribute": "sex", "queue": 16}},
                {"group_dro": {"attribute": "sex"}},
                {"laftr": {"attribute": "age"}},
                {"domain_independent": {"attribute": "sex"}},
                {"bad_pairs": {"low": 1.0, "high": 1.0}},
            ],
        },
    ],
)
def test_two_processes_compute_what_one_computes(changes: dict[str, Any], tmp_path: Path) -> None:
    held = session()
    count = len(held.ground(tiny_recipe()).pack.rows("train"))
    # The last batch has one sample: there is nothing in it for the second process.
    size = next(b for b in range(40, count) if count % b == 1)
    card(tmp_path, optim__batch_size=size, **changes)
    done = launched(tmp_path, "--seeds", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint: ") == 1
    assert done.stderr.count("epoch 1/2") == 2
    assert len((tmp_path / "out" / LEDGER).read_text().splitlines()) == 1
    assert len(runs(tmp_path)) == 2
    # An adversary and weights that follow losses make more of a rounding than plain training does.
    near = 2e-3 if "mitigations" in changes else 2e-4
    for stored in runs(tmp_path):
        assert stored.card["provenance"]["processes"] == 2
        alone = train_one(Job(stored.recipe, stored.seeds), held, Quiet())
        for epoch, scores in zip(alone.epochs, stored.scores, strict=True):
            assert scores == pytest.approx(epoch.scores, abs=near)
        losses = [epoch.train_loss for epoch in alone.epochs]
        assert stored.epochs["train_loss"].tolist() == pytest.approx(losses, abs=near / 20)
        losses = [epoch.val_loss for epoch in alone.epochs]
        assert stored.epochs["val_loss"].tolist() == pytest.approx(losses, abs=near / 20)


@pytest.mark.slow
def test_a_linear_readout_is_solved_by_the_first(tmp_path: Path) -> None:
    card(tmp_path, adaptation__mask="none")
    done = launched(tmp_path, "--seeds", "1")
    assert done.returncode == 0, done.stderr
    (stored,) = runs(tmp_path)
    alone = train_one(Job(stored.recipe, stored.seeds), session(), Quiet())
    assert stored.scores[0] == pytest.approx(alone.epochs[0].scores, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("memory", ["fairtune: out of memory", "another process of this run has ended"]),
        ("SIGTERM", ["stopping after this step", "the final runs were stopped"]),
    ],
)
def test_what_ends_one_process_ends_all(fault: str, said: list[str], tmp_path: Path) -> None:
    card(tmp_path)
    done = launched(tmp_path, "--seeds", "1", program=(PROGRAM, fault))
    assert done.returncode != 0
    for words in said:
        assert words in done.stderr
    assert runs(tmp_path) == []
    assert not (tmp_path / "out" / LEDGER).exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_told_once(tmp_path: Path) -> None:
    hot = {"lr": 1e30, "head_lr": 1e30, "optimizer": "sgd", "clip_norm": 0.0, "warmup": 0.0}
    card(tmp_path, optim=hot, adaptation__mask="fullft")
    done = launched(tmp_path, "--seeds", "1")
    assert done.returncode != 0
    assert done.stderr.count("loss is not finite") == 1
    assert "has ended" not in done.stderr
