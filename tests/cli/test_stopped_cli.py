"""`fairtune search` told to stop in the midst of an epoch, alone and in several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit_cli import here
from kit_tiny import study_fields, write_study

from fairtune.study.ledger import Ledger
from fairtune.study.place import Place
from fairtune.study.rows import BASELINE, SEARCH, Row

PROGRAM = Path(__file__).parents[1] / "training" / "ranks_program.py"
"""Breaks the third step of a run, of which the first epoch has five."""


def study(folder: Path, **changes: Any) -> Path:
    return write_study(
        folder,
        **{
            "baselines": {"of": ["linear_readout"], "lr_points": 1},
            "confirm": {"top": 0, "seeds": 1},
            "budget": {"trials": 1},
        }
        | changes,
    )


def search(
    file: Path, out: Path, *, fault: str | None = None, processes: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run `fairtune search`, with a fault in its last process."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone"]
        start += ["--nproc-per-node", str(processes)]
    start += ["-m", "fairtune"] if fault is None else [str(PROGRAM), fault]
    return subprocess.run(
        [*start, "search", str(file), "--out", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FAIRTUNE_DEVICE": "cpu"},
        timeout=400,
    )


def rows(out: Path, *phases: str) -> list[Row]:
    with Ledger.open(Place(out, "tiny").url, "tiny") as ledger:
        return [row for phase in phases or (SEARCH,) for row in ledger.rows(phase)]


def ends(out: Path) -> list[tuple[str, str | None]]:
    return [(row.state, row.reason) for row in rows(out)]


def log(out: Path, row: Row) -> list[dict[str, Any]]:
    attempts = sorted((Place(out, "tiny").runs.folder(row.key) / "attempts").iterdir())
    return [json.loads(s) for a in attempts for s in (a / "log.jsonl").read_text().splitlines()]


def alike(one: Path, other: Path) -> None:
    """Check that finished rows and all their scores are the same bit for bit."""
    phases = (SEARCH, BASELINE)
    found = [[r for r in rows(out, *phases) if r.state == "complete"] for out in (one, other)]
    assert [r.key for r in found[0]] == [r.key for r in found[1]]
    assert [r.values for r in found[0]] == [r.values for r in found[1]]
    for row in found[0]:
        files = [
            Place(out, "tiny").runs.folder(row.key) / "val_scores.npy" for out in (one, other)
        ]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow  # three processes that import torch
def test_a_search_told_to_stop_in_an_epoch_goes_on_from_that_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out, whole = study(tmp_path / "in"), tmp_path / "out", tmp_path / "whole"
    for fault in ("SIGTERM", "SIGUSR1"):
        done = search(file, out, fault=fault)
        assert done.returncode == 75, done.stderr
        assert f"stopped ({fault}); the same command goes on from here" in done.stdout
        assert "Traceback" not in done.stderr
    assert ends(out) == [("failed", "stopped")] * 2
    done = search(file, out)
    assert done.returncode == 0, done.stderr
    code, _, err = here(["search", file, "--out", whole], monkeypatch, capsys)
    assert code == 0, err
    alike(out, whole)
    said = log(out, rows(out)[-1])
    steps = [(line["event"], line["epochs_done"], line["steps"]) for line in said]
    assert steps == [("start", 0, 0), ("stopped", 0, 4), ("start", 0, 4), ("stopped", 0, 5),
                     ("start", 0, 5)]  # fmt: skip


def launched(
    file: Path, out: Path, code: int = 0, fault: str | None = None
) -> subprocess.CompletedProcess[str]:
    done = search(file, out, fault=fault, processes=2)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.slow  # torchrun is started four times, each time with two processes
def test_a_search_in_two_processes_outlives_whatever_ends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folds, a readout and a run that trains; killed, stopped, gone on with by two and by one."""
    file = study(tmp_path / "in", validation={"folds": 2, "min_group": {"n": 1}})
    whole, out, alone = tmp_path / "whole", tmp_path / "out", tmp_path / "alone"
    done = launched(file, whole)
    assert done.stdout.count("pick by") == 1
    done = launched(file, out, 1, "SIGKILL")
    assert "another process of this run has ended" in done.stderr
    assert ends(out) == [("failed", "stale")]
    launched(file, out, 1, "torchrun")
    assert ends(out) == [("failed", "stale"), ("failed", "stopped")]
    launched(file, out)
    alike(out, whole)
    code, _, err = here(["search", file, "--out", alone], monkeypatch, capsys)
    assert code == 0, err
    near(whole, alone)


def near(one: Path, other: Path) -> None:
    """Check that rows are the same to rounding, those of `one` made by two processes."""
    for a, b in zip(rows(one, SEARCH, BASELINE), rows(other, SEARCH, BASELINE), strict=True):
        assert (a.key, a.state) == (b.key, b.state) == (b.key, "complete")
        assert a.values == pytest.approx(b.values, abs=0.1)
    cards = [sorted((out / "runs").rglob("recipe.json")) for out in (one, other)]
    for mine, theirs in zip(*cards, strict=True):
        scores = [np.load(p.with_name("val_scores.npy")) for p in (mine, theirs) if trained(p)]
        if scores:
            assert scores[0] == pytest.approx(scores[1], abs=2e-4)
        made = [json.loads(p.read_text())["provenance"]["processes"] for p in (mine, theirs)]
        assert made == [2, 1]


def trained(card: Path) -> bool:
    return card.with_name("val_scores.npy").is_file()


@pytest.mark.slow  # torchrun with two processes
def test_a_run_that_one_process_cannot_prepare_fails_alone(tmp_path: Path) -> None:
    recipe = study_fields()["recipe"]
    recipe["optim"]["epochs"] = 1
    file = study(tmp_path / "in", recipe=recipe)
    done = launched(file, tmp_path / "out", fault="build")
    assert "failed: error" in done.stdout
    assert ends(tmp_path / "out") == [("failed", "error")]
    assert [r.state for r in rows(tmp_path / "out", BASELINE)] == ["complete"]
