"""By what a run is judged: objectives, and the `validation` block of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pydantic

from fairtune.config import Config, parse
from fairtune.config.model import carried
from fairtune.errors import ConfigError, FairtuneError, Problems
from fairtune.evaluation.constraints import Constraint, Harm, figures
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import GroupMinimum, ThresholdRule
from fairtune.evaluation.scoring import evaluate_objectives
from fairtune.experiment.runs import StoredRun

LATER = {"folds": 1, "confirm_part": 0.0}
"""Fields of later capabilities with the only value they take now."""


class BestEpoch(Config):
    """Keep the epoch with the best value of an overall utility on validation."""

    best: str

    @pydantic.field_validator("best")
    @classmethod
    def _utility(cls, text: str) -> str:
        try:
            objective = Objective.parse(text)
            if objective.attribute is not None or objective.reduction != "overall":
                raise ConfigError(
                    "the epoch is chosen by a utility, never by a fairness objective",
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
        folds: Training folds of one trial; a later version.
        confirm_part: Share of validation kept for confirm; a later version.
    """

    epoch: Literal["last"] | BestEpoch = "last"
    threshold: str | dict[str, float] = "youden"
    min_group: dict[str, int] = pydantic.Field(default_factory=dict)
    folds: int = 1
    confirm_part: float = 0.0

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
        for name, only in LATER.items():
            if getattr(self, name) != only:
                error = ConfigError(
                    f"'{name}' is not available in this version",
                    found=getattr(self, name),
                    allowed=only,
                )
                carried(error, name)
                problems.append(error)
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

    @property
    def minimum(self) -> GroupMinimum:
        """What a group must have."""
        return GroupMinimum.from_dict(self.min_group)

    @property
    def rule(self) -> ThresholdRule:
        """The threshold rule."""
        return ThresholdRule.parse(self.threshold)


@dataclass(frozen=True)
class Judge:
    """Objectives and the rules under which they are read.

    Attributes:
        objectives: What is optimised, the primary one first.
        validation: The study's validation block.
        constraints: What a recipe must keep to.
    """

    objectives: tuple[Objective, ...]
    validation: Validation = field(default_factory=Validation)
    constraints: tuple[Constraint, ...] = ()

    @classmethod
    def of(
        cls,
        objectives: Sequence[str],
        validation: Mapping[str, Any] | None = None,
        constraints: Sequence[str] = (),
    ) -> Judge:
        """Return the judge of objectives and constraints written as text."""
        return cls(
            tuple(Objective.parse(text) for text in objectives),
            Validation.model_validate(dict(validation or {})),
            constraints=tuple(Constraint.parse(text) for text in constraints),
        )

    @property
    def primary(self) -> Objective:
        """The first objective."""
        return self.objectives[0]

    def values(self, predictions: Predictions) -> dict[str, float]:
        """Return every objective of validation predictions, thresholds cross-fitted."""
        return evaluate_objectives(
            predictions,
            self.objectives,
            minimum=self.validation.minimum,
            threshold=self.validation.rule,
        )

    def harm(self, attributes: Sequence[str]) -> Harm:
        """Return in what `no_harm` compares groups of `attributes`."""
        return Harm.of(self.primary, attributes)

    def figures(self, predictions: Predictions) -> dict[str, float]:
        """Return what the constraints read of validation predictions, empty without any."""
        return figures(
            predictions,
            self.constraints,
            self.harm(list(predictions.attributes)),
            minimum=self.validation.minimum,
            threshold=self.validation.rule,
        )

    def epoch_value(self, predictions: Predictions) -> float:
        """Return the epoch rule's utility, larger is better; 0 for `last`."""
        if isinstance(self.validation.epoch, str):
            return 0.0
        objective = Objective.parse(self.validation.epoch.best)
        found = evaluate_objectives(
            predictions,
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
        rule = self.validation.rule
        fitted = tuple(rule.fit(p.label, p.score) for p in predictions.per_target())
        return fitted if predictions.task == "multilabel" else fitted[0]

    def to_json(self) -> dict[str, Any]:
        """Return what travels beside the recipe."""
        return {
            "objectives": [str(o) for o in self.objectives],
            "validation": self.validation.to_json(),
            **({"constraints": [str(c) for c in self.constraints]} if self.constraints else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Judge:
        """Return the judge that `to_json` wrote."""
        return cls.of(
            data["objectives"], data["validation"], constraints=data.get("constraints", ())
        )
