"""A run that is wanted, and what it gave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fairtune.training.checkpoint import Checkpoints
from fairtune.training.observer import Epoch, Observer, Quiet
from fairtune.training.recipe import Recipe, Seeds


@dataclass(frozen=True)
class Job:
    """One run to make.

    Attributes:
        recipe: A resolved recipe.
        seeds: Seeds of the run.
        observer: Is told of every epoch, and may end the run.
        checkpoints: Where the state is kept; a state that is found there is gone
            on from, and the observer is told of its epochs again. None keeps nothing.
    """

    recipe: Recipe
    seeds: Seeds
    observer: Observer = field(default_factory=Quiet)
    checkpoints: Checkpoints | None = None


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a run gave.

    Attributes:
        epochs: Every finished epoch, with its validation scores.
        weights: Tensors that trained, by name, of the epoch the observer kept.
        kept: Number of that epoch.
        stopped: Why the run ended early, or None.
        judged: Whether it was stopped by what an epoch showed, and not by a request to leave.
        costs: Seconds and images, both with those of a mitigation's first fit, number of trained
            values (adapters counted, the head not), also as a share of the backbone's parameters,
            lowest block of the mask, block before which the run started to compute.
        mitigations: What is to be known of each mitigation, as JSON; see `mitigating.report`.
    """

    epochs: tuple[Epoch, ...]
    weights: dict[str, Tensor]
    kept: int
    stopped: str | None = None
    judged: bool = False
    costs: dict[str, float] = field(default_factory=dict)
    mitigations: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What the first process of several tells the others of a run.

    Attributes:
        job: The run, watched by nobody.
        held: Data sets with their models that are kept open.
    """

    job: Job
    held: int
