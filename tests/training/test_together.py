"""Runs made together: each gives what it gives alone, and none takes another one with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from kit import session, tiny_recipe

from fairtune.errors import RunError
from fairtune.training.lane import Lane
from fairtune.training.observer import Decision, Epoch, Quiet
from fairtune.training.recipe import Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job, RunResult, train, train_each, train_one

SMALL = {"optim__batch_size": 128, "adaptation__mask": "norm:last-1"}
COMPANY: tuple[dict[str, Any], ...] = (
    {"adaptation__mask": "fullft", "optim__epochs": 1},
    {"adaptation__mask": "block:last-1", "optim__epochs": 3, "optim__batch_size": 100},
    {"adaptation__mask": "none"},
    {"adaptation__mask": "attn:last-2", "fit__augment": "light"},
)
HOPELESS = {
    "adaptation__mask": "fullft",
    "optim": {"lr": 1e30, "head_lr": 1e30, "optimizer": "sgd", "clip_norm": 0.0, "warmup": 0.0},
}


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


@dataclass
class Ordered:
    """Notes in one list, shared with others, who did what."""

    name: int
    notes: list[tuple[int, str]]
    ends: int | None = None
    seen: list[Epoch] = field(default_factory=list)

    def epoch(self, report: Epoch) -> Decision:
        self.notes.append((self.name, f"epoch {report.number}"))
        self.seen.append(report)
        return Decision("enough" if report.number == self.ends else None)

    def poll(self) -> None:
        self.notes.append((self.name, "step"))


def job(held: Session, number: int, observer: Any = None, **changes: Any) -> Job:
    recipe = held.resolve(tiny_recipe(**(SMALL | changes)))
    return Job(recipe, Seeds(data=number, init=10 + number), observer or Quiet())


def equal(one: RunResult, other: RunResult) -> None:
    assert len(one.epochs) == len(other.epochs) > 0
    for a, b in zip(one.epochs, other.epochs):
        assert np.array_equal(a.scores, b.scores)
        assert a.train_loss == b.train_loss
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())


def test_a_run_gives_in_company_what_it_gives_alone(held: Session) -> None:
    jobs = [job(held, i, **changes) for i, changes in enumerate(COMPANY)]
    for together, one in zip(train(jobs, held), jobs, strict=True):
        equal(together, train_one(one, held))


def test_random_numbers_of_modules_are_each_runs_own() -> None:
    held = session()
    mlp = held.ground(tiny_recipe()).backbone.net.blocks[5].mlp  # type: ignore[union-attr,index]
    mlp.drop1 = torch.nn.Dropout(0.5)  # type: ignore[union-attr]
    jobs = [job(held, i, adaptation__mask="block:5", optim__epochs=1 + i) for i in range(2)]
    before = torch.get_rng_state()
    for together, one in zip(train(jobs, held), jobs, strict=True):
        equal(together, train_one(one, held))
    assert torch.equal(torch.get_rng_state(), before)


def test_steps_take_turns(held: Session) -> None:
    notes: list[tuple[int, str]] = []
    train([job(held, i, Ordered(i, notes), optim__epochs=1) for i in range(2)], held)
    steps = [name for name, what in notes if what == "step"]
    assert len(steps) >= 4
    assert steps == [0, 1] * (len(steps) // 2)


def test_results_come_when_they_are_ready(held: Session) -> None:
    notes: list[tuple[int, str]] = []
    jobs = [job(held, i, Ordered(i, notes), optim__epochs=3 - i) for i in range(3)]
    ended = []
    for number, result in train_each(jobs, held):
        assert isinstance(result, RunResult)
        notes.append((number, "end"))
        ended.append(number)
    assert ended == [2, 1, 0]
    assert notes.index((2, "end")) < notes.index((0, "epoch 2"))


def test_an_early_end_is_of_one_run(held: Session) -> None:
    notes: list[tuple[int, str]] = []
    jobs = [
        job(held, 0, Ordered(0, notes, ends=1), optim__epochs=3),
        job(held, 1, Ordered(1, notes), optim__epochs=3),
    ]
    stopped, whole = train(jobs, held)
    assert (stopped.stopped, len(stopped.epochs)) == ("enough", 1)
    equal(whole, train_one(job(held, 1, optim__epochs=3), held))


def test_a_run_that_diverges_ends_alone(held: Session) -> None:
    jobs = [job(held, 0), job(held, 1, **HOPELESS), job(held, 2)]
    ends = dict(train_each(jobs, held))
    assert isinstance(ends[1], RunError)
    assert isinstance(ends[0], RunResult)
    result = ends[2]
    assert isinstance(result, RunResult)
    equal(result, train_one(jobs[2], held))
    with pytest.raises(RunError, match="not finite"):
        train(jobs[1:2], held)


def test_a_run_that_finds_no_memory_ends_alone(
    held: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(held, 0), job(held, 1, optim__batch_size=16)]
    real = Lane.step

    def step(self: Lane, batch: Any) -> Any:
        if self.recipe.optim.batch_size == 16:
            torch.empty(2**60)
        return real(self, batch)

    monkeypatch.setattr(Lane, "step", step)
    ends = dict(train_each(jobs, held))
    assert isinstance(ends[1], RunError)
    assert ends[1].reason == "oom"
    result = ends[0]
    assert isinstance(result, RunResult)
    equal(result, train_one(jobs[0], held))


def test_nothing_to_do_is_done(held: Session) -> None:
    assert train([], held) == []
