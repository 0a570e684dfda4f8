"""The mask benchmark: its objectives have the scale they claim, and its figures reach the page."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import masks
import numpy as np
import pytest
from masks_page import section

from fairtune.adaptation.mask import Mask

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize("kind", [masks.sparse, masks.depth])
def test_objectives_have_mean_0_and_sd_1_over_uniform_masks(kind: object) -> None:
    rng = np.random.default_rng(0)
    quadratic = kind(4, rng)  # type: ignore[operator]
    values = [quadratic(rng.choice([-1.0, 1.0], 48)) for _ in range(6000)]
    assert np.mean(values) == pytest.approx(0, abs=0.06)
    assert np.std(values) == pytest.approx(1, abs=0.06)


def test_the_optimum_is_the_highest_value() -> None:
    rng = np.random.default_rng(1)
    pairs = np.triu(rng.standard_normal((10, 10)), 1)
    quadratic = masks.Quadratic.standard(rng.standard_normal(10), pairs + pairs.T)
    every = (quadratic(np.array(s)) for s in itertools.product([-1.0, 1.0], repeat=10))
    assert quadratic.best(rng) == pytest.approx(max(every))


def test_a_sparse_objective_is_the_formula_in_zeros_and_ones() -> None:
    # x in {0, 1} and signs s = 2 x - 1: differences between masks agree up to one scale.
    rng, again = np.random.default_rng(2), np.random.default_rng(2)
    quadratic = masks.sparse(2, rng)
    a, b = np.zeros(24), np.zeros((24, 24))
    for _ in range(48):
        i, j = again.choice(24, 2, replace=False)
        b[i, j] += again.standard_normal()
    a = again.standard_normal(24)
    points = np.random.default_rng(3).integers(0, 2, (50, 24)).astype(float)
    plain = np.array([a @ x + x @ b @ x for x in points])
    found = np.array([quadratic(2 * x - 1) for x in points])
    assert np.corrcoef(plain, found)[0, 1] == pytest.approx(1)


def test_half_of_the_variance_is_the_learning_rates() -> None:
    hump = masks.Hump.drawn(np.random.default_rng(0))
    values = [hump(place) for place in np.linspace(0, 1, 2001)]
    assert np.mean(values) == pytest.approx(0, abs=0.01)
    assert np.std(values) == pytest.approx(1, abs=0.01)
    assert max(values) == pytest.approx(hump(hump.centre), abs=0.01)
    problem = masks.Problem.drawn("depth-48+lr", 0)
    alone = masks.Problem.drawn("depth-48", 0)
    assert problem.quadratic(np.ones(48)) == alone.quadratic(np.ones(48))


def test_switches_and_units_are_in_one_order() -> None:
    problem = masks.Problem.drawn("sparse-24", 0)
    everything = Mask.of(problem.units.names, problem.units)
    value = problem.score(everything.units, {})
    assert value == pytest.approx(problem.quadratic(np.ones(24)) / problem.best)
    one = problem.units.names[5]
    signs = -np.ones(24)
    signs[4] = 1
    assert problem.score([one], {}) == pytest.approx(problem.quadratic(signs) / problem.best)


@pytest.mark.slow
def test_rows_are_added_to_a_file_and_reach_the_page(tmp_path: Path) -> None:
    out = tmp_path / "masks.json"
    for name in ("random", "auto"):
        command = [sys.executable, HERE / "masks.py", out, "--seeds", "2", "--trials", "4"]
        command += ["--problems", "sparse-24+lr", "--samplers", name, "--spaces", "bits", "topk"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert [row["sampler"] for row in found["rows"]] == ["random", "random", "auto", "auto"]
    assert len(found["commands"]) == 2
    assert str(tmp_path) not in out.read_text()
    found["rows"][0] |= {"score": 0.123, "se": 0.01, "seeds": 1}
    found["rows"][2] |= {"score": 0.5, "se": 0.02, "target": 0.56, "met": False}
    page = "\n".join(section(found))
    assert "| bits | random | 4 | 0.12 ± 0.01 (1) |" in page
    assert "| bits | auto | 4 | 0.50 ± 0.02 **≥ 0.56: missed** |" in page


@pytest.mark.slow
def test_auto_reaches_its_target_on_a_few_seeds(tmp_path: Path) -> None:
    rows = masks.measure(["depth-48"], ["auto", "random"], ["bits"], range(3), 100, lambda s: None)
    assert rows[0]["target"] == 0.70
    assert rows[0]["score"] >= 0.6 > rows[1]["score"] + 0.1
