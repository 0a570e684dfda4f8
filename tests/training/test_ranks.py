"""Several processes that share every batch of one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import session, tiny_recipe
from kit_pairs import TRAIN, Pairs, shared
from kit_tiny import MINIMUM

from fairtune.data.batch import Batch
from fairtune.experiment.gate import LEDGER
from fairtune.experiment.judge import Judge
from fairtune.experiment.stored import StoredRun
from fairtune.training.observer import Quiet
from fairtune.training.ranks import Ranks, agreed, current, joined
from fairtune.training.recipe import Recipe
from fairtune.training.session import Session
from fairtune.training.train import Job, train_one

HERE = Path(__file__).parent
PROGRAM = HERE / "ranks_program.py"


def batch(size: int) -> Batch:
    return Batch(
        row=torch.arange(size),
        image=torch.rand(size, 3, 2, 2),
        label=torch.arange(size),
        group=torch.arange(size)[:, None],
        weight=torch.rand(size),
        text=torch.arange(size)[:, None],
        text_id=torch.arange(size),
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
        assert part.text is not None
        assert part.text_id is not None
        assert part.text[:, 0].tolist() == part.text_id.tolist() == part.row.tolist()
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


def card(folder: Path, recipe: Recipe) -> Path:
    """Write a recipe.json that `finetune --mask` reads."""
    path = folder / "recipe.json"
    judged = Judge.of(["auc"], {"min_group": MINIMUM}).to_json()
    path.write_text(json.dumps({"recipe": recipe.to_json(), "judged_by": judged}))
    return path


def torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a program in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    own = {"OMP_NUM_THREADS": "1", "FAIRTUNE_DEVICE": "cpu"}
    return subprocess.run(
        [*command, "--nproc-per-node", "2", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, **own},
        timeout=240,
    )


def runs(folder: Path) -> list[StoredRun]:
    return [StoredRun(done.parent) for done in sorted((folder / "out").rglob("DONE"))]


BLOCKS = {"adaptation__mask": "block:last-2"}
HOT = {"lr": 1e30, "head_lr": 1e30, "optimizer": "sgd", "clip_norm": 0.0, "warmup": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "plain": BLOCKS,
    "mixed": {
        "optim__class_weights": "balanced",
        "optim__mixup": 0.4,
        "optim__ema": 0.9,
        "fit__augment": "medical",
    },
    "mitigations": {
        **BLOCKS,
        "mitigations": [
            {"sinkhorn": {"attribute": "sex", "queue": 16}},
            {"group_dro": {"attribute": "sex"}},
            {"laftr": {"attribute": "age"}},
            {"domain_independent": {"attribute": "sex"}},
            {"bad_pairs": {"low": 1.0, "high": 1.0}},
        ],
    },
    # A first fit, its scores, both looks of a step and the followed loss are of all rows.
    "looks": {
        **BLOCKS,
        "mitigations": [
            {"jtt": {"epochs": 2, "upweight": 8.0}},
            {"sam": {"rho": 0.1}},
            {"swad": {"converge": 1}},
        ],
    },
    "readout": {"adaptation__mask": "none"},
    # One of the two learns the edit, the other waits for it.
    "edited": {
        **BLOCKS,
        "edit": {"dne": {"attribute": "sex", "mode": "fzoo", "queries": 33, "linf": 32}},
    },
    # The loss of a pair depends on the pairs of the other process.
    "pairs": {
        "usage": "contrastive",
        "adaptation__mask": "image.block:last-1,text.block:last-1,logit_scale",
        "mitigations": [
            {"sinkhorn": {"attribute": "sex", "score": "similarity"}},
            {"group_dro": {"attribute": "sex"}},
        ],
    },
    "sigmoid": {
        "usage": {"contrastive": {"loss_by": "sigmoid"}},
        "adaptation__mask": "image.block:last-1,text.norm:all,logit_scale",
        "optim__accumulate": 2,
    },
    "not finite": {
        "optim": HOT,
        "adaptation__mask": "fullft",
    },
}
# An adversary and weights that follow losses make more of a rounding than plain training does.
NEAR = {"mitigations": 1e-2, "looks": 1e-3, "readout": 1e-5}
SEEDS = {"plain": 2, "mixed": 2, "mitigations": 2}


@dataclass(frozen=True)
class Said:
    """What one of several commands left: its folder, exit codes by rank, words of all ranks."""

    folder: Path
    code: tuple[int, ...]
    out: str
    err: str


def case(name: str, pairs: Pairs) -> Recipe:
    """Return a recipe whose last batch has one sample: nothing for the second process."""
    changes = CASES[name]
    if "usage" in changes:
        return pairs.recipe(**changes, optim__batch_size=TRAIN - 1)
    if "optim" in changes:
        return tiny_recipe(**changes)
    count = len(session().ground(tiny_recipe()).pack.rows("train"))
    size = next(b for b in range(40, count) if count % b == 1)
    return tiny_recipe(optim__batch_size=size, **changes)


def all_launched(folder: Path, pairs: Pairs) -> dict[str, Said]:
    """Run `fairtune finetune` on every case, in two processes that are started once."""
    words = []
    for name in CASES:
        (folder / name).mkdir()
        card(folder / name, case(name, pairs))
        place = ["--mask", str(folder / name / "recipe.json"), "--out", str(folder / name / "out")]
        place += ["--data-root", str(pairs.data.parent)]
        words.append(["finetune", *place, "--seeds", str(SEEDS.get(name, 1))])
    file = folder / "commands.json"
    file.write_text(json.dumps(words))
    done = torchrun(HERE / "ranks_several.py", file)
    assert done.returncode == 0, done.stderr

    def read(number: int, kind: str) -> list[str]:
        return [(folder / f"{number}-{rank}.{kind}").read_text() for rank in (0, 1)]

    return {
        name: Said(
            folder / name,
            tuple(map(int, read(i, "code"))),
            "".join(read(i, "out")),
            "".join(read(i, "err")),
        )
        for i, name in enumerate(CASES)
    }


@pytest.mark.slow  # two processes that load torch, and nine recipes
def test_two_processes_compute_what_one_computes(tmp_path: Path) -> None:
    pairs = shared(tmp_path)
    held = pairs.session
    found = all_launched(tmp_path, pairs)
    diverged = found.pop("not finite")
    assert diverged.code[0] != 0
    assert diverged.err.count("loss is not finite") == 1
    assert "has ended" not in diverged.err
    for name, said in found.items():
        assert said.code == (0, 0), (name, said.err)
        seeds = SEEDS.get(name, 1)
        assert said.out.count("checkpoint: ") == 1, name
        assert said.err.count("epoch 1/2") == (0 if name == "readout" else seeds), name
        assert len((said.folder / "out" / LEDGER).read_text().splitlines()) == 1
        assert len(runs(said.folder)) == seeds
        for stored in runs(said.folder):
            assert_as_alone(stored, held, NEAR.get(name, 2e-4))


def assert_as_alone(stored: StoredRun, held: Session, near: float) -> None:
    """Check a run of two processes against the same run of one."""
    assert stored.card["provenance"]["processes"] == 2
    alone = train_one(Job(stored.recipe, stored.seeds), held, Quiet())
    for epoch, scores in zip(alone.epochs, stored.scores, strict=True):
        assert scores == pytest.approx(epoch.scores, abs=near)
    for kind in ("train_loss", "val_loss"):
        losses = [getattr(epoch, kind) for epoch in alone.epochs]
        assert stored.epochs[kind].tolist() == pytest.approx(
            losses, abs=max(near, 2e-4) / 20, rel=1e-6
        )
    assert stored.costs["images"] == alone.costs["images"]
    assert stored.mitigations.get("jtt") == alone.mitigations.get("jtt")
    followed, expected = (m.get("swad", {}) for m in (stored.mitigations, alone.mitigations))
    assert followed.get("losses") == pytest.approx(expected.get("losses"), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("memory", ["fairtune: out of memory", "another process of this run has ended"]),
        ("SIGTERM", ["stopping after this step", "the final runs were stopped"]),
    ],
)
def test_what_ends_one_process_ends_all(fault: str, said: list[str], tmp_path: Path) -> None:
    card(tmp_path, tiny_recipe())
    place = ["--mask", tmp_path / "recipe.json", "--out", tmp_path / "out"]
    done = torchrun(PROGRAM, fault, "finetune", *place, "--seeds", "1")
    assert done.returncode != 0
    for words in said:
        assert words in done.stderr
    assert runs(tmp_path) == []
    assert not (tmp_path / "out" / LEDGER).exists()
