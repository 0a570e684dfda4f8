"""Run folders: whole or absent, read without torch, and what the judge saw."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kit import session, tiny_recipe
from kit_tiny import MINIMUM, Tiny

from fairtune import store
from fairtune.errors import StorageError
from fairtune.experiment.judge import Judge
from fairtune.experiment.run import Order, Stopped, Unwatched, run, run_together
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import DONE, StoredRun
from fairtune.experiment.tables import probabilities
from fairtune.training import checkpoint
from fairtune.training.observer import Epoch
from fairtune.training.recipe import Seeds
from fairtune.training.train import Job

JUDGE = Judge.of(["worst_auc@sex"], {"min_group": MINIMUM})


class Noted(Unwatched):
    """Keeps what it is told."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.seen: list[tuple[int, float]] = []
        self.stop_at = stop_at

    def epoch(self, report: Epoch, values):  # type: ignore[no-untyped-def]
        self.seen.append((report.number, values["worst_auc@sex"]))
        return "enough" if report.number == self.stop_at else None


def test_a_run_appears_whole_with_checksums_or_not_at_all(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    made = runs.write("abcd", lambda folder: (folder / "x").write_text("1") and None)
    assert made.folder == tmp_path / "runs" / "ab" / "abcd"
    recorded = json.loads((made.folder / DONE).read_text())
    assert recorded == {"x": [1, store.file_sha256(made.folder / "x")]}

    def broken(folder: Path) -> None:
        (folder / "x").write_text("2")
        raise RuntimeError("cut")

    for key in ("abcd", "abce"):
        with pytest.raises(RuntimeError, match="cut"):
            runs.write(key, broken)
    assert (made.folder / "x").read_text() == "1"
    assert runs.get("abce") is None
    assert sorted(p.name for p in made.folder.parent.iterdir()) == ["abcd"]


def test_a_folder_without_done_does_not_count_and_is_replaced(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    folder = runs.folder("abcd")
    folder.mkdir(parents=True)
    (folder / "old").write_text("half")
    assert runs.get("abcd") is None
    runs.write("abcd", lambda f: (f / "x").write_text("1") and None)
    assert not (folder / "old").exists()
    assert runs.get("abcd") is not None


def test_the_stored_validation_is_what_the_judge_saw(tmp_path: Path) -> None:
    opened = session(tmp_path)
    recipe = opened.resolve(tiny_recipe())
    noted = Noted()
    made = run(Job(recipe, Seeds()), opened, Runs(tmp_path), JUDGE, watcher=noted)
    assert isinstance(made, StoredRun)
    assert [number for number, _ in noted.seen] == [1, 2]
    for number, value in noted.seen:
        assert JUDGE.values(made.validation(number))["worst_auc@sex"] == value
    kept = made.validation()
    assert np.array_equal(kept.score, made.validation(2).score)
    ground = opened.ground(recipe)
    rows = ground.pack.rows("val")
    assert np.array_equal(kept.row, rows)
    assert np.array_equal(kept.label, ground.labels(rows))
    assert made.scores.shape == (2, len(rows), 1)
    assert np.array_equal(kept.score, probabilities(np.asarray(made.scores[1]), "binary"))
    assert made.operating["threshold"] == JUDGE.threshold(kept)
    assert made.weights_file is None
    assert not made.has_test
    assert (made.folder / "mask.txt").read_text().split() == list(recipe.adaptation.mask)
    assert list(made.table("val.parquet")["patient"]) == ground.patient_hashes(rows)
    again = run(Job(recipe, Seeds()), opened, Runs(tmp_path), JUDGE, watcher=(other := Noted()))
    assert isinstance(again, StoredRun)
    assert other.seen == []  # a run whose DONE exists is never run again


def test_a_stopped_run_leaves_nothing(tmp_path: Path) -> None:
    opened = session(tmp_path)
    job = Job(opened.resolve(tiny_recipe()), Seeds())
    made = run(job, opened, Runs(tmp_path), JUDGE, watcher=Noted(stop_at=1))
    assert isinstance(made, Stopped)
    assert (made.reason, made.epochs) == ("enough", 1)
    assert set(made.values) == {"worst_auc@sex"}
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert not Runs(tmp_path).folder(job.recipe.key(job.seeds)).exists()


def test_a_run_told_to_leave_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    opened = session(tmp_path)
    job = Job(opened.resolve(tiny_recipe(optim__epochs=3)), Seeds())
    whole = run(job, opened, Runs(tmp_path / "other"), JUDGE)

    class Leaving(Noted):
        def poll(self) -> str | None:
            return "SIGTERM" if len(self.seen) == 2 else None

    left = run(job, opened, Runs(tmp_path), JUDGE, watcher=Leaving())
    assert isinstance(left, Stopped)
    assert (left.reason, left.epochs) == ("SIGTERM", 2)
    noted = Noted()
    made = run(job, opened, Runs(tmp_path), JUDGE, watcher=noted)
    assert isinstance(made, StoredRun)
    assert isinstance(whole, StoredRun)
    assert [number for number, _ in noted.seen] == [1, 2, 3]
    assert np.array_equal(made.scores, whole.scores)
    # The logs of both attempts stay, the checkpoints do not.
    kept = sorted(str(p.relative_to(made.folder)) for p in made.folder.glob("attempts/*/*"))
    assert kept == ["attempts/0/log.jsonl", "attempts/1/log.jsonl"]
    assert '"epochs_done": 2' in (made.folder / "attempts/1/log.jsonl").read_text()


def test_runs_made_together_end_apart(tmp_path: Path) -> None:
    opened = session(tmp_path)
    small = {"adaptation__mask": "norm:last-1", "optim__batch_size": 128}
    jobs = [
        Job(opened.resolve(tiny_recipe(**small, optim__epochs=epochs)), Seeds(data=epochs))
        for epochs in (3, 1, 2)
    ]
    alone = run(jobs[1], opened, Runs(tmp_path), JUDGE)
    orders = [Order(jobs[0]), Order(jobs[1]), Order(jobs[2], Noted(stop_at=1))]
    ends = list(run_together(orders, opened, Runs(tmp_path), JUDGE))
    # What is stored comes first; what was stopped before what runs on.
    assert [number for number, _ in ends] == [1, 2, 0]
    by = dict(ends)
    assert isinstance(by[1], StoredRun)
    assert isinstance(alone, StoredRun)
    assert by[1].folder == alone.folder
    assert isinstance(by[2], Stopped)
    assert isinstance(by[0], StoredRun)
    assert by[0].scores.shape[0] == 3


def test_weights_asked_for_later_are_made_again_with_equal_scores(tmp_path: Path) -> None:
    opened = session(tmp_path)
    job = Job(opened.resolve(tiny_recipe()), Seeds(data=3, init=4))
    first = run(job, opened, Runs(tmp_path), JUDGE)
    assert isinstance(first, StoredRun)
    scores = np.array(first.scores)
    second = run(job, opened, Runs(tmp_path), JUDGE, keep_weights=True)
    assert isinstance(second, StoredRun)
    assert second.weights_file is not None
    assert np.array_equal(scores, second.scores)


@pytest.mark.parametrize("rule", ["auc", "nll"])
def test_the_best_epoch_is_picked_and_its_weights_kept(rule: str, tmp_path: Path) -> None:
    from fairtune.experiment.checkpoint import restore

    judge = Judge.of(["worst_auc@sex"], {"min_group": MINIMUM, "epoch": {"best": rule}})
    opened = session(tmp_path)
    picked = set()
    for seed in range(4):
        # Without decay the last epoch is often not the best.
        recipe = opened.resolve(
            tiny_recipe(optim__epochs=4, optim__schedule="constant", optim__lr=5e-3)
        )
        job = Job(recipe, Seeds(data=seed, init=seed))
        made = run(job, opened, Runs(tmp_path), judge, keep_weights=True)
        assert isinstance(made, StoredRun)
        utility = [judge.epoch_value(made.validation(n)) for n in range(1, 5)]
        best = utility.index(max(utility)) + 1
        assert judge.epoch_of(made) == made.operating["epoch"] == best
        picked.add(best)
        rows = opened.ground(recipe).pack.rows("val")
        again = restore(made, opened).score(rows)
        assert np.abs(again - made.scores[best - 1]).max() < 1e-5
        if best != 4:
            assert np.abs(again - made.scores[3]).max() > 1e-3
    assert picked != {4}


def test_damage_is_one_message_that_names_file_and_run(tiny: Tiny, tmp_path: Path) -> None:
    source = next(iter(tiny.view.runs.out.glob("runs/*/*/test.parquet"))).parent
    for name, read in {
        "recipe.json": lambda r: r.card,
        "operating.json": lambda r: r.operating,
        "val.parquet": lambda r: r.validation(),
        "val_scores.npy": lambda r: r.scores,
        "test.parquet": lambda r: r.test(),
    }.items():
        for content in (b"", b"{ not what it was", None):
            folder = tmp_path / "run"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source, folder)
            (folder / name).unlink()
            if content is not None:
                (folder / name).write_bytes(content)
            with pytest.raises(StorageError) as caught:
                read(StoredRun(folder))
            assert name in caught.value.what
            assert caught.value.where == folder


FULL = """
import subprocess, sys
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
from kit import session, tiny_recipe
from fairtune.errors import StorageError
from fairtune.experiment.judge import Judge
from fairtune.experiment.run import run
from fairtune.experiment.runs import Runs
from fairtune.training.recipe import Seeds
from fairtune.training.train import Job
import torch
torch.set_num_threads(1)
out = Path(sys.argv[1])
opened = session(out)
recipe = opened.resolve(tiny_recipe())
opened.ground(recipe)
judge = Judge.of(["auc"])
for size in sys.argv[3].split():
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", out], check=True)
    try:
        run(Job(recipe, Seeds()), opened, Runs(out), judge, keep_weights=True)
        print("fits")
    except StorageError as error:
        print(str(error).splitlines()[0].replace(str(out), "OUT"))
        print(sorted(p.name for p in out.rglob("*") if p.is_file()))
"""


@pytest.mark.slow
@pytest.mark.needs("small-disk")
def test_a_disk_that_fills_up_while_a_run_is_stored_leaves_nothing(tmp_path: Path) -> None:
    apart = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    here = str(Path(__file__).parent.parent)
    command = [*apart, sys.executable, "-c", FULL, str(tmp_path), here, "4k 12k 24k 36k 2m"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "fits"
    assert len(lines) >= 7
    for said, left in zip(lines[:-1:2], lines[1:-1:2]):
        assert said.startswith("OUT: the disk is full while writing run "), said
        # What is left is what the next attempt wants: the log.
        assert left in ("[]", "['log.jsonl']")
