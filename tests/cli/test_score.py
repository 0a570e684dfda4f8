"""`fairtune score` from the command line."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from fairtune.cli.score import register
from fairtune.errors import FairtuneError

APP = typer.Typer()
register(APP)
RUN = CliRunner()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 200)
    score = (0.3 * label + 0.7 * rng.random(200)).round(3)
    lines = ["y,p,age,sex,who"]
    for i in range(200):
        age, sex = ("<60", "60+")[rng.integers(2)], ("F", "M")[rng.integers(2)]
        lines.append(f"{label[i]},{score[i]},{age},{sex},{i // 2}")
    (tmp_path / "a.csv").write_text("\n".join(lines))
    return tmp_path / "a.csv"


def run(path: Path, *more: str) -> str:
    words = [str(path), "--label", "y", "--score", "p", "--metric", "auc", *more]
    done = RUN.invoke(APP, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def test_json_has_the_promised_rows(path: Path) -> None:
    rows = json.loads(run(path, "--attribute", "age", "--patient", "who", "--format", "json"))
    assert all(
        {"metric", "attribute", "group", "value", "low", "high", "n", "positives"} <= set(row)
        for row in rows
    )
    overall = next(row for row in rows if row["attribute"] is None)
    assert (overall["n"], overall["patients"]) == (200, 100)
    worst = next(row for row in rows if row["metric"] == "worst_auc")
    groups = [row["value"] for row in rows if row["group"]]
    assert worst["group"] is None
    assert worst["value"] == min(groups)


def test_csv_is_the_same_table(path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run(path, "--attribute", "age", "--format", "csv"))))
    again = json.loads(run(path, "--attribute", "age", "--format", "json"))
    assert [r["metric"] for r in rows] == [r["metric"] for r in again]
    assert float(rows[0]["value"]) == pytest.approx(again[0]["value"])


def test_tables_show_groups_crossings_floor_and_threshold(path: Path) -> None:
    text = run(path, "--attribute", "age", "--attribute", "sex", "--metric", "eo_diff")
    for word in ("60+ * F", "n=", "worst", "floor 95 %", "eo_diff", "cross-fitted", "--patient"):
        assert word in text
    assert run(path).count("auc") >= 1


def test_threshold_words_reach_the_scoring(path: Path) -> None:
    def tpr(*more: str) -> float:
        rows = json.loads(run(path, "--metric", "tpr", "--format", "json", *more))
        return float(next(row["value"] for row in rows if row["metric"] == "tpr"))

    assert tpr("--threshold-rule", "fixed=0.0") == 1
    assert tpr("--threshold-rule", "fixed=2") == 0
    frozen = tpr("--threshold-rule", "sensitivity=0.9", "--threshold-from", str(path))
    assert frozen == pytest.approx(0.9, abs=0.02)
    text = run(path, "--metric", "tpr", "--threshold-from", str(path))
    assert "fitted on a.csv" in text


def test_group_minimum_is_read(path: Path) -> None:
    rows = json.loads(run(path, "--attribute", "age", "--format", "json", "--min-group", "n=500"))
    assert all(row["value"] is None for row in rows if row["attribute"])


def test_faults_are_raised_for_the_app_to_print(path: Path) -> None:
    with pytest.raises(FairtuneError, match="no such column"):
        run(path, "--attribute", "race")
    with pytest.raises(FairtuneError, match="did you mean 'youden'"):
        run(path, "--threshold-rule", "yuden")


def test_importing_the_command_loads_nothing_heavy() -> None:
    code = (
        "import fairtune.cli.score, sys\n"
        "print(*sorted({'numpy', 'pandas', 'scipy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
