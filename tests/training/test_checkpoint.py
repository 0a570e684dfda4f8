"""A run that was killed goes on from its last epoch and ends as if it had not been."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import session, tiny_recipe

from fairtune.training.checkpoint import LOG, STATE, Checkpoints
from fairtune.training.lane import Lane
from fairtune.training.observer import Decision, Epoch, Quiet
from fairtune.training.recipe import Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job, RunResult, train_one

KEY = "ab12"
EVERY = 1e9
"""Share of the time that lets a checkpoint be written after every epoch, however short."""


SMALL = {"optim__epochs": 3, "optim__batch_size": 128, "adaptation__mask": "attn:last-1"}


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


@pytest.fixture(scope="module")
def whole(held: Session) -> RunResult:
    """The run that is killed nowhere."""
    return train_one(job(held, None), held)


class Killed(BaseException):
    """What a kill looks like from inside: nothing is cleared up."""


@dataclass
class Watching:
    """Keeps reports, dies at a step of an epoch, or ends the run after one."""

    dies: int | None = None
    ends: int | None = None
    keep: tuple[int, ...] | None = None
    polls: int = 0
    seen: list[Epoch] = field(default_factory=list)

    def epoch(self, report: Epoch) -> Decision:
        self.seen.append(report)
        stop = "enough" if report.number == self.ends else None
        return Decision(stop=stop, keep=self.keep is None or report.number in self.keep)

    def poll(self) -> str | None:
        self.polls += 1
        if self.polls == self.dies:
            raise Killed
        return None


def job(held: Session, folder: Path | None, observer: Any = None, **changes: Any) -> Job:
    fields = SMALL | changes
    kept = None if folder is None else Checkpoints(folder, KEY, "last", share=EVERY)
    recipe = held.resolve(tiny_recipe(**fields))
    return Job(recipe, Seeds(data=1, init=2), observer or Quiet(), kept)


def equal(one: RunResult, other: RunResult) -> None:
    assert len(one.epochs) == len(other.epochs)
    for a, b in zip(one.epochs, other.epochs):
        assert np.array_equal(a.scores, b.scores)
        assert (a.number, a.of, a.images) == (b.number, b.of, b.images)
        assert a.train_loss == b.train_loss
        assert np.array_equal(a.val_loss, b.val_loss, equal_nan=True)
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())
    assert one.kept == other.kept


def steps(held: Session) -> int:
    return Lane(job(held, None).recipe, Seeds(), held.ground(tiny_recipe())).steps


def polls(held: Session) -> int:
    """Return how often an epoch asks whether to stop: before a step, and before validation."""
    return steps(held) + 1


def killed(held: Session, folder: Path, after: int, **changes: Any) -> None:
    """Kill a run in the step after `after` epochs and one step."""
    with pytest.raises(Killed):
        train_one(job(held, folder, Watching(dies=after * polls(held) + 2), **changes), held)


def starts(folder: Path) -> list[int]:
    """Return the epochs that each attempt found done."""
    lines = [
        json.loads(line)
        for attempt in sorted((folder / "attempts").iterdir())
        for line in (attempt / LOG).read_text().splitlines()
    ]
    return [line["epochs_done"] for line in lines if line["event"] == "start"]


@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_run_ends_as_if_it_had_not_been(
    after: int, held: Session, whole: RunResult, tmp_path: Path
) -> None:
    killed(held, tmp_path, after)
    torch.rand(7)
    watching = Watching()
    resumed = train_one(job(held, tmp_path, watching), held)
    equal(resumed, whole)
    # The observer is told of every epoch, of those before the kill too.
    assert [report.number for report in watching.seen] == [1, 2, 3]
    assert watching.polls == (3 - after) * polls(held)
    assert resumed.costs["epochs"] == 3.0
    assert starts(tmp_path) == [0, after]


@pytest.mark.parametrize(
    "changes",
    [
        {"fit__augment": "light"},
        {"optim__ema": 0.9, "optim__mixup": 0.4, "fit__augment": "light", "fit__copies": 3},
        {"adaptation": {"mask": "attn:last-2", "method": {"adalora": {"rank": 2}}}},
        pytest.param(
            {"adaptation": {"mask": "attn:last-2", "method": {"lora": {"dropout": 0.2}}}},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {
                "model": {"name": "resnet18", "image_size": 32, "weights": "none"},
                "adaptation__mask": "block:0",
                "optim__lr": 1e-2,
            },
            marks=pytest.mark.slow,
        ),
        pytest.param({"optim__optimizer": "sgd"}, marks=pytest.mark.slow),
        pytest.param(
            {"optim__schedule": "constant", "optim__warmup": 0.5}, marks=pytest.mark.slow
        ),
        pytest.param({"fit__precision": "bf16", "fit__rows": "train+val"}, marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_state_is_kept(
    changes: dict[str, Any], held: Session, tmp_path: Path
) -> None:
    changes = {"optim__epochs": 2, **changes}
    whole = train_one(job(held, None, **changes), held)
    killed(held, tmp_path, 1, **changes)
    equal(train_one(job(held, tmp_path, **changes), held), whole)
    assert starts(tmp_path) == [0, 1]


def test_random_numbers_of_modules_go_on(held: Session, tmp_path: Path) -> None:
    """Dropout draws from torch's own source, which every lane has a state of."""
    real = held.ground(tiny_recipe()).backbone.net.blocks[5].mlp  # type: ignore[union-attr,index]
    old = real.drop1
    real.drop1 = torch.nn.Dropout(0.5)  # type: ignore[union-attr]
    changes = {"adaptation__mask": "block:5", "optim__epochs": 2}
    try:
        whole = train_one(job(held, None, **changes), held)
        killed(held, tmp_path, 1, **changes)
        torch.rand(3)
        resumed = train_one(job(held, tmp_path, **changes), held)
        equal(resumed, whole)
        assert starts(tmp_path) == [0, 1]
        real.drop1 = old  # type: ignore[union-attr]
        plain = train_one(job(held, None, **changes), held)
        assert plain.epochs[-1].train_loss != whole.epochs[-1].train_loss
    finally:
        real.drop1 = old  # type: ignore[union-attr]


def test_a_run_killed_twice_goes_on_twice(held: Session, whole: RunResult, tmp_path: Path) -> None:
    killed(held, tmp_path, 1)
    with pytest.raises(Killed):
        train_one(job(held, tmp_path, Watching(dies=polls(held) + 1)), held)
    equal(train_one(job(held, tmp_path), held), whole)
    assert starts(tmp_path) == [0, 1, 2]


def test_a_run_killed_before_its_first_epoch_ends_starts_anew(
    held: Session, whole: RunResult, tmp_path: Path
) -> None:
    killed(held, tmp_path, 0)
    equal(train_one(job(held, tmp_path), held), whole)
    assert starts(tmp_path) == [0, 0]


@pytest.mark.parametrize("best", [1, 2])
def test_the_weights_of_the_best_epoch_before_the_kill_are_kept(
    best: int, held: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "keeps_best", True)
    whole = train_one(job(held, None, Watching(keep=(best,))), held)
    with pytest.raises(Killed):
        train_one(job(held, tmp_path, Watching(dies=2 * polls(held) + 2, keep=(best,))), held)
    resumed = train_one(job(held, tmp_path, Watching(keep=(best,))), held)
    assert resumed.kept == best
    assert starts(tmp_path) == [0, 2]
    equal(resumed, whole)


def test_an_observer_that_would_have_ended_the_run_ends_it(held: Session, tmp_path: Path) -> None:
    killed(held, tmp_path, 2)
    result = train_one(job(held, tmp_path, Watching(ends=1)), held)
    assert (result.stopped, result.judged, len(result.epochs)) == ("enough", True, 1)


def first(folder: Path) -> Path:
    return folder / "attempts" / "0"


def cut_short(folder: Path) -> None:
    file = next(first(folder).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])


def flipped(folder: Path) -> None:
    file = next(first(folder).glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def gone(folder: Path) -> None:
    next(first(folder).glob("*.safetensors")).unlink()


def no_json(folder: Path) -> None:
    (first(folder) / STATE).write_text("{")


def other_key(folder: Path) -> None:
    record = json.loads((first(folder) / STATE).read_text())
    (first(folder) / STATE).write_text(json.dumps(record | {"key": "other"}))


def other_layout(folder: Path) -> None:
    record = json.loads((first(folder) / STATE).read_text())
    (first(folder) / STATE).write_text(json.dumps(record | {"layout": 99}))


@pytest.mark.parametrize(
    "damage",
    [cut_short, flipped, gone, no_json, other_key, other_layout],
    ids=lambda f: f.__name__,
)
def test_a_checkpoint_that_is_not_whole_is_dropped(
    damage: Callable[[Path], None],
    held: Session,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    Checkpoints(tmp_path, KEY, "last").save({"reports": [torch.ones(3)]}, 1)
    damage(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert Checkpoints(tmp_path, KEY, "last").load() is None
    assert "is dropped" in caplog.text
    assert {path.name for path in first(tmp_path).iterdir()} <= {LOG}


def test_a_checkpoint_of_other_tensors_is_dropped(
    held: Session, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed(held, tmp_path, 1)
    changes = {"adaptation__mask": "mlp:5", "optim__epochs": 1}
    other = train_one(job(held, tmp_path, **changes), held)
    assert "does not fit its run" in caplog.text
    equal(other, train_one(job(held, None, **changes), held))


def test_a_checkpoint_made_under_another_epoch_rule_is_dropped(tmp_path: Path) -> None:
    Checkpoints(tmp_path, KEY, "last").save({"a": 1}, 1)
    assert Checkpoints(tmp_path, KEY, "best").load() is None


def test_what_is_written_is_read_back_exactly(tmp_path: Path) -> None:
    state = {
        "tensors": [torch.tensor(1.5), torch.arange(6).view(2, 3), torch.ones(2).bfloat16()],
        "state": {0: {"step": 3}, 1: {"x": None, "y": (True, 0.1)}},
        "none": float("nan"),
        "t": torch.zeros(0),
    }
    Checkpoints(tmp_path, KEY).save(state, 3)
    found = Checkpoints(tmp_path, KEY).load()
    assert found is not None
    assert all(torch.equal(a, b) for a, b in zip(found["tensors"], state["tensors"]))
    assert found["tensors"][2].dtype == torch.bfloat16
    assert found["state"] == {0: {"step": 3}, 1: {"x": None, "y": [True, 0.1]}}
    assert np.isnan(found["none"])
    assert found["t"].shape == (0,)


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="/a/0: a set"):
        Checkpoints(tmp_path, KEY).save({"a": [{1}]}, 1)


def test_only_the_latest_is_on_disk(held: Session, whole: RunResult, tmp_path: Path) -> None:
    killed(held, tmp_path, 2)
    assert {path.name for path in first(tmp_path).iterdir()} == {
        f"checkpoint-2-{2 * steps(held)}.safetensors",
        STATE,
        LOG,
    }
    trained = sum(p.numel() for p in whole.weights.values())
    size = (first(tmp_path) / f"checkpoint-2-{2 * steps(held)}.safetensors").stat().st_size
    # A value and two moments of everything that trained, and the states of random numbers.
    assert size < 3 * 4 * trained + 30_000


def test_writing_takes_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairtune.training import checkpoint

    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    kept = Checkpoints(tmp_path, KEY, share=0.1)
    real = kept._write
    written: list[int] = []

    def slow(state: Any, epoch: int, step: int) -> None:
        real(state, epoch, step)
        written.append(epoch)
        now[0] += 2.0

    monkeypatch.setattr(kept, "_write", slow)
    for epoch in range(1, 41):
        now[0] += 1.0
        if kept.due():
            kept.save({}, epoch)
    # Two seconds of writing allow the next one after twenty.
    assert written == [1, 21]


def test_a_disk_that_cannot_be_written_costs_the_checkpoint_only(
    held: Session, whole: RunResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "attempts").write_text("in the way")
    equal(train_one(job(held, tmp_path), held), whole)
    assert "goes on without checkpoints" in caplog.text


def test_discarding_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kept = Checkpoints(folder, KEY)
    kept.say("start")
    kept.save({}, 1)
    assert set(kept.logs()) == {"attempts/0/log.jsonl"}
    kept.discard()
    assert not folder.exists()
    assert kept.logs() == {}


def test_two_workers_do_not_write_the_same_files(tmp_path: Path) -> None:
    one, two = Checkpoints(tmp_path, KEY), Checkpoints(tmp_path, KEY)
    one.save({"who": 1}, 1)
    assert two.load() == {"who": 1}
    two.save({"who": 2}, 2)
    one.save({"who": 1}, 2)
    found = Checkpoints(tmp_path, KEY).load()
    assert found == {"who": 2}
