"""From a claim to its outcome: the only place where a study touches the inner run."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fairtune.errors import FairtuneError, RunError, StorageError
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.scoring import degenerate, evaluate_objectives, group_values
from fairtune.experiment.judge import Judge
from fairtune.experiment.runs import Runs, StoredRun
from fairtune.study.claim import Claim
from fairtune.study.plan import Plan
from fairtune.study.rank import DEGENERATE
from fairtune.study.rows import Complete, Failed, Outcome, Pruned, part_of
from fairtune.study.shortlist import DRAWS, draws_of
from fairtune.study.worker import Stop
from fairtune.training.observer import Epoch
from fairtune.training.recipe import Seeds

if TYPE_CHECKING:
    from fairtune.experiment.run import Order, Stopped
    from fairtune.training.session import Session

PRUNED, GIVEN_BACK = "pruned: ", "stopped: "
DETAIL = 4000
COSTS = ("seconds", "epochs", "images_per_second", "trainable_share")


@dataclass(frozen=True)
class Event:
    """What a worker tells whoever shows progress.

    Attributes:
        kind: `claim`, `epoch` or `finish`.
        claim: The row.
        report: The epoch, for `epoch`.
        values: Objectives of the epoch or outcome.
        outcome: For `finish`.
    """

    kind: str
    claim: Claim
    report: Epoch | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    outcome: Outcome | None = None


@dataclass(eq=False)
class Executor:
    """Runs claims, all it is given together.

    Attributes:
        plan: The study with its pins.
        session: What the process keeps between runs.
        runs: Where runs are stored.
        stop: Asked at every step.
        notify: Told of claims, epochs and outcomes.
        bound: Adds to an outcome what it violates.
    """

    plan: Plan
    session: Session
    runs: Runs
    stop: Stop
    notify: Callable[[Event], None] = lambda event: None
    bound: Callable[[Claim, Outcome], Outcome] = lambda claim, outcome: outcome

    def __call__(self, claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        """Make the runs of `claims` together; yield each claim with its outcome when it ends.

        A claim that was told to stop is left out.
        """
        from fairtune.experiment.run import run_together

        if self.stop.reason() is not None:
            return
        for claim in claims:
            self.notify(Event("claim", claim))
        orders = [self._order(claim) for claim in claims]
        # Of claims of several phases the earliest comes first: its runs may be pruned.
        judge = self.plan.study.judge.on(part_of(claims[0].phase))
        for number, end in run_together(orders, self.session, self.runs, judge):
            outcome = self._outcome(end, claims[number].phase, alone=len(claims) == 1)
            if outcome is not None:
                outcome = self.bound(claims[number], outcome)
                self.notify(Event("finish", claims[number], outcome=outcome))
                yield claims[number], outcome

    def _order(self, claim: Claim) -> Order:
        from fairtune.config import parse
        from fairtune.experiment.run import Order
        from fairtune.training.recipe import Recipe
        from fairtune.training.train import Job

        proposal = claim.proposal
        return Order(
            Job(parse(Recipe, dict(proposal.recipe)), parse(Seeds, dict(proposal.seed))),
            watcher=_Watch(self, claim, self.plan.study.judge),
            provenance={
                "study": self.plan.study.name,
                "phase": claim.phase,
                "number": claim.number,
                "attempt": claim.attempt,
            },
        )

    def _outcome(
        self, end: StoredRun | Stopped | Exception, phase: str, *, alone: bool
    ) -> Outcome | None:
        try:
            if isinstance(end, StoredRun):
                return self._complete(end, phase)
            if isinstance(end, Exception):
                raise end
            return _ended(end.reason, end.epochs, end.values, end.seconds, self.plan)
        except StorageError:
            raise  # the disk, not the recipe, is at fault: no row should pay for it
        except FairtuneError as error:
            reason = error.reason if isinstance(error, RunError) else "error"
            # In company another run may have taken the memory.
            return Failed(reason, str(error), retry=reason == "oom" and not alone)
        except Exception as error:
            return Failed(
                "error", "".join(traceback.format_exception(error))[-DETAIL:], retry=True
            )

    def _complete(self, made: StoredRun, phase: str) -> Outcome:
        judge = self.plan.study.judge.on(part_of(phase))
        whole = made.validation(judge.epoch_of(made))
        values, predictions = judge.values(whole), judge.seen(whole)
        attrs: dict[str, Any] = {
            **group_figures(predictions, judge),
            **judge.figures(predictions),
            **{name: made.costs[name] for name in COSTS},
        }
        if len(judge.objectives) > 1:
            rules = judge.validation
            attrs[DRAWS] = draws_of(
                predictions, judge.objectives, minimum=rules.minimum, threshold=rules.rule
            )
        why = degenerate(predictions)
        if why is not None:
            attrs[DEGENERATE] = why
        return Complete([values[str(o)] for o in judge.objectives], attrs)


@dataclass
class _Watch:
    """The watcher of one claim: passes epochs to the pruner and to whoever shows progress."""

    executor: Executor
    claim: Claim
    judge: Judge

    def epoch(self, report: Epoch, values: Mapping[str, float]) -> str | None:
        objective = values[str(self.judge.primary)]
        self.claim.progress.update(
            epoch=report.number,
            of=report.of,
            images_per_second=round(report.images / max(report.seconds, 1e-9), 1),
            objective=objective,
        )
        self.executor.notify(Event("epoch", self.claim, report, values))
        if report.number == report.of:
            return None
        every = [values[str(o)] for o in self.judge.objectives]
        decision = self.claim.report(report.number, report.of, report.val_loss, every)
        return None if decision.stop is None else PRUNED + decision.stop

    def poll(self) -> str | None:
        reason = self.claim.poll() or self.executor.stop.reason()
        return None if reason is None else GIVEN_BACK + reason


def group_figures(predictions: Predictions, judge: Judge) -> dict[str, float]:
    """Return overall AUC and, per attribute, worst AUC, gap and every group's, as flat attributes.

    Names are those of objectives; a group's AUC is called `auc@ATTRIBUTE/GROUP`.

    What cannot be computed, for want of eligible groups, is left out.
    """
    texts = ["auc"]
    for name in predictions.attributes:
        texts += [f"worst_auc@{name}", f"auc_gap@{name}"]
    found: dict[str, float] = {}
    for text in texts:
        try:
            found |= evaluate_objectives(
                predictions,
                [Objective.parse(text)],
                minimum=judge.validation.minimum,
                threshold=judge.validation.rule,
            )
        except FairtuneError:
            continue
    for name in predictions.attributes:
        found |= _of_groups(predictions, name, judge)
    return found


def _of_groups(predictions: Predictions, name: str, judge: Judge) -> dict[str, float]:
    try:
        values = group_values(
            predictions,
            "auc",
            name,
            minimum=judge.validation.minimum,
            threshold=judge.validation.rule,
        )
    except FairtuneError:
        return {}
    return {f"auc@{name}/{group}": value for group, value in values.items()}


def _ended(
    reason: str, epochs: int, values: Mapping[str, float], seconds: float, plan: Plan
) -> Outcome | None:
    if reason.startswith(PRUNED):
        objectives = plan.study.judge.objectives
        last = [values[str(o)] for o in objectives] if values else None
        spent = {"seconds": seconds, "epochs": float(epochs)}
        return Pruned(epochs, last, spent, reason.removeprefix(PRUNED))
    return None  # stopped: the loop gives the claim back
