"""Contests between recipes: of a study's confirmed runs, or of the rows of its search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fairtune.config import parse
from fairtune.errors import ConfigError, DataError, StudyError
from fairtune.evaluation.constraints import Constraint, Harm, figures
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.sampled import Sampled, Side, sample
from fairtune.evaluation.scoring import degenerate, evaluate_objectives, group_values
from fairtune.experiment.judge import Judge, Validation
from fairtune.study.bounds import reference_of
from fairtune.study.judged import no_cost_first
from fairtune.study.overview import Candidate, Overview
from fairtune.study.rank import is_unusable
from fairtune.study.selection import Contest, Entrant, utility_of

REPLICATES = 400
"""Draws behind a standard error: its own error is then 4 %."""


@dataclass(frozen=True)
class Reading:
    """How stored predictions are read; None keeps what the study says.

    Attributes:
        objectives: Objectives, the primary one first.
        attribute: Attribute that every objective over groups is read at.
        epoch: `last`, or `best:METRIC`.
    """

    objectives: tuple[str, ...] = ()
    attribute: str | None = None
    epoch: str | None = None

    def judge(self, view: Overview) -> Judge:
        """Return the judge of the confirmed runs.

        Raises:
            ConfigError: An objective, attribute or epoch rule that is not there.
        """
        judge = view.judge
        if self.objectives:
            asked = tuple(Objective.parse(text) for text in self.objectives)
            judge = replace(judge, objectives=asked)
            if (error := no_cost_first(asked)) is not None:
                raise error
        if self.attribute is not None:
            moved = tuple(_at(o, self.attribute) for o in judge.objectives)
            judge = replace(judge, objectives=tuple(dict.fromkeys(moved)))
        if self.epoch is not None:
            word, _, metric = self.epoch.partition(":")
            rule = {"best": metric} if word == "best" and metric else self.epoch
            fields = {**judge.validation.to_json(), "epoch": rule}
            judge = replace(judge, validation=parse(Validation, fields))
        known = list(view.base.data.attributes)
        for objective in judge.objectives:
            for name in (objective.attribute or "").split("*"):
                if name and name not in known:
                    raise ConfigError(
                        "the study's predictions hold no such attribute", found=name, allowed=known
                    )
        return judge.on("confirm")


def _at(objective: Objective, attribute: str) -> Objective:
    return objective if objective.attribute is None else replace(objective, attribute=attribute)


@dataclass(frozen=True, eq=False)
class Confirmed:
    """The confirmed recipes of a study, read once.

    Attributes:
        view: The study.
        candidates: Its candidates; those without confirm runs and the control take no part.
        judge: How their predictions are read.
        replicates: Draws behind standard errors.
    """

    view: Overview
    candidates: Sequence[Candidate]
    judge: Judge
    replicates: int = REPLICATES

    @cached_property
    def predictions(self) -> dict[str, list[Predictions]]:
        """Validation predictions of every confirmed recipe, one per seed."""
        judge = self.judge
        return {
            c.label: [judge.seen(run.validation(judge.epoch_of(run))) for run in c.runs]
            for c in self.candidates
            if c.runs
        }

    @cached_property
    def unfit(self) -> dict[str, str]:
        """Why a recipe's predictions count for nothing, by label."""
        found = {}
        for label, seeds in self.predictions.items():
            reason = next((why for p in seeds if (why := degenerate(p)) is not None), None)
            if reason is not None:
                found[label] = reason
        return found

    @cached_property
    def sampled(self) -> dict[str, Sampled]:
        """Objectives with their draws: patients shared by all, seeds of each recipe."""
        rule = self.judge.validation.rule
        return sample(
            {label: Side(seeds, rule) for label, seeds in self.predictions.items()},
            self.judge.objectives,
            minimum=self.judge.validation.minimum,
            replicates=self.replicates,
        )

    @cached_property
    def attribute(self) -> str | None:
        """Attribute whose groups are compared: the first that an objective names, or the first."""
        named = [o.attribute for o in self.judge.objectives if o.attribute is not None]
        return next(iter([*named, *self.view.base.data.attributes]), None)

    @cached_property
    def contest(self) -> Contest:
        """The contest.

        Raises:
            StudyError: Nothing is confirmed, or everything is degenerate.
            DataError: An objective cannot be computed.
        """
        if not self.predictions:
            raise StudyError(
                "nothing is confirmed yet, and rules compare confirmed recipes",
                todo="let `fairtune search` finish, with confirm.top above 0; the rule `best` "
                "can do without",
            )
        fit = [c for c in self.candidates if c.runs and c.label not in self.unfit]
        fit = fit or [
            c for c in self.candidates if c.runs and not is_unusable(self.unfit.get(c.label))
        ]
        entrants = {c.label: self._entrant(c) for c in fit if not c.is_control}
        if not entrants:
            raise StudyError("there is nothing to pick from", found="every recipe is degenerate")
        return Contest(
            tuple(entrants.values()),
            tuple(entrants[c.label] for c in fit if c.is_baseline),
            self.judge.objectives,
            utility_of(self.judge.primary),
            self.attribute,
            tuple(str(c) for c in self.judge.constraints),
            lambda label, objective: self.sampled[label].of(objective).se,
        )

    def _entrant(self, candidate: Candidate) -> Entrant:
        label, names = candidate.label, [str(o) for o in self.judge.objectives]
        values = [
            evaluate_objectives(p, self.judge.objectives, **self._rules)
            for p in self.predictions[label]
        ]
        return Entrant(
            label,
            {name: float(np.mean([v[name] for v in values])) for name in names},
            float(candidate.runs[0].costs["trainable"]),
            self._groups(label),
            self._scaled(label),
            self._violation(label),
        )

    @property
    def _rules(self) -> dict[str, Any]:
        validation = self.judge.validation
        return {"minimum": validation.minimum, "threshold": validation.rule}

    def _groups(self, label: str) -> dict[str, float]:
        if self.attribute is None:
            return {}
        utility = utility_of(self.judge.primary)
        try:
            return _mean(
                [
                    group_values(p, utility, self.attribute, **self._rules)
                    for p in self.predictions[label]
                ]
            )
        except DataError:
            return {}

    def _scaled(self, label: str) -> float | None:
        if self.attribute is None:
            return None
        asked = Objective(utility_of(self.judge.primary), "es", self.attribute)
        try:
            found = [
                evaluate_objectives(p, [asked], **self._rules) for p in self.predictions[label]
            ]
        except DataError:
            return None
        return float(np.mean([value for one in found for value in one.values()]))

    def _violation(self, label: str) -> float:
        limits = self.judge.constraints
        if not limits:
            return 0.0
        mine = self._figures[label]
        baselines = {
            c.label: self._figures[c.label]
            for c in self.candidates
            if c.is_baseline and c.label in self._figures
        }
        if not baselines and any(limit.needs_baselines for limit in limits):
            raise StudyError(
                "a constraint is relative to a baseline, and none is confirmed",
                found=[str(limit) for limit in limits],
            )
        primary = self.judge.primary
        values = {n: primary.sign * found[str(primary)] for n, found in baselines.items()}
        reference = reference_of(values, [n for n in values if n in self.unfit])
        return total_violation(limits, mine, baselines, reference, self._harm)

    @cached_property
    def _harm(self) -> Harm:
        return self.judge.harm(self.view.base.data.attributes)

    @cached_property
    def _figures(self) -> dict[str, dict[str, float]]:
        """What constraints read of every recipe, and its objectives: means over its seeds."""
        found = {}
        for label, seeds in self.predictions.items():
            each = []
            for p in seeds:
                own = figures(p, self.judge.constraints, self._harm, **self._rules)
                each.append(own | evaluate_objectives(p, self.judge.objectives, **self._rules))
            found[label] = _mean(each)
        return found


def total_violation(
    constraints: Sequence[Constraint],
    run: Mapping[str, float],
    baselines: Mapping[str, Mapping[str, float]],
    reference: str | None,
    harm: Harm,
) -> float:
    """Return the sum of what a run violates constraints by; 0 when it meets all."""
    found = [c.violation(run, baselines, reference, harm) for c in constraints]
    return float(sum(max(0.0, amount) for amount in found))


def _mean(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = [name for name in each[0] if all(name in one for one in each)]
    return {name: float(np.mean([one[name] for one in each])) for name in names}
