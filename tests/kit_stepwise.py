"""Runs of one tiny recipe: made, killed and gone on with, and compared bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import tiny_recipe

from fairtune.training.checkpoint import Checkpoints
from fairtune.training.lane import SCORE_BATCH, Lane
from fairtune.training.observer import Decision, Epoch, Quiet
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job, RunResult, train_one

SMALL = {"optim__epochs": 2, "optim__batch_size": 128, "adaptation__mask": "norm:last-1"}
SEEDS = Seeds(data=1, init=2)
EVERY = 1e9
"""Share of the time that lets a checkpoint be written after every epoch, however short."""


class Killed(BaseException):
    """What a kill looks like from inside: nothing is cleared up."""


@dataclass
class Watching:
    """Keeps reports; dies, or asks to stop, at a step."""

    dies: int | None = None
    stops: int | None = None
    polls: int = 0
    seen: list[Epoch] = field(default_factory=list)

    def epoch(self, report: Epoch) -> Decision:
        self.seen.append(report)
        return Decision()

    def poll(self) -> str | None:
        self.polls += 1
        if self.polls == self.dies:
            raise Killed
        return "enough" if self.polls == self.stops else None


def resolved(held: Session, *mitigations: Any, **changes: Any) -> Recipe:
    return held.resolve(tiny_recipe(**SMALL | {"mitigations": list(mitigations)} | changes))


def job(
    held: Session,
    *mitigations: Any,
    folder: Path | None = None,
    observer: Any = None,
    **changes: Any,
) -> Job:
    kept = None if folder is None else Checkpoints(folder, "ab12", "last", share=EVERY)
    return Job(resolved(held, *mitigations, **changes), SEEDS, observer or Quiet(), kept)


def made(held: Session, *mitigations: Any, **more: Any) -> RunResult:
    return train_one(job(held, *mitigations, **more), held)


def lane(held: Session, *mitigations: Any, **changes: Any) -> Lane:
    recipe = resolved(held, *mitigations, **changes)
    return Lane(recipe, SEEDS, held.ground(recipe))


def polls(one: Lane) -> tuple[int, int, int]:
    """Return how often a run asks whether to stop: in a pass, to validate, to score a first fit.

    That is before every step, and before every batch that is scored.
    """
    val, fit = one.ground.val_rows(one.recipe), one.ground.fit_rows(one.recipe)
    return one.steps, -(-len(val) // SCORE_BATCH), -(-len(fit) // SCORE_BATCH)


def killed(held: Session, poll: int, *mitigations: Any, **more: Any) -> None:
    """Kill a run where it asks for the time of this number, counted from 1, whether to stop."""
    with pytest.raises(Killed):
        made(held, *mitigations, observer=Watching(dies=poll), **more)


def equal(one: RunResult, other: RunResult) -> None:
    """Check that two runs are the same bit for bit."""
    assert len(one.epochs) == len(other.epochs) > 0
    for a, b in zip(one.epochs, other.epochs, strict=True):
        assert np.array_equal(a.scores, b.scores)
        assert (a.train_loss, a.images) == (b.train_loss, b.images)
        assert np.array_equal(a.val_loss, b.val_loss, equal_nan=True)
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())
    assert one.mitigations == other.mitigations
    assert one.costs["images"] == other.costs["images"]
