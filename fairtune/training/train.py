"""The inner run: one recipe with one seed, from pretrained weights to scores."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fairtune.errors import FairtuneError, RunError
from fairtune.training.lane import Lane
from fairtune.training.net import trained_size
from fairtune.training.observer import Epoch, Follower, Observer
from fairtune.training.ranks import Dismissed, current
from fairtune.training.readout import solve
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session


@dataclass(frozen=True)
class Job:
    """One run to make: a resolved recipe and its seeds."""

    recipe: Recipe
    seeds: Seeds


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a run gave.

    Attributes:
        epochs: Every finished epoch, with its validation scores.
        weights: Tensors that trained, by name, of the epoch the observer kept.
        kept: Number of that epoch.
        stopped: Why the run ended early, or None.
        costs: Seconds, images, number of trained values (adapters counted, the head not), also as
            a share of the backbone's parameters, lowest block of the mask.
    """

    epochs: tuple[Epoch, ...]
    weights: dict[str, Tensor]
    kept: int
    stopped: str | None = None
    costs: dict[str, float] = field(default_factory=dict)


def train(job: Job, session: Session, observer: Observer) -> RunResult:
    """Run `job` and tell `observer` of every epoch.

    Same job, machine and thread count: same result, bit for bit on a CPU. With several processes
    (`ranks.joined`) this is rank 0; the others `follow`, and the result differs by rounding.

    Raises:
        RunError: The loss was not finite, memory ran out, or another process ended.
        FairtuneError: A prerequisite (data, weights, mask) is not usable.
    """
    current().lead(job)
    return _guarded(job, session, observer)


def follow(session: Session, poll: Callable[[], str | None]) -> None:
    """Take part in every run of rank 0 while it is `leading`.

    Args:
        session: What this process keeps between runs.
        poll: Reason to stop now, or None; it stops the run on every rank.

    Raises:
        RunError: Memory ran out here, or another process ended.
        FairtuneError: A prerequisite cannot be had here.
    """
    nothing: Job | None = None
    with contextlib.suppress(Dismissed):
        while (job := current().lead(nothing)) is not None:
            try:
                _guarded(job, session, Follower(poll))
            except RunError as error:
                # A loss that is not finite is so on all ranks, and rank 0 decides what follows.
                if error.reason != "nan":
                    raise


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Dismiss the processes that `follow` this one when its work is done, or refused.

    Not when a run broke off here: they are in the midst of it, and end when this process has.
    """
    try:
        yield
    except RunError as error:
        if error.reason == "nan":
            current().lead(Dismissed())
        raise
    except FairtuneError:
        current().lead(Dismissed())
        raise
    current().lead(Dismissed())


def _guarded(job: Job, session: Session, observer: Observer) -> RunResult:
    try:
        return _train(job, session, observer)
    except FairtuneError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(error) from None
    except RuntimeError as error:
        # The CPU allocator raises a plain RuntimeError.
        if "allocate memory" in str(error) or "out of memory" in str(error).lower():
            raise _out_of_memory(error) from None
        raise


def _train(job: Job, session: Session, observer: Observer) -> RunResult:
    ground = session.ground(job.recipe)
    started = time.perf_counter()
    if job.recipe.solved:
        report, weights = solve(job.recipe, job.seeds, ground)
        observer.epoch(report)
        costs = _costs(job, session, [report], started, 0)
        return RunResult((report,), weights, 1, None, costs)
    lane = Lane(job.recipe, job.seeds, ground)
    images, val_rows = len(ground.fit_rows(job.recipe)), ground.val_rows(job.recipe)
    reports: list[Epoch] = []
    weights, kept, stop = {}, 0, None
    for number in range(1, job.recipe.optim.epochs + 1):
        began = time.perf_counter()
        train_loss, stop = lane.epoch(observer.poll)
        if stop is not None:
            break
        scores, val_loss = lane.score(val_rows)
        if len(val_rows) and not math.isfinite(val_loss):
            raise RunError("the validation loss is not finite", reason="nan", found=val_loss)
        seconds = time.perf_counter() - began
        report = Epoch(
            number,
            job.recipe.optim.epochs,
            scores,
            train_loss,
            val_loss,
            seconds,
            images,
        )
        reports.append(report)
        decision = lane.ranks.lead(observer.epoch(report))
        last = number == job.recipe.optim.epochs or decision.stop is not None
        if decision.keep:
            kept = number
            # Weights of an epoch that a later one replaces need no copy.
            weights = lane.weights() if last or session.keeps_best else {}
        if decision.stop is not None:
            stop = decision.stop
            break
    costs = _costs(job, session, reports, started, trained_size(lane.trained))
    return RunResult(tuple(reports), weights, kept, stop, costs)


def _costs(
    job: Job, session: Session, reports: list[Epoch], started: float, trained: int
) -> dict[str, float]:
    ground = session.ground(job.recipe)
    mask = ground.mask(job.recipe)
    seconds = time.perf_counter() - started
    images = sum(report.images for report in reports)
    lowest = mask.lowest_block(ground.units)
    return {
        "seconds": seconds,
        "epochs": float(len(reports)),
        "images": float(images),
        "images_per_second": images / max(sum(r.seconds for r in reports), 1e-9),
        "trainable": float(trained),
        "trainable_share": trained / ground.units.total,
        "lowest_block": float(ground.units.depth if lowest is None else lowest),
    }


def _out_of_memory(error: BaseException) -> RunError:
    return RunError(
        "out of memory",
        reason="oom",
        found=str(error).splitlines()[0] if str(error) else type(error).__name__,
        todo="lower recipe.optim.batch_size or recipe.model.image_size",
    )
