"""By what a run is judged: objectives, and the `validation` block of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import pydantic

from fairtune.config import Config, parse
from fairtune.config.model import carried
from fairtune.errors import ConfigError, DataError, FairtuneError, Problems
from fairtune.evaluation.constraints import Constraint, Harm, figures
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.parts import confirm_rows
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import GroupMinimum, ThresholdRule
from fairtune.evaluation.scoring import evaluate_objectives
from fairtune.evaluation.thresholds import fit_threshold
from fairtune.experiment.stored import StoredRun

Part = Literal["all", "search", "confirm"]
"""Rows of validation: all, those that the search sees, those kept for confirm and selection."""


class BestEpoch(Config):
    """Keep the epoch with the best value of an overall utility on validation."""

    best: str

    @pydantic.field_validator("best")
    @classmethod
    def _utility(cls, text: str) -> str:
        try:
            objective = Objective.parse(text)
            grouped = objective.attribute is not None or objective.reduction != "overall"
            if grouped or objective.is_cost:
                raise ConfigError(
                    "the epoch is chosen by a utility, never by a fairness objective or a cost",
                    found=text,
                    allowed="an overall metric, e.g. auc or nll",
                )
        except FairtuneError as error:
            raise carried(error) from None
        return str(objective)


class Validation(Config):
    """How validation predictions are read; the same in search, baseline, confirm and finetune.

    Attributes:
        epoch: `last`, or `{best: METRIC}` with METRIC an overall utility.
        threshold: One rule for all groups; cross-fitted on patient-disjoint folds.
        min_group: What a group must have before its figure counts.
        folds: Runs of one trial: each is validated on one fold of the train and val rows and
            fitted on the others; 1 for the official split.
        confirm_part: Share of the validation patients that search and baselines do not see:
            confirm runs and selection are judged by them alone. Not with folds.
    """

    epoch: Literal["last"] | BestEpoch = "last"
    threshold: str | dict[str, float] = "youden"
    min_group: dict[str, int] = pydantic.Field(default_factory=dict)
    folds: Annotated[int, pydantic.Field(ge=1)] = 1
    confirm_part: Annotated[float, pydantic.Field(ge=0, le=0.8)] = 0.0

    @pydantic.field_validator("epoch", mode="before")
    @classmethod
    def _epoch(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        try:
            return parse(BestEpoch, value)  # so that its faults are told without those of `last`
        except FairtuneError as error:
            raise carried(error) from None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Validation:
        problems: list[FairtuneError] = []
        for name, parse_part in (
            ("threshold", lambda: ThresholdRule.parse(self.threshold)),
            ("min_group", lambda: GroupMinimum.from_dict(self.min_group)),
        ):
            try:
                parse_part()
            except FairtuneError as fault:
                carried(fault, name)
                problems += getattr(fault, "problems", [fault])
        if problems:
            raise carried(Problems("validation", problems))
        return self

    @pydantic.model_validator(mode="after")
    def _one_split(self) -> Validation:
        if self.confirm_part and self.folds > 1:
            raise carried(
                ConfigError(
                    "confirm_part needs one validation split, and folds have several",
                    found={"folds": self.folds, "confirm_part": self.confirm_part},
                    todo="keep one of the two",
                ),
                "confirm_part",
            )
        return self

    @property
    def minimum(self) -> GroupMinimum:
        """What a group must have."""
        return GroupMinimum.from_dict(self.min_group)

    @property
    def rule(self) -> ThresholdRule:
        """The threshold rule."""
        return ThresholdRule.parse(self.threshold)


def compared_by(objectives: Sequence[Objective]) -> str | None:
    """Return the attribute of the first objective that compares groups, if any does."""
    return next((o.attribute for o in objectives if o.attribute is not None), None)


@dataclass(frozen=True)
class Judge:
    """Objectives and the rules under which they are read.

    Attributes:
        objectives: What is optimised, the primary one first.
        validation: The study's validation block.
        constraints: What a recipe must keep to.
        seed: Seed of the study; with `confirm_part` it says which patients are kept.
        part: Rows of validation that this judge looks at.
    """

    objectives: tuple[Objective, ...]
    validation: Validation = field(default_factory=Validation)
    constraints: tuple[Constraint, ...] = ()
    seed: int = 0
    part: Part = "all"

    @classmethod
    def of(
        cls,
        objectives: Sequence[str],
        validation: Mapping[str, Any] | None = None,
        constraints: Sequence[str] = (),
        seed: int = 0,
    ) -> Judge:
        """Return the judge of objectives and constraints written as text."""
        return cls(
            tuple(Objective.parse(text) for text in objectives),
            Validation.model_validate(dict(validation or {})),
            tuple(Constraint.parse(text) for text in constraints),
            seed,
        )

    @property
    def primary(self) -> Objective:
        """The first objective."""
        return self.objectives[0]

    @property
    def attribute(self) -> str | None:
        """The attribute of the first objective that compares groups, if any does."""
        return compared_by(self.objectives)

    def on(self, part: Part) -> Judge:
        """Return the judge that looks at `part` of the validation rows."""
        return replace(self, part=part)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that a study judges by: one, or two with `confirm_part`."""
        return ("search", "confirm") if self.validation.confirm_part else ("all",)

    def seen(self, predictions: Predictions) -> Predictions:
        """Return the rows of a whole validation table that this judge looks at."""
        share = self.validation.confirm_part
        if not share or self.part == "all":
            return predictions
        kept = confirm_rows(predictions, share, self.seed)
        return predictions.take(np.flatnonzero(kept if self.part == "confirm" else ~kept))

    def values(self, predictions: Predictions) -> dict[str, float]:
        """Return every objective of a whole validation table, thresholds cross-fitted."""
        return evaluate_objectives(
            self.seen(predictions),
            self.objectives,
            minimum=self.validation.minimum,
            threshold=self.validation.rule,
        )

    def known_values(self, predictions: Predictions) -> dict[str, float]:
        """Return the objectives that these rows can answer: a fold may lack groups for some."""
        seen = self.seen(predictions)
        found: dict[str, float] = {}
        for objective in self.objectives:
            try:
                found |= evaluate_objectives(
                    seen,
                    [objective],
                    minimum=self.validation.minimum,
                    threshold=self.validation.rule,
                )
            except DataError:
                continue
        return found

    def harm(self, attributes: Sequence[str]) -> Harm:
        """Return in what `no_harm` compares groups of `attributes`."""
        return Harm.of(self.primary, attributes)

    def figures(self, predictions: Predictions) -> dict[str, float]:
        """Return what the constraints read of a whole validation table, empty without any."""
        return figures(
            self.seen(predictions),
            self.constraints,
            self.harm(list(predictions.attributes)),
            minimum=self.validation.minimum,
            threshold=self.validation.rule,
        )

    def epoch_value(self, predictions: Predictions) -> float:
        """Return the epoch rule's utility, larger is better; 0 for `last`.

        Read on what the search sees, by every judge: the kept epoch is one of a run.
        """
        if isinstance(self.validation.epoch, str):
            return 0.0
        objective = Objective.parse(self.validation.epoch.best)
        found = evaluate_objectives(
            self.on("search").seen(predictions),
            [objective],
            minimum=self.validation.minimum,
            threshold=self.validation.rule,
        )
        return found[str(objective)] * objective.sign

    def epoch_of(self, run: StoredRun) -> int:
        """Return the epoch that the rule keeps, counted from 1; the earliest of equals."""
        last = len(run.scores)
        if isinstance(self.validation.epoch, str):
            return last
        values = [self.epoch_value(run.validation(n)) for n in range(1, last + 1)]
        return values.index(max(values)) + 1

    def threshold(self, predictions: Predictions) -> float | tuple[float, ...] | None:
        """Return the threshold fitted on all of validation, one per target, or None."""
        if predictions.task == "multiclass":
            return None
        return fit_threshold(predictions, self.validation.rule)

    def to_json(self) -> dict[str, Any]:
        """Return what travels beside the recipe."""
        return {
            "objectives": [str(o) for o in self.objectives],
            "validation": self.validation.to_json(),
            **({"constraints": [str(c) for c in self.constraints]} if self.constraints else {}),
            **({"seed": self.seed} if self.validation.confirm_part else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Judge:
        """Return the judge that `to_json` wrote."""
        return cls.of(
            data["objectives"],
            data["validation"],
            data.get("constraints", ()),
            int(data.get("seed", 0)),
        )
