"""The inner run: recipes with their seeds, from pretrained weights to scores.

Several runs may be made together in one process. They share what the session holds: the pack, the
frozen tensors and what is kept of frozen blocks. They do not share batches, as every run has an
order of its own; their steps take turns, and each has its own random numbers, so that a run gives
the same numbers in company as alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fairtune.errors import FairtuneError, Interrupted, RunError
from fairtune.training.costs import costs_of
from fairtune.training.course import Course
from fairtune.training.ground import Ground
from fairtune.training.job import Job, RunResult, Wanted
from fairtune.training.observer import Observer
from fairtune.training.random import random_state, set_random_state
from fairtune.training.ranks import Agreed, agreed, current, not_together, part, parted
from fairtune.training.readout import solve
from fairtune.training.scored import score_once
from fairtune.training.session import Session

__all__ = ["Job", "RunResult", "in_turns", "train", "train_each", "train_one"]


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
    (`ranks.joined`) this is rank 0, the others `follow`, and results differ by rounding.

    Raises:
        ConfigError: Several runs together in several processes.
        RunError: The processes are no longer at the same place of a run and can make no other
            one; its end was yielded before.
    """
    if current().alone:
        for i, end, _ in in_turns(jobs, session):
            yield i, end
        return
    if len(jobs) > 1:
        raise not_together(len(jobs))
    for job in jobs:
        yield 0, (end := _led(job, session))
        if current().alone:
            raise parted(end)


def _led(job: Job, session: Session) -> RunResult | Exception:
    """Make one run with the processes that follow; part from them where it broke off."""
    try:
        current().lead(Wanted(Job(job.recipe, job.seeds), session.held))
        ((_, end, alike),) = in_turns([job], session)
    except RunError as gone:
        end, alike = gone, False
    except BaseException:
        part()
        raise
    if not alike:
        part()
    return end


def in_turns(
    jobs: Sequence[Job], session: Session
) -> Iterator[tuple[int, RunResult | Exception, bool]]:
    """Make all runs together; yield number, end, and whether other processes end it alike."""
    turns = [_Turns(job, session) for job in jobs]
    open_ = list(range(len(jobs)))
    while open_:
        for i in tuple(open_):
            try:
                turns[i].go()
            except StopIteration as end:
                open_.remove(i)
                yield i, end.value, True
            except Exception as error:
                open_.remove(i)
                turns[i].close()
                alike = isinstance(error, Agreed)
                end_ = _named(error.error if isinstance(error, Agreed) else error)
                # A loss is that of all ranks together.
                yield i, end_, alike or (isinstance(end_, RunError) and end_.reason == "nan")


class _Turns:
    """One run, made step by step with random numbers of its own."""

    def __init__(self, job: Job, session: Session) -> None:
        self._steps = _run(job, session)
        self._device = session.device
        self._random: Mapping[str, Tensor] | None = None

    def go(self) -> None:
        """Go on to the next pause, as a rule before the next step.

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
    began = time.perf_counter()
    made: Callable[[], RunResult] | Course
    try:
        made = agreed(lambda: _prepared(job, session))
        if isinstance(made, Course):
            return (yield from made.run())
        yield
        return agreed(made)
    except Agreed as both:
        if not isinstance(both.error, Interrupted):
            raise
        why = both.error.found
    except Interrupted as left:
        why = left.found
    return RunResult((), {}, 0, str(why), costs={"seconds": time.perf_counter() - began})


def _prepared(job: Job, session: Session) -> Course | Callable[[], RunResult]:
    """Return what makes the run, once data and model are open."""
    ground = session.ground(job.recipe)
    if job.recipe.solved:
        return lambda: _solved(job, ground)
    with _obeying(job, ground):
        return Course(job, session, ground)


@contextlib.contextmanager
def _obeying(job: Job, ground: Ground) -> Iterator[None]:
    """Leave what is computed for this run, such as its edit, when this run is to end."""
    before = ground.poll
    ground.obey(lambda: before() or job.observer.poll())
    try:
        yield
    finally:
        ground.obey(before)


def _solved(job: Job, ground: Ground) -> RunResult:
    began = time.perf_counter()
    with _obeying(job, ground):
        made = score_once if job.recipe.scored else solve
        report, weights = made(job.recipe, job.seeds, ground)
    job.observer.epoch(report)
    spent = time.perf_counter() - began
    costs = costs_of(job.recipe, ground, [report], spent, ground.units.image_depth, trained=0)
    return RunResult((report,), weights, 1, costs=costs)


def _out_of_memory(error: BaseException) -> RunError:
    return RunError(
        "out of memory",
        reason="oom",
        found=str(error).splitlines()[0] if str(error) else type(error).__name__,
        todo="lower recipe.optim.batch_size or recipe.model.image_size",
    )
