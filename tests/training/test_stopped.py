"""A run that is told to stop keeps its state at once, and ends as if it had not been told."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import session, tiny_recipe
from kit_stepwise import EVERY, SEEDS, Killed, Watching, equal

from fairtune.errors import Interrupted
from fairtune.training import checkpoint
from fairtune.training import cuts as reckoning
from fairtune.training.checkpoint import LOG, STATE, Checkpoints
from fairtune.training.lane import Lane
from fairtune.training.session import Session
from fairtune.training.train import Job, RunResult, train, train_one

SMALL = {"optim__epochs": 2, "optim__batch_size": 64, "adaptation__mask": "attn:last-1"}
SCORED = 3
"""Batches in which the fitted rows are scored."""

NEVER = 1e-9
"""Share of the time that lets nothing be written but where a run is told to stop."""


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


def job(
    held: Session,
    folder: Path | None = None,
    observer: Any = None,
    share: float = NEVER,
    **changes: Any,
) -> Job:
    recipe = held.resolve(tiny_recipe(**SMALL | changes))
    kept = None if folder is None else Checkpoints(folder, "ab12", "last", share=share)
    return Job(recipe, SEEDS, observer or Watching(), kept)


@dataclasses.dataclass
class Whole:
    """A run that is stopped nowhere, and how often it asks whether to stop."""

    held: Session
    changes: dict[str, Any]

    def __post_init__(self) -> None:
        watching = Watching()
        self.result = train_one(job(self.held, observer=watching, **self.changes), self.held)
        self.polls = watching.polls

    def compare(self, folder: Path, *places: int) -> None:
        """Stop the same run wherever `places` say, counted from its start, and compare both."""
        before = 0
        for place in places:
            stopped(self.held, folder, place - before, **self.changes)
            before = place - 1  # what it asked last it asks again
        watching = Watching()
        again = train_one(job(self.held, folder, watching, **self.changes), self.held)
        equal(again, self.result)
        # Rows that were being scored are scored anew.
        assert 0 <= watching.polls - (self.polls - before) < SCORED
        assert [report.number for report in watching.seen] == [1, 2]
        said = log(folder)
        assert [line["event"] for line in said] == ["start", "stopped"] * len(places) + ["start"]
        assert all(line["kept"] for line in said if line["event"] == "stopped")
        assert [s["steps"] for s in said[1::2]] == [s["steps"] for s in said[2::2]]


def log(folder: Path) -> list[dict[str, Any]]:
    """Return what the logs of all attempts say, in their order."""
    attempts = sorted((folder / "attempts").iterdir(), key=lambda path: int(path.name))
    return [json.loads(line) for a in attempts for line in (a / LOG).read_text().splitlines()]


def stopped(held: Session, folder: Path, at: int, **changes: Any) -> RunResult:
    """Stop a run where it asks for the time of number `at`."""
    watching = Watching(stops=at)
    result = train_one(job(held, folder, watching, **changes), held)
    assert (result.stopped, result.judged) == ("enough", False)
    assert watching.polls == at
    torch.rand(5)
    return result


RECIPES: dict[str, dict[str, Any]] = {
    "direct": {},
    "lora": {"adaptation": {"mask": "attn:last-2", "method": {"lora": {"dropout": 0.2}}}},
    "drawn anew": {"fit__augment": "light", "optim__class_weights": "balanced"},
    "mixed": {"optim__mixup": 0.4, "optim__cutmix": 0.4, "fit__augment": "light"},
    "copies": {"fit__augment": "light", "fit__copies": 3},
    "accumulated": {"optim__accumulate": 2, "optim__batch_size": 32},
    "averaged": {"optim__ema": 0.9, "optim__optimizer": "sgd"},
    "resampled": {"mitigations": [{"resample": {"attribute": "sex"}}]},
    "sinkhorn": {"mitigations": [{"sinkhorn": {"attribute": "sex", "queue": 16}}]},
    "dro": {"mitigations": [{"group_dro": {"attribute": "sex"}}, "sam"]},
    "swad": {"mitigations": [{"swad": {"converge": 1, "tolerance": 3, "ratio": 0.5}}]},
    "adversary": {
        "mitigations": [{"laftr": {"attribute": "age"}}, {"bad_pairs": {"low": 1.0, "high": 1.0}}]
    },
    "jtt": {"mitigations": [{"jtt": {"epochs": 2}}], "fit__augment": "light"},
    "adalora": {"adaptation": {"mask": "attn:last-2", "method": {"adalora": {"rank": 2}}}},
    "all rows": {"fit__rows": "train+val", "fit__precision": "bf16"},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_stopped_within_an_epoch_ends_as_if_it_had_not_been(
    name: str, held: Session, tmp_path: Path
) -> None:
    whole = Whole(held, RECIPES[name])
    assert whole.polls > 8
    whole.compare(tmp_path, 3, whole.polls - 2)


@pytest.mark.parametrize("name", ["direct", "swad"])
def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(
    name: str, held: Session, tmp_path: Path
) -> None:
    """Before any step, between two, before any batch of validation, and after a first epoch."""
    whole = Whole(held, RECIPES[name] | {"optim__batch_size": 128})
    for place in range(1, whole.polls + 1):
        whole.compare(tmp_path / str(place), place)


def test_a_first_fit_is_stopped_anywhere(held: Session, tmp_path: Path) -> None:
    whole, steps = Whole(held, RECIPES["jtt"] | {"optim__batch_size": 128}), 3
    for place in (2, steps + 1, 2 * steps + 1, 2 * steps + SCORED, 2 * steps + SCORED + 1):
        whole.compare(tmp_path / str(place), place)


def test_an_interrupted_validation_is_not_trained_again(held: Session, tmp_path: Path) -> None:
    steps = Lane(job(held).recipe, SEEDS, held.ground(job(held).recipe)).steps
    result = stopped(held, tmp_path, steps + 1)
    assert result.epochs == ()
    said = log(tmp_path)[-1]
    assert (said["epochs_done"], said["steps"], said["why"]) == (0, steps, "enough")
    whole = train_one(job(held), held)
    again = train_one(job(held, tmp_path), held)
    equal(again, whole)
    assert again.epochs[0].seconds > 0


def test_runs_made_together_are_stopped_and_go_on_together(held: Session, tmp_path: Path) -> None:
    kinds = [RECIPES["lora"], RECIPES["mixed"]]
    whole = [train_one(job(held, **kind), held) for kind in kinds]
    for at in (4, 7):
        jobs = [
            job(held, tmp_path / str(i), Watching(stops=at + i), **kind)
            for i, kind in enumerate(kinds)
        ]
        assert [result.stopped for result in train(jobs, held)] == ["enough", "enough"]
        torch.rand(3)
    jobs = [job(held, tmp_path / str(i), **kind) for i, kind in enumerate(kinds)]
    for one, other in zip(train(jobs, held), whole, strict=True):
        equal(one, other)


def test_what_frozen_blocks_compute_is_read_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LEAST_SECONDS", -1e9), ("WRITE", 1e15), ("READ", 1e15)):
        monkeypatch.setattr(reckoning, name, value)
    folder = session().ground(tiny_recipe()).pack.folder
    shutil.copytree(folder, tmp_path / "cache" / "packs" / folder.name)
    held = session(cache=tmp_path / "cache")
    Whole(held, {})  # who computes them asks meanwhile whether to stop
    Whole(held, {}).compare(tmp_path / "run", 3, 8)
    assert {line["computes"] for line in log(tmp_path / "run") if line["event"] == "start"} == {
        "starts at block 5, of which what is before is kept"
    }


def test_the_best_epoch_is_kept_over_a_stop_in_a_later_one(
    held: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "keeps_best", True)

    class First(Watching):
        def epoch(self, report: Any) -> Any:
            return dataclasses.replace(super().epoch(report), keep=report.number == 1)

    whole = train_one(job(held, observer=First()), held)
    left = train_one(job(held, tmp_path, First(stops=9)), held)
    assert (left.kept, len(left.epochs)) == (1, 1)
    resumed = train_one(job(held, tmp_path, First()), held)
    assert resumed.kept == whole.kept == 1
    equal(resumed, whole)


def test_a_stop_writes_whatever_writing_has_cost(held: Session, tmp_path: Path) -> None:
    """Nothing is written after an epoch here, where a share of nearly nothing is allowed."""
    with pytest.raises(Killed):
        train_one(job(held, tmp_path, Watching(dies=9)), held)
    # The first epoch was written; the rest of the time went into nothing else.
    first = json.loads((tmp_path / "attempts" / "0" / STATE).read_text())
    assert (first["epoch"], first["step"]) == (1, 5)
    stopped(held, tmp_path, 3)
    second = json.loads((tmp_path / "attempts" / "1" / STATE).read_text())
    assert (second["epoch"], second["step"]) == (1, 7)
    assert not (tmp_path / "attempts" / "0" / STATE).exists()


def test_a_run_killed_within_a_long_epoch_loses_only_what_was_not_yet_due(
    held: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    whole = train_one(job(held), held)
    with pytest.raises(Killed):
        train_one(job(held, tmp_path, Watching(dies=4), share=EVERY), held)
    watching = Watching()
    equal(train_one(job(held, tmp_path, watching), held), whole)
    starts = [line["steps"] for line in log(tmp_path) if line["event"] == "start"]
    assert starts == [0, 2]


def test_nothing_is_due_within_an_epoch_that_has_just_begun(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, "ab12")
    assert kept.due()
    assert not kept.due(within=True)


def test_a_state_of_the_same_place_is_written_once(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, "ab12")
    assert kept.save({"a": 1}, 1, 5)
    (tmp_path / "attempts" / "0" / STATE).unlink()
    assert kept.save({"a": 1}, 1, 5)
    assert not (tmp_path / "attempts" / "0" / STATE).exists()


def test_a_run_that_another_process_has_finished_is_left_as_it_is(
    held: Session, tmp_path: Path
) -> None:
    (tmp_path / "DONE").write_text("{}")
    kept = Checkpoints(tmp_path, "ab12", "last", done="DONE")
    result = train_one(
        dataclasses.replace(job(held, None, Watching(stops=3)), checkpoints=kept), held
    )
    assert result.stopped == "enough"
    assert not list(tmp_path.rglob(STATE))
    assert log(tmp_path)[-1]["kept"] is False


def test_a_disk_that_cannot_be_written_is_said(
    held: Session, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "attempts").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        result = train_one(job(held, tmp_path, Watching(stops=3)), held)
    assert result.stopped == "enough"
    assert "goes on without checkpoints" in caplog.text


def test_a_state_from_before_there_were_any_within_an_epoch_is_gone_on_with(
    held: Session, tmp_path: Path
) -> None:
    whole = train_one(job(held), held)
    with pytest.raises(Killed):
        train_one(job(held, tmp_path, Watching(dies=9), share=EVERY), held)
    file = tmp_path / "attempts" / "0" / STATE
    record = json.loads(file.read_text())
    pairs = dict(record["state"]["pairs"])
    for name in ("identified", "steps", "first", "epoch_seconds"):
        del pairs[name]
    lane = dict(pairs["lane"]["pairs"])
    (own,) = lane.pop("ranks")
    assert lane.pop("pass") is None
    lane["random"] = dict(own["pairs"])["random"]
    pairs["lane"] = {"pairs": list(lane.items())}
    file.write_text(json.dumps(record | {"layout": 1, "state": {"pairs": list(pairs.items())}}))
    watching = Watching()
    equal(train_one(job(held, tmp_path, watching), held), whole)
    assert watching.polls == 6


def test_a_pack_is_left_promptly_and_nothing_of_it_stays(tmp_path: Path) -> None:
    held = session(cache=tmp_path)
    held.poll = lambda: "SIGTERM"
    with pytest.raises(Interrupted, match="stopped while packing images") as caught:
        held.ground(tiny_recipe())
    assert caught.value.found == "SIGTERM"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize("mask", ["attn:last-1", "none"])
def test_frozen_blocks_are_left_promptly(
    mask: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LEAST_SECONDS", -1e9), ("WRITE", 1e15), ("READ", 1e15)):
        monkeypatch.setattr(reckoning, name, value)
    folder = session().ground(tiny_recipe()).pack.folder
    shutil.copytree(folder, tmp_path / "packs" / folder.name)
    held = session(cache=tmp_path)
    wanted = job(held, adaptation__mask=mask)
    held.poll = lambda: "SIGTERM"
    result = train_one(wanted, held)
    assert (result.stopped, result.epochs, result.judged) == ("SIGTERM", (), False)
    assert not [
        p for p in (tmp_path / "prefixes").rglob("*") if p.is_file() and p.suffix != ".lock"
    ]
