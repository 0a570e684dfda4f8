"""A tiny study over PostgreSQL on a real SLURM: cancelled, taken up, warned, requeued, done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import sqlalchemy
from kit_slurm import Cluster, cluster
from kit_tiny import study_fields, write_study

from fairtune.study.ledger import Ledger
from fairtune.study.place import Place
from fairtune.study.rows import SEARCH, Row, roots

ROOT = Path(__file__).parents[3]
EPOCHS = 24


def search(
    slurm: Cluster, file: Path, place: Place, workers: int, *settings: str
) -> subprocess.Popen[str]:
    """Start `fairtune search` with workers on SLURM."""
    given = [word for setting in ("gpus=0", *settings) for word in ("--with", setting)]
    given += [f"--workers={workers}"]
    own = {"OMP_NUM_THREADS": "1", "FAIRTUNE_DEVICE": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "fairtune", "search", file, "--launcher=slurm",
         f"--out={place.out}", f"--storage={place.url}", *given],
        env={**os.environ, **slurm.environment, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def rows(place: Place) -> list[Row]:
    with Ledger.open(place.url, place.name) as ledger:
        return ledger.rows(SEARCH)


def in_mid_run(place: Place, already: Mapping[Path, int]) -> Callable[[], dict[Path, int]]:
    """Return what tells the epochs of runs of the search whose state has been kept since."""

    def look() -> dict[Path, int]:
        found = {}
        for state in place.out.glob("runs/*/*/attempts/*/state.json"):
            try:
                found[state] = int(json.loads(state.read_text())["epoch"])
            except (OSError, ValueError):
                continue
        return {path: epoch for path, epoch in found.items() if epoch > already.get(path, 1)}

    return look


@pytest.mark.slow  # a minute: seven processes that load torch, and SLURM's wait before a requeue
@pytest.mark.needs("slurm", "postgres")
def test_a_study_survives_what_a_cluster_does_to_it(tmp_path: Path, postgres_url: str) -> None:
    secret = str(sqlalchemy.engine.make_url(postgres_url).password)
    recipe = study_fields()["recipe"]
    recipe["optim"] |= {"epochs": EPOCHS}
    few = {"baselines": [], "confirm": {"top": 0, "seeds": 1}, "budget": {"trials": 2}}
    file = write_study(tmp_path / "in", name="on-slurm", recipe=recipe, **few)
    place = Place(tmp_path / "out", "on-slurm", postgres_url)
    with cluster() as slurm:
        # A plain batch file, cancelled in mid-run: the rows are given back at once.
        said, _ = search(slurm, file, place, 1, "through=sbatch").communicate(timeout=180)
        assert "next: fairtune watch on-slurm" in said
        job = next(iter(slurm.tasks())).partition("_")[0]
        slurm.wait(in_mid_run(place, {}), f"no state was kept: {said}")
        slurm.run("scancel", job)
        slurm.wait(lambda: set(slurm.tasks(job).values()) == {"CANCELLED"}, "it is cancelled")
        given_back, kept = rows(place), in_mid_run(place, {})()
        assert {(r.state, r.reason) for r in given_back} <= {
            ("failed", "stopped"), ("complete", None)
        }  # fmt: skip
        # The same study through submitit, warned in mid-run: the jobs come back and end it.
        again = search(slurm, file, place, 2, "through=submitit", "wait=true")
        slurm.wait(lambda: set(slurm.tasks()) - {f"{job}_0"}, "it is submitted")
        job = next(name for name in slurm.tasks() if name != f"{job}_0").partition("_")[0]
        slurm.wait(in_mid_run(place, kept), "no state was kept")
        slurm.run("scancel", "--signal=USR1", job)
        said, _ = again.communicate(timeout=240)
        assert again.returncode == 0, said
        ended = slurm.run("scontrol", "show", "job", job)
        shown = slurm.run("scontrol", "write", "batch_script", job, "-")
    assert "Restarts=1" in ended
    assert "search: 2 complete" in said
    found = rows(place)
    assert len(roots(found)) == 2
    assert not [row for row in found if row.state == "running"]
    assert {row.reason for row in found if row.state == "failed"} == {"stopped"}
    _went_on(place)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
    assert secret not in ended + shown + said


def _went_on(place: Place) -> None:
    """Check that runs that were stopped began where their state was."""
    begins = [
        json.loads(log.read_text().splitlines()[0]).get("epochs_done", 0)
        for log in place.out.glob("runs/*/*/attempts/*/log.jsonl")
        if log.parent.name != "0"
    ]
    assert begins
    assert max(begins) >= 1
