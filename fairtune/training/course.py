"""One run that trains, from its first step, or where an earlier attempt stopped, to its end."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from fairtune.errors import RunError
from fairtune.mitigation.hooks import Identify
from fairtune.training.costs import costs_of
from fairtune.training.ground import Ground
from fairtune.training.job import Job, RunResult
from fairtune.training.lane import Lane
from fairtune.training.net import trained_size
from fairtune.training.observer import Decision, Epoch
from fairtune.training.random import random_state, set_random_state
from fairtune.training.ranks import agreed
from fairtune.training.recipe import Recipe
from fairtune.training.session import Session

log = logging.getLogger(__name__)

T = TypeVar("T")


class _Left(Exception):
    """The run was told to stop, and its state is kept."""


@dataclass
class _First:
    """A first fit under way.

    Attributes:
        lane: The fit.
        before: Random numbers from which the run itself starts.
        passes: Passes that are finished.
    """

    lane: Lane
    before: Mapping[str, Tensor]
    passes: int = 0


class Course:
    """The epochs of one run that trains.

    The state is kept after an epoch, from time to time within one, and wherever the run is told
    to stop: between two steps, or before a batch that is scored.
    """

    def __init__(self, job: Job, session: Session, ground: Ground) -> None:
        self.job, self.session, self.ground = job, session, ground
        self.lane = Lane(job.recipe, job.seeds, ground)
        self.ranks, self.keeps = self.lane.ranks, False
        self.began = self.epoch_began = time.perf_counter()
        self.before = self.epoch_before = 0.0
        self.first: _First | None = None
        self.identified = self.steps = self.first_images = self.kept = 0
        self.reports: list[Epoch] = []
        self.weights: dict[str, Tensor] = {}
        self.stop: str | None = None
        self.judged = False

    def run(self) -> Generator[None, None, RunResult]:
        """Train all epochs that are left, pausing between steps for other runs."""
        self._resume()
        with contextlib.suppress(_Left):
            if self.stop is None:
                yield from self._identify()
            while self.stop is None and len(self.reports) < self.job.recipe.optim.epochs:
                yield from self._epoch()
        recipe, lane = self.job.recipe, self.lane
        spent = self.before + time.perf_counter() - self.began
        cut, trained = lane.start.cut, trained_size(lane.trained)
        ended = self.stop is None or self.judged
        costs = costs_of(
            recipe, self.ground, self.reports, spent, cut, trained, self.first_images, ended
        )
        return RunResult(
            tuple(self.reports),
            self.weights,
            self.kept,
            self.stop,
            self.judged,
            costs,
            lane.mitigating.report(),
        )

    def _epoch(self) -> Generator[None, None, None]:
        """Train and validate one epoch, or what is left of it.

        Raises:
            RunError: A loss is not finite.
        """
        rows, of = self.ground.val_rows(self.job.recipe), self.job.recipe.optim.epochs
        images = len(self.ground.fit_rows(self.job.recipe))
        self.epoch_began = time.perf_counter()
        train_loss = yield from self._steps(self.lane)
        scores, val_loss = self._scored(self.lane.validating(rows))
        if len(rows) and not math.isfinite(val_loss):
            raise RunError("the validation loss is not finite", reason="nan", found=val_loss)
        number, seconds = len(self.reports) + 1, self._epoch_seconds()
        self.lane.end_pass()
        self.epoch_before = 0.0
        self._take(Epoch(number, of, scores, train_loss, val_loss, seconds, images))
        self.epoch_began = time.perf_counter()
        if self.stop is None and number < of:
            self._save_if_due()

    def _steps(self, lane: Lane) -> Generator[None, None, float]:
        """Make the steps of a pass that are left; return its mean loss.

        Raises:
            _Left: The run was told to stop.
        """
        work = lane.stepwise()
        while True:
            try:
                next(work)
            except StopIteration as end:
                loss: float = end.value
                return loss
            if self._told(work):
                self._save()
            yield
            self.steps += 1

    def _scored(self, work: Generator[None, None, T]) -> T:
        """Score what `work` scores.

        Raises:
            _Left: The run was told to stop.
        """
        while True:
            try:
                next(work)
            except StopIteration as end:
                found: T = end.value
                return found
            self._told(work)

    def _told(self, work: Generator[None, None, Any]) -> bool:
        """Return whether the state is to be kept now.

        Raises:
            _Left: The run was told to stop.
        """
        stop, due = self.ranks.agree(self.job.observer.poll(), self._due(within=True))
        if stop is None:
            return due
        work.close()  # scored weights may be an average, which stands in for the lane's till then
        self.stop = stop
        self._save(stop)
        raise _Left

    def _identify(self) -> Generator[None, None, None]:
        """Make the first fits that mitigations need: the recipe without any, from its seeds.

        Raises:
            RunError: A loss is not finite.
            _Left: The run was told to stop.
        """
        for fit in self.lane.mitigating.identify[self.identified :]:
            if self.first is None:
                before = random_state(self.ground.device)
                self.first = _First(self._first_lane(fit), before)
            lane = self.first.lane
            rows = self.ground.fit_rows(lane.recipe)
            while self.first.passes < fit.epochs:
                yield from self._steps(lane)
                lane.end_pass()
                self.first.passes += 1
                self.first_images += len(rows)
                self._save_if_due()
            logits, loss = self._scored(lane.scoring(rows, fitted=True))
            if not math.isfinite(loss):
                raise RunError("the loss of a first fit is not finite", reason="nan", found=loss)
            fit.take(logits)
            # The run itself starts from the random numbers that it would have without.
            set_random_state(self.first.before, self.ground.device)
            self.identified, self.first = self.identified + 1, None

    def _first_lane(self, fit: Identify) -> Lane:
        return Lane(_unmitigated(self.job.recipe, fit.epochs), self.job.seeds, self.ground)

    def _take(self, report: Epoch) -> None:
        self.reports.append(report)
        decision = self._decided(report)
        last = report.number == report.of or decision.stop is not None
        if decision.keep:
            self.kept = report.number
            # Weights of an epoch that a later one replaces need no copy.
            needed = last or self.session.keeps_best
            self.weights = self.lane.weights() if needed else {}
        self.stop, self.judged = decision.stop, decision.stop is not None

    def _decided(self, report: Epoch) -> Decision:
        """Return what the observer, of several processes the first one's, says to an epoch."""
        return self.ranks.lead(agreed(lambda: self.job.observer.epoch(report)))

    def _epoch_seconds(self) -> float:
        return self.epoch_before + time.perf_counter() - self.epoch_began

    def _due(self, *, within: bool) -> bool:
        """Return whether this process would have the state kept now."""
        kept = self.job.checkpoints
        return kept is not None and kept.due(within=within)

    def _save_if_due(self) -> None:
        if self.ranks.lead(self._due(within=False)):
            self._save()

    def _save(self, stop: str | None = None) -> None:
        """Keep the state, and say so where it is for a `stop`."""
        if not self.keeps:
            return
        began = time.perf_counter()
        state, kept, done = self._state(), self.job.checkpoints, len(self.reports)
        if kept is None:
            return
        saved = kept.save(state, done, self.steps)
        if stop is not None:
            seconds = round(time.perf_counter() - began, 3)
            said = {"epochs_done": done, "steps": self.steps, "kept": saved, "seconds": seconds}
            kept.say("stopped", why=stop, **said)

    def _state(self) -> dict[str, Any]:
        reports = [
            {**vars(report), "scores": torch.from_numpy(report.scores)} for report in self.reports
        ]
        first = None
        if self.first is not None:
            lane = self.first.lane.state_dict()
            first = {"before": self.first.before, "passes": self.first.passes, "lane": lane}
        return {
            "reports": reports,
            "kept": self.kept,
            # The weights of the last epoch are the lane's own.
            "weights": self.weights if self._apart() else {},
            "seconds": self.before + time.perf_counter() - self.began,
            "epoch_seconds": self._epoch_seconds(),
            "first_images": self.first_images,
            "identified": self.identified,
            "steps": self.steps,
            "first": first,
            "lane": self.lane.state_dict(),
        }

    def _apart(self) -> bool:
        """Return whether the weights to keep are not those that the lane has now."""
        return self.kept < len(self.reports) or self.lane.under_way is not None

    def _resume(self) -> None:
        """Go on from the checkpoint of an earlier attempt, if there is one."""
        kept = self.job.checkpoints
        found = None if kept is None else kept.load()
        # The others have the state from the first, which alone knows the folder.
        state, self.keeps = self.ranks.lead((found, kept is not None))
        reports = None if state is None else self._restored(state)
        if state is not None and not all(self.ranks.all(reports is not None)):
            self.lane = Lane(self.job.recipe, self.job.seeds, self.ground)
            reports = None
        if kept is not None:
            done = 0 if reports is None else len(reports)
            kept.say(
                "start",
                epochs_done=done,
                steps=self.steps,
                processes=self.ranks.world,
                computes=self.lane.start.why,
            )
        if state is None or reports is None:
            return
        for report in reports:
            self.reports.append(report)
            decision = self._decided(report)
            self.kept = report.number if decision.keep else self.kept
            self.stop, self.judged = decision.stop, decision.stop is not None
            if decision.stop is not None:
                return
        if self._apart():
            self.weights = dict(state["weights"])
        elif self.session.keeps_best:
            self.weights = self.lane.weights()

    def _restored(self, state: Mapping[str, Any]) -> list[Epoch] | None:
        """Put the run into `state` and return its epochs; None if it cannot be."""
        try:
            return self._put(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            log.warning("a checkpoint does not fit its run and is dropped: %s", why)
            return None

    def _put(self, state: Mapping[str, Any]) -> list[Epoch]:
        reports = [
            Epoch(**{**report, "scores": report["scores"].numpy()}) for report in state["reports"]
        ]
        self.lane.load_state_dict(state["lane"])
        fits, before = self.lane.mitigating.identify, float(state["seconds"])
        # States from before there was anything within an epoch have at least one behind them.
        identified, first = state.get("identified", len(fits)), state.get("first")
        if first is not None:
            lane = self._first_lane(fits[identified])
            lane.load_state_dict(first["lane"])
            self.first = _First(lane, first["before"], first["passes"])
        self.identified, self.before = identified, before
        self.first_images = state.get("first_images", 0)
        self.steps = state.get("steps", self.lane.taken)
        self.epoch_before = float(state.get("epoch_seconds", 0.0))
        return reports


def _unmitigated(recipe: Recipe, epochs: int) -> Recipe:
    """Return a resolved recipe without mitigations and with `epochs` epochs."""
    optim = recipe.optim.model_copy(update={"epochs": epochs})
    return recipe.model_copy(update={"mitigations": (), "optim": optim})
