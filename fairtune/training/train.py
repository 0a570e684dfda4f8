"""The inner run: recipes with their seeds, from pretrained weights to scores.

Several runs may be made together in one process. They share what the session holds: the pack, the
frozen tensors and what is kept of frozen blocks. They do not share batches, as every run has an
order of its own; their steps take turns, and each has its own random numbers, so that a run gives
the same numbers in company as alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fairtune.errors import FairtuneError, RunError
from fairtune.training.checkpoint import Checkpoints
from fairtune.training.costs import costs_of
from fairtune.training.ground import Ground
from fairtune.training.lane import Lane, random_state, set_random_state
from fairtune.training.net import trained_size
from fairtune.training.observer import Epoch, Follower, Observer, Quiet
from fairtune.training.ranks import Dismissed, current
from fairtune.training.readout import solve
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One run to make.

    Attributes:
        recipe: A resolved recipe.
        seeds: Seeds of the run.
        observer: Is told of every epoch, and may end the run.
        checkpoints: Where the state is kept between epochs; a state that is found there is gone
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


def train(jobs: Sequence[Job], session: Session) -> list[RunResult]:
    """Make all runs together and return their results in the order of `jobs`.

    Same job, machine and thread count: same result, bit for bit on a CPU, whatever the company.

    Raises:
        RunError: The loss of a run was not finite, or memory ran out; the others are finished.
        FairtuneError: A prerequisite (data, weights, mask) is not usable.
    """
    ended = dict(train_each(jobs, session))
    results = []
    for i in range(len(jobs)):
        end = ended[i]
        if isinstance(end, Exception):
            raise end
        results.append(end)
    return results


def train_one(job: Job, session: Session, observer: Observer | None = None) -> RunResult:
    """Make one run, watched by `observer`, default: the job's own."""
    if observer is not None:
        job = dataclasses.replace(job, observer=observer)
    (result,) = train([job], session)
    return result


def train_each(
    jobs: Sequence[Job], session: Session
) -> Iterator[tuple[int, RunResult | Exception]]:
    """Make all runs together; yield the number of a job with its result when it ends.

    A run that fails yields its exception; the others go on. With several processes
    (`ranks.joined`) this is rank 0: the others `follow`, results differ by rounding, and no
    checkpoint is kept, as the others could not go on from it.
    """
    if not current().alone:
        jobs = [dataclasses.replace(job, checkpoints=None) for job in jobs]
        current().lead([Job(job.recipe, job.seeds) for job in jobs])
    yield from _in_turns(jobs, session)


def follow(session: Session, poll: Callable[[], str | None]) -> None:
    """Take part in every run of rank 0 while it is `leading`.

    Args:
        session: What this process keeps between runs.
        poll: Reason to stop now, or None; it stops the run on every rank.

    Raises:
        RunError: Memory ran out here, or another process ended.
        FairtuneError: A prerequisite cannot be had here.
    """
    nothing: list[Job] | None = None
    with contextlib.suppress(Dismissed):
        while (jobs := current().lead(nothing)) is not None:
            watched = [dataclasses.replace(job, observer=Follower(poll)) for job in jobs]
            for _, end in _in_turns(watched, session):
                # A loss that is not finite is so on all ranks, and rank 0 decides what follows.
                lost = isinstance(end, RunError) and end.reason == "nan"
                if isinstance(end, Exception) and not lost:
                    raise end


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


def _in_turns(
    jobs: Sequence[Job], session: Session
) -> Iterator[tuple[int, RunResult | Exception]]:
    turns = [_Turns(job, session) for job in jobs]
    open_ = list(range(len(jobs)))
    while open_:
        for i in tuple(open_):
            try:
                turns[i].go()
            except StopIteration as end:
                open_.remove(i)
                yield i, end.value
            except Exception as error:
                open_.remove(i)
                turns[i].close()
                yield i, _named(error)


class _Turns:
    """One run, made step by step with random numbers of its own."""

    def __init__(self, job: Job, session: Session) -> None:
        self._steps = _run(job, session)
        self._device = session.device
        self._random: Mapping[str, Tensor] | None = None

    def go(self) -> None:
        """Go on to the end of the next step.

        Raises:
            StopIteration: The run has ended; its value is the result.
        """
        outside = random_state(self._device)
        try:
            if self._random is not None:
                set_random_state(self._random, self._device)
            next(self._steps)
        finally:
            self._random = random_state(self._device)
            set_random_state(outside, self._device)

    def close(self) -> None:
        """Let go of the memory of a run that failed."""
        self._steps.close()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _named(error: Exception) -> Exception:
    """Return memory that ran out as an error of the run, anything else as it is."""
    if isinstance(error, FairtuneError):
        return error
    # The CPU allocator raises a plain RuntimeError.
    text = str(error).lower()
    short = "allocate memory" in text or "out of memory" in text
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and short
    ):
        named = _out_of_memory(error)
        named.__suppress_context__ = True
        return named
    return error


def _run(job: Job, session: Session) -> Generator[None, None, RunResult]:
    ground = session.ground(job.recipe)
    if not job.recipe.solved:
        return (yield from _Course(job, session, ground).run())
    began = time.perf_counter()
    yield
    report, weights = solve(job.recipe, job.seeds, ground)
    job.observer.epoch(report)
    spent = time.perf_counter() - began
    costs = costs_of(job.recipe, ground, [report], spent, ground.units.depth, trained=0)
    return RunResult((report,), weights, 1, costs=costs)


class _Course:
    """The epochs of one run that trains."""

    def __init__(self, job: Job, session: Session, ground: Ground) -> None:
        self.job, self.session, self.ground = job, session, ground
        self.began = time.perf_counter()
        self.before = 0.0
        self.lane = Lane(job.recipe, job.seeds, ground)
        self.reports: list[Epoch] = []
        self.weights: dict[str, Tensor] = {}
        self.kept = 0
        self.stop: str | None = None
        self.judged = False
        self.first_images = 0

    def run(self) -> Generator[None, None, RunResult]:
        """Train all epochs that are left."""
        self._resume()
        if not self.reports:
            yield from self._identify()
        val_rows = self.ground.val_rows(self.job.recipe)
        images = len(self.ground.fit_rows(self.job.recipe))
        of = self.job.recipe.optim.epochs
        while self.stop is None and len(self.reports) < of:
            began = time.perf_counter()
            train_loss, self.stop = yield from self.lane.stepwise(self.job.observer.poll)
            if self.stop is not None:
                break
            scores, val_loss = self.lane.validate(val_rows)
            if len(val_rows) and not math.isfinite(val_loss):
                raise RunError("the validation loss is not finite", reason="nan", found=val_loss)
            number, seconds = len(self.reports) + 1, time.perf_counter() - began
            self._take(Epoch(number, of, scores, train_loss, val_loss, seconds, images))
            if self.stop is None and number < of:
                self._save()
        spent = self.before + time.perf_counter() - self.began
        cut, trained = self.lane.start.cut, trained_size(self.lane.trained)
        costs = costs_of(
            self.job.recipe, self.ground, self.reports, spent, cut, trained, self.first_images
        )
        return RunResult(
            tuple(self.reports),
            self.weights,
            self.kept,
            self.stop,
            self.judged,
            costs,
            self.lane.mitigating.report(),
        )

    def _identify(self) -> Generator[None, None, None]:
        """Make the first fits that mitigations need: the recipe without any, from its seeds.

        Raises:
            RunError: A loss is not finite.
        """
        for first in self.lane.mitigating.identify:
            before = random_state(self.ground.device)
            lane = Lane(_unmitigated(self.job.recipe, first.epochs), self.job.seeds, self.ground)
            images = len(self.ground.fit_rows(lane.recipe))
            for _ in range(first.epochs):
                _, self.stop = yield from lane.stepwise(self.job.observer.poll)
                if self.stop is not None:
                    return
                self.first_images += images
            logits, loss = lane.score_fitted()
            if not math.isfinite(loss):
                raise RunError("the loss of a first fit is not finite", reason="nan", found=loss)
            first.take(logits)
            # The run itself starts from the random numbers that it would have without.
            set_random_state(before, self.ground.device)

    def _take(self, report: Epoch) -> None:
        self.reports.append(report)
        decision = self.lane.ranks.lead(self.job.observer.epoch(report))
        last = report.number == report.of or decision.stop is not None
        if decision.keep:
            self.kept = report.number
            # Weights of an epoch that a later one replaces need no copy.
            needed = last or self.session.keeps_best
            self.weights = self.lane.weights() if needed else {}
        self.stop, self.judged = decision.stop, decision.stop is not None

    def _save(self) -> None:
        if self.job.checkpoints is None:
            return
        reports = [
            {**vars(report), "scores": torch.from_numpy(report.scores)} for report in self.reports
        ]
        # The weights of the last epoch are the lane's own.
        apart = self.weights if self.kept < len(self.reports) else {}
        state = {
            "reports": reports,
            "kept": self.kept,
            "weights": apart,
            "seconds": self.before + time.perf_counter() - self.began,
            "first_images": self.first_images,
            "lane": self.lane.state_dict(),
        }
        self.job.checkpoints.save(state, len(self.reports))

    def _resume(self) -> None:
        """Go on from the checkpoint of an earlier attempt, if there is one."""
        kept = self.job.checkpoints
        state = None if kept is None else kept.load()
        reports = None if state is None else self._restored(state)
        if kept is not None:
            done = 0 if reports is None else len(reports)
            kept.say("start", epochs_done=done, computes=self.lane.start.why)
        if state is None or reports is None:
            return
        self.before = float(state["seconds"])
        for report in reports:
            self.reports.append(report)
            decision = self.job.observer.epoch(report)
            self.kept = report.number if decision.keep else self.kept
            self.stop, self.judged = decision.stop, decision.stop is not None
            if decision.stop is not None:
                return
        if self.kept < len(reports):
            self.weights = dict(state["weights"])
        elif self.session.keeps_best:
            self.weights = self.lane.weights()

    def _restored(self, state: Mapping[str, Any]) -> list[Epoch] | None:
        """Put the lane into `state` and return its epochs; None, with a new lane, if it cannot."""
        try:
            reports = [
                Epoch(**{**report, "scores": report["scores"].numpy()})
                for report in state["reports"]
            ]
            self.lane.load_state_dict(state["lane"])
            self.first_images = state.get("first_images", 0)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            log.warning("a checkpoint does not fit its run and is dropped: %s", why)
            self.lane = Lane(self.job.recipe, self.job.seeds, self.ground)
            return None
        return reports


def _unmitigated(recipe: Recipe, epochs: int) -> Recipe:
    """Return a resolved recipe without mitigations and with `epochs` epochs."""
    optim = recipe.optim.model_copy(update={"epochs": epochs})
    return recipe.model_copy(update={"mitigations": (), "optim": optim})


def _out_of_memory(error: BaseException) -> RunError:
    return RunError(
        "out of memory",
        reason="oom",
        found=str(error).splitlines()[0] if str(error) else type(error).__name__,
        todo="lower recipe.optim.batch_size or recipe.model.image_size",
    )
