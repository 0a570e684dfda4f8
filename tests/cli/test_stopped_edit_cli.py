"""`fairtune search` told to stop while the edit of a trial is learned."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kit_cli import process
from kit_tiny import study_fields, write_study

from fairtune.experiment.stored import PAID, USED
from fairtune.study.ledger import Ledger
from fairtune.study.place import Place
from fairtune.study.rows import SEARCH, Row

QUERIES = 400
EDIT = {"dne": {"mode": "scalar_normalised", "queries": QUERIES, "noise_resolution": 8}}


def study(folder: Path) -> Path:
    recipe = study_fields()["recipe"] | {"adaptation": {"mask": "none"}, "edit": EDIT}
    return write_study(
        folder,
        recipe=recipe,
        space={"optim.l2": {"float": [1e-3, 1e-1], "log": True}},
        baselines={"of": ["linear_readout"], "lr_points": 1},
        confirm={"top": 0, "seeds": 1},
        budget={"trials": 2},
    )


def search(file: Path, out: Path) -> subprocess.Popen[str]:
    return process(["search", file, "--out", out], FAIRTUNE_CACHE=str(out / "cache"))


def rows(out: Path) -> list[Row]:
    with Ledger.open(Place(out, "tiny").url, "tiny") as ledger:
        return list(ledger.rows(SEARCH))


def states(out: Path) -> list[Path]:
    return list((out / "cache" / "edits").glob(".*.state/*.safetensors"))


def until(started: subprocess.Popen[str], words: str) -> None:
    assert started.stderr is not None
    said: list[str] = []
    for line in started.stderr:
        said.append(line)
        if words in line:
            return
    raise AssertionError(f"never said '{words}': {''.join(said)}")


def ended(started: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = started.communicate(timeout=400)
    assert "Traceback" not in err
    return out, err


def kept(out: Path, name: str) -> dict[str, Any]:
    found = {p.parent.parent.name: p for p in (out / "runs").rglob(name)}
    return {p.parent.name: p.read_bytes() for p in found.values()}


@pytest.mark.slow  # three processes that import torch and make their own pack
def test_the_row_is_given_back_and_the_search_for_the_edit_gone_on_with(tmp_path: Path) -> None:
    file, out, whole = study(tmp_path / "in"), tmp_path / "out", tmp_path / "whole"
    first = search(file, out)
    until(first, "learning an edit")
    first.send_signal(signal.SIGTERM)
    said, err = ended(first)
    assert first.returncode == 75, err
    assert "stopped (SIGTERM); the same command goes on from here" in said
    assert [(row.state, row.reason) for row in rows(out)] == [("failed", "stopped")]
    assert len(states(out)) == 1
    for folder in (out, whole):
        again = search(file, folder)
        _, err = ended(again)
        assert again.returncode == 0, err
    assert states(out) == []
    done = [[r for r in rows(folder) if r.state == "complete"] for folder in (out, whole)]
    assert [r.values for r in done[0]] == [r.values for r in done[1]]
    assert kept(out, "val_scores.npy") == kept(whole, "val_scores.npy")
    assert kept(out, "edit.safetensors") == kept(whole, "edit.safetensors")
    for found in done:
        used, paid = ([row.attrs[name] for row in found] for name in (USED, PAID))
        assert used[0] == used[1] >= QUERIES - 10
        assert paid == [used[0], 0]
