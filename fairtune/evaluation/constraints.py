"""What a recipe must keep to: one grammar, one parser, one printer, and by how much it fails.

    constraint = OBJECTIVE (>=|<=) (NUMBER | baseline[NAME] [+|- NUMBER]) | no_harm(DELTA)

A run is read as its *figures*: plain numbers by name, objectives as they print, group values as
`METRIC@ATTRIBUTE/GROUP`. They are computed once from predictions; whether a constraint holds then
follows from the figures of the run and those of the baselines alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fairtune.errors import ConfigError, DataError, did_you_mean
from fairtune.evaluation.harm import smallest_change
from fairtune.evaluation.metrics import NUMBER
from fairtune.evaluation.objectives import COMPOUNDS, Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import GroupMinimum, Threshold
from fairtune.evaluation.scoring import evaluate_objectives, group_values

Relation = Literal[">=", "<=", "no_harm"]
SIGNED = rf"[+-]?\s*{NUMBER}"
BOUND = re.compile(
    rf"(?:(?P<number>{SIGNED})|baseline\[(?P<name>[^\[\]]+)\]\s*(?P<offset>[+-]\s*{NUMBER})?)"
)
NO_HARM = re.compile(rf"no_harm\(\s*(?P<delta>{NUMBER})\s*\)")
CONSTRAINT_FORM = "OBJECTIVE >= NUMBER | OBJECTIVE <= baseline[NAME] + NUMBER | no_harm(DELTA)"


@dataclass(frozen=True)
class Harm:
    """In what `no_harm` compares groups.

    Attributes:
        metric: A base metric with a better side.
        attributes: Attributes and crossings; every eligible group of each is compared.
    """

    metric: str
    attributes: tuple[str, ...]

    @classmethod
    def of(cls, primary: Objective, attributes: Sequence[str]) -> Harm:
        """Return what a study compares: see `harm_metric`.

        Args:
            primary: The study's first objective.
            attributes: The study's attributes; the primary's own crossing is added.
        """
        own = primary.attribute
        crossed = () if own is None or own in attributes else (own,)
        return cls(harm_metric(primary), (*attributes, *crossed))

    def groups(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the group values among `figures`, by `ATTRIBUTE/GROUP`."""
        return {
            name.removeprefix(f"{self.metric}@"): value
            for name, value in figures.items()
            if any(name.startswith(f"{self.metric}@{a}/") for a in self.attributes)
        }


def harm_metric(primary: Objective) -> str:
    """Return the base metric in which harm to a group is counted.

    That of the primary objective; `auc` where it is a compound (`eo_diff`) or has no better side.
    """
    compound = primary.metric in COMPOUNDS
    return "auc" if compound or primary.parts[0].better == "neither" else primary.metric


@dataclass(frozen=True)
class Constraint:
    """A condition a recipe must meet.

    Args:
        relation: `>=`, `<=` or `no_harm`.
        bound: The number on the right, the offset to the baseline, or the delta of `no_harm`.
        objective: What stands on the left; None for `no_harm`.
        baseline: The baseline that the bound is relative to, if any.
    """

    relation: Relation
    bound: float
    objective: Objective | None = None
    baseline: str | None = None

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Read a constraint.

        Raises:
            ConfigError: Text of another form, or an objective that cannot be.
        """
        harm = NO_HARM.fullmatch(text.strip())
        if harm is not None:
            return cls("no_harm", float(harm["delta"]))
        left, relation, right = _cut(text)
        bound = BOUND.fullmatch(right.strip())
        if bound is None:
            raise ConfigError("not a bound", where=text, found=right, allowed=CONSTRAINT_FORM)
        objective = Objective.parse(left, directed=False)
        number = bound["number"] or bound["offset"] or "0"
        value = float(re.sub(r"\s", "", number)) + 0.0
        name = bound["name"]
        return cls(relation, value, objective, None if name is None else name.strip())

    @property
    def is_utility(self) -> bool:
        """Whether a model that says nothing would break it.

        So of `no_harm`, and of a bound on the worse side of an objective that compares no groups
        with each other.
        """
        if self.objective is None:
            return True
        if self.objective.is_disparity or self.objective.is_cost:
            return False
        if self.objective.parts[0].better == "neither":
            return False
        return self.relation == (">=" if self.objective.sign == 1 else "<=")

    @property
    def needs_baselines(self) -> bool:
        """Whether it is relative to a baseline."""
        return self.relation == "no_harm" or self.baseline is not None

    def violation(
        self,
        run: Mapping[str, float],
        baselines: Mapping[str, Mapping[str, float]],
        reference: str | None,
        harm: Harm,
    ) -> float:
        r"""Return by how much the condition is violated: above 0 where it does not hold.

        For `x >= b` it is $b - x$, for `x <= b` $x - b$, with b the number or the baseline's value
        plus the offset. For `no_harm(d)` it is $\max_g (y_g - d - x_g)$ over the groups of `harm`,
        better counted up, y being the values of the reference.

        Args:
            run: Figures of the run.
            baselines: Figures of each baseline by name.
            reference: Name of the baseline that `no_harm` compares with.
            harm: In what it compares.

        Raises:
            ConfigError: A baseline or a figure that the condition needs is missing.
            DataError: Run and reference have different eligible groups, or none.
        """
        if self.objective is None:
            base = harm.groups(self._of(baselines, reference or ""))
            return -self.bound - smallest_change(harm.groups(run), base, harm.metric)
        name, bound = str(self.objective), self.bound
        if self.baseline is not None:
            bound += self._figure(self._of(baselines, self.baseline), name)
        value = self._figure(run, name)
        return bound - value if self.relation == ">=" else value - bound

    def _of(self, baselines: Mapping[str, Mapping[str, float]], name: str) -> Mapping[str, float]:
        if name in baselines:
            return baselines[name]
        raise ConfigError(
            "no value for this baseline",
            where=str(self),
            found=name or None,
            allowed=sorted(baselines) or "none are finished",
            todo=did_you_mean(name, baselines),
        )

    def _figure(self, figures: Mapping[str, float], name: str) -> float:
        if name in figures:
            return figures[name]
        raise ConfigError("the figure was not computed for this run", where=str(self), found=name)

    def __str__(self) -> str:
        if self.relation == "no_harm":
            return f"no_harm({self.bound!r})"
        if self.baseline is None:
            return f"{self.objective} {self.relation} {self.bound!r}"
        right = f"baseline[{self.baseline}]"
        if self.bound:
            right += f" {'-' if math.copysign(1, self.bound) < 0 else '+'} {abs(self.bound)!r}"
        return f"{self.objective} {self.relation} {right}"


def figures(
    p: Predictions,
    constraints: Sequence[Constraint],
    harm: Harm,
    *,
    minimum: GroupMinimum,
    threshold: Threshold,
) -> dict[str, float]:
    """Return what `constraints` read of a table of predictions.

    Args:
        p: Predictions of one model on one split, pooled.
        constraints: Any number; without one nothing is computed.
        harm: In what `no_harm` compares.
        minimum: What a group must have.
        threshold: A rule is cross-fitted, a number is frozen.

    Raises:
        DataError: An objective that this split cannot answer, or no eligible group for `no_harm`
            in any attribute.
    """
    asked = {str(c.objective): c.objective for c in constraints if c.objective is not None}
    found = evaluate_objectives(p, list(asked.values()), minimum=minimum, threshold=threshold)
    if all(c.objective is not None for c in constraints):
        return found
    problems: list[DataError] = []
    for name in harm.attributes:
        try:
            values = group_values(p, harm.metric, name, minimum=minimum, threshold=threshold)
        except DataError as error:
            problems.append(error)
            continue
        found |= {f"{harm.metric}@{name}/{group}": value for group, value in values.items()}
    if len(problems) == len(harm.attributes):
        raise problems[0]
    return found


def _cut(text: str) -> tuple[str, Literal[">=", "<="], str]:
    for relation in (">=", "<="):
        left, sign, right = text.partition(relation)
        if sign:
            return left.strip(), relation, right
    raise ConfigError("not a constraint", found=text, allowed=CONSTRAINT_FORM)
