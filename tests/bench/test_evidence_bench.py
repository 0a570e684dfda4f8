"""The benches of intervals and of confirming run, and their sections can be written."""

from __future__ import annotations

from pathlib import Path

import covering
import evidence_page
import numpy as np
import picking
import pytest

from fairtune.data.spec import load_spec
from fairtune.evaluation.predictions import Attribute


def test_a_cell_of_the_coverage_bench_is_measured_and_shown() -> None:
    cell = covering.Cell(2, False, 40, 0.5, True)
    assert cell in covering.cells()
    assert covering.Cell(2, True, 40, 0.1, False) not in covering.cells()
    rows = covering.tallies(cell, 4, 2, 0)
    assert {(r["metric"], r["kind"]) for r in rows} == {
        (metric, kind) for metric in covering.METRICS for kind in evidence_page.KINDS
    }
    assert all(0 <= r["coverage"] <= 1 and r["width"] > 0 for r in rows)
    assert [r for r in rows if "ratio" in r] == [r for r in rows if r["kind"] in ("worst", "gap")]
    found = {"rows": rows, "tables": 4, "compared": 2, "seed": 0, "command": "x", "commit": None}
    page = "\n".join(evidence_page.coverage(found))
    assert "| worst group | auc | clustered |" in page


def test_the_truth_of_a_cell_is_what_very_many_rows_give() -> None:
    cell = covering.Cell(2, False, 40_000, 0.5, True)
    p = covering.table(cell, np.random.default_rng(0))
    for metric, truth in cell.truth.items():
        found = [estimate.value for estimate in covering.estimates(p, metric)]
        assert np.allclose(found, truth, atol=0.02), metric


def pool(tmp_path: Path) -> picking.Pool:
    rng = np.random.default_rng(0)
    rows, recipes = 900, 20
    label = rng.integers(0, 2, rows)
    skill = rng.uniform(0.3, 1.5, (recipes, 1, 1))
    scores = 1 / (1 + np.exp(-(skill * label + rng.standard_normal((recipes, 6, rows)))))
    file = tmp_path / "pool.npz"
    np.savez_compressed(
        file,
        scores=scores.astype(np.float32),
        label=label,
        patient=np.arange(rows),
        codes=rng.integers(0, 2, rows),
        names=np.array(["<60", "60+"]),
        about='{"command": "made"}',
    )
    return picking.Pool.read(file)[0]


def test_the_data_set_of_the_pool_is_one(tmp_path: Path) -> None:
    split = load_spec(str(picking.described(tmp_path))).split
    assert split.fractions is not None
    assert (split.fractions.test, split.stratify) == (0.0, "malignant")
    assert split.fractions.train * picking.LESIONS == pytest.approx(picking.TRAINED)


def test_a_repeat_of_the_confirming_bench_is_played_and_shown(tmp_path: Path) -> None:
    held = pool(tmp_path)
    rows = []
    for what in (picking.WORST, picking.FIXED):
        each = [picking.played(held, what, 3, 2, repeat) for repeat in range(2)]
        assert each[0] == picking.played(held, what, 3, 2, 0)
        assert each[0] != each[1]
        rows.append({"objective": what, "way": "w", "repeats": 2, **picking.summary(each)})
    found = {"rows": rows, "pool": {"command": "made"}, "command": "x", "commit": None}
    found |= {"recipes": 20, "seeds": 6, "validation": 400, "truth": 500}
    page = "\n".join(evidence_page.picking(found))
    assert f"| {evidence_page.NAMES['naive']} |" in page


def test_the_fixed_group_is_read_alone(tmp_path: Path) -> None:
    held = pool(tmp_path)
    every = np.arange(len(held.label))
    table = held.table(0, 0, every, picking.FIXED)
    assert isinstance(table.attribute("age"), Attribute)
    assert len(table) == int(held.in_group.sum())
    whole = held.table(0, 0, every, picking.WORST)
    assert picking.value(whole, picking.WORST) <= picking.value(table, picking.FIXED)
