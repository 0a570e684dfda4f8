"""From a claim to its outcome: the only place where a study touches the inner run.

A claim has one run, or several: at each level of fidelity one per fold. They are made one after
another, each stored under its own key, so that a retry finds those that are finished.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fairtune.config import parse
from fairtune.errors import LOST, EndpointAway, FairtuneError, RunError, StorageError
from fairtune.evaluation.groups import lacking
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.scoring import degenerate, evaluate_objectives, group_values
from fairtune.experiment.judge import Judge
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import PAID, USED, StoredRun, added_costs
from fairtune.study.claim import Claim
from fairtune.study.parts import Part
from fairtune.study.plan import Plan
from fairtune.study.rank import DEGENERATE
from fairtune.study.rows import STALE, Complete, Failed, Outcome, Pruned, part_of
from fairtune.study.shortlist import DRAWS, draws_of
from fairtune.study.worker import Stop
from fairtune.training.observer import Epoch
from fairtune.training.recipe import Recipe, Seeds

if TYPE_CHECKING:
    from fairtune.experiment.run import Order, Stopped
    from fairtune.training.session import Session

PRUNED, GIVEN_BACK = "pruned: ", "stopped: "
DETAIL = 4000
COSTS = ("seconds", "epochs", "images_per_second", "trainable_share", USED, PAID)
LACKING = "folds_without"
"""Attribute of a row: groups with the number of folds that have too few of their rows."""

TERMS = "terms"
"""Attribute of a row: what the terms of mitigations weighed beside the task, in its last run."""

PLANNED = "epochs_planned"
"""Attribute of a pruned row of several runs: epochs of all of them."""


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
class Course:
    """A claim on its way through its runs.

    Attributes:
        claim: The row.
        parts: Its runs, in their order.
        judge: Looks at the rows that its phase may look at.
        made: Those that are finished.
    """

    claim: Claim
    parts: Sequence[Part]
    judge: Judge
    made: list[StoredRun] = field(default_factory=list)

    @property
    def part(self) -> Part:
        """The run that is next, or under way."""
        return self.parts[len(self.made)]

    @property
    def spent(self) -> dict[str, float]:
        """What the finished runs cost together."""
        return added_costs([run.costs for run in self.made]) if self.made else {}

    @property
    def planned(self) -> dict[str, float]:
        """Epochs of all runs, where there are several."""
        epochs = sum(part.recipe.optim.epochs for part in self.parts)
        return {PLANNED: float(epochs)} if len(self.parts) > 1 else {}


class _GoesOn:
    """The claim has another run to make."""


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
        if self.stop.reason() is not None:
            return
        for claim in claims:
            self.notify(Event("claim", claim))
        going = [self._course(claim) for claim in claims]
        while going:
            left: list[Course] = []
            for course, outcome in self._round(going, alone=len(claims) == 1):
                if isinstance(outcome, _GoesOn):
                    if self.stop.reason() is None and course.claim.poll() is None:
                        left.append(course)
                elif outcome is not None:
                    outcome = self.bound(course.claim, outcome)
                    self.notify(Event("finish", course.claim, outcome=outcome))
                    yield course.claim, outcome
            going = left

    def _round(
        self, going: Sequence[Course], *, alone: bool
    ) -> Iterator[tuple[Course, Outcome | _GoesOn | None]]:
        """Make the next run of every course together."""
        from fairtune.experiment.run import run_together

        orders = [self._order(course) for course in going]
        judge = self.plan.study.judge
        for number, end in run_together(orders, self.session, self.runs, judge):
            yield going[number], self._outcome(going[number], end, alone=alone)

    def _course(self, claim: Claim) -> Course:
        recipe = parse(Recipe, dict(claim.proposal.recipe))
        judge = self.plan.study.judge.on(part_of(claim.phase))
        return Course(claim, self.plan.parts(recipe, claim.phase), judge)

    def _order(self, course: Course) -> Order:
        from fairtune.experiment.run import Order
        from fairtune.training.train import Job

        claim, part = course.claim, course.part
        return Order(
            Job(part.recipe, parse(Seeds, dict(claim.proposal.seed))),
            watcher=_Watch(self, claim, course.judge, part),
            judge=course.judge,
            provenance={
                "study": self.plan.study.name,
                "phase": claim.phase,
                "number": claim.number,
                "attempt": claim.attempt,
                **part.place,
            },
        )

    def _outcome(
        self, course: Course, end: StoredRun | Stopped | Exception, *, alone: bool
    ) -> Outcome | _GoesOn | None:
        try:
            if isinstance(end, StoredRun):
                return self._made(course, end)
            if isinstance(end, Exception):
                raise end
            return self._ended(end, course)
        except (StorageError, EndpointAway):
            raise  # the disk or endpoint, not the recipe, is at fault: no row should pay for it
        except FairtuneError as error:
            reason = error.reason if isinstance(error, RunError) else "error"
            if reason == LOST:
                # As if all of them had gone; whoever tries the run again goes on from its state.
                return Failed(STALE, str(error))
            # In company another run may have taken the memory.
            return Failed(reason, str(error), retry=reason == "oom" and not alone)
        except Exception as error:
            return Failed(
                "error", "".join(traceback.format_exception(error))[-DETAIL:], retry=True
            )

    def _made(self, course: Course, run: StoredRun) -> Outcome | _GoesOn:
        """Take in a finished run: go on to the next, be pruned after a level, or be complete."""
        part = course.part
        course.made.append(run)
        if not part.ends_level:
            return _GoesOn()
        whole = run
        if part.folds > 1:
            from fairtune.experiment.folded import fold_together

            whole = fold_together(course.made[-part.folds :], self.runs, course.judge)
        if part.level == part.levels:
            return self._complete(course, whole)
        return self._judged(course, part, whole)

    def _ended(self, end: Stopped, course: Course) -> Outcome | None:
        if end.reason.startswith(PRUNED):
            names = [str(objective) for objective in self.plan.study.judge.objectives]
            # One fold may not answer every objective.
            last = [end.values[name] for name in names] if set(names) <= set(end.values) else None
            spent = {"seconds": end.seconds, "epochs": float(end.epochs), **course.planned}
            spent |= {name: n + course.spent.get(name, 0.0) for name, n in end.queries.items()}
            return Pruned(end.epochs, last, spent, end.reason.removeprefix(PRUNED))
        if course.claim.poll() is None:
            # Where several processes share a run, another one may be who was told.
            self.stop.request(end.reason.removeprefix(GIVEN_BACK))
        return None  # stopped: the loop gives the claim back

    def _judged(self, course: Course, part: Part, made: StoredRun) -> Outcome | _GoesOn:
        judge = course.judge
        epoch = judge.epoch_of(made)
        values = judge.values(made.validation(epoch))
        every = [values[str(o)] for o in judge.objectives]
        losses = made.epochs.set_index("epoch")["val_loss"]
        decision = course.claim.report(part.level, part.levels, float(losses[epoch]), every)
        if decision.stop is None:
            return _GoesOn()
        added = ("seconds", "epochs", USED, PAID)
        spent = {name: course.spent[name] for name in added if name in course.spent}
        attrs = {**spent, **course.planned, "level": part.level}
        return Pruned(int(spent["epochs"]), every, attrs, decision.stop)

    def _complete(self, course: Course, made: StoredRun) -> Outcome:
        judge = course.judge
        whole = made.validation(judge.epoch_of(made))
        values, predictions = judge.values(whole), judge.seen(whole)
        costs = course.spent
        attrs: dict[str, Any] = {
            **group_figures(predictions, judge),
            **judge.figures(whole),
            **{name: costs[name] for name in COSTS if name in costs},
        }
        if terms := _terms(course.made[-1].mitigations):
            attrs[TERMS] = terms
        if len(judge.objectives) > 1:
            rules = judge.validation
            attrs[DRAWS] = draws_of(
                predictions, judge.objectives, minimum=rules.minimum, threshold=rules.rule
            )
        left_out = few_folds(predictions, judge)
        if left_out:
            attrs[LACKING] = left_out
        why = degenerate(predictions)
        if why is not None:
            attrs[DEGENERATE] = why
        return Complete([values[str(o)] for o in judge.objectives], attrs)


@dataclass
class _Watch:
    """The watcher of one run: passes epochs to the pruner and to whoever shows progress.

    The pruner judges epochs of the first fold, where all trials have the same validation rows;
    where there are levels of fidelity, it judges those.
    """

    executor: Executor
    claim: Claim
    judge: Judge
    part: Part

    def epoch(self, report: Epoch, values: Mapping[str, float]) -> str | None:
        names = [str(objective) for objective in self.judge.objectives]
        objective = values.get(names[0])
        said = {} if objective is None else {"objective": objective}
        self.claim.progress.update(
            epoch=report.number,
            of=report.of,
            images_per_second=round(report.images / max(report.seconds, 1e-9), 1),
            **said,
            **self.part.place,
        )
        self.executor.notify(Event("epoch", self.claim, report, values))
        by_level = bool(self.executor.plan.study.fidelity.values)
        if report.number == report.of or by_level or self.part.fold > 1:
            return None
        # A fold that cannot answer every objective cannot for any trial: the loss stands for them.
        every = [values[name] for name in names] if set(names) <= set(values) else None
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


def _terms(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run says of terms, without counts of patients, which stay in its folder."""
    found = {
        name: {when: part[when] for when in ("start", "end") if when in part}
        for name, part in said.items()
    }
    return {name: part for name, part in found.items() if part}


def few_folds(predictions: Predictions, judge: Judge) -> dict[str, int]:
    """Return `ATTRIBUTE/GROUP` with the number of folds whose rows are too few for its AUC."""
    if predictions.models == 1:
        return {}
    return {
        f"{name}/{group}": count
        for name in predictions.attributes
        for group, count in lacking(predictions, name, "auc", judge.validation.minimum).items()
    }


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
