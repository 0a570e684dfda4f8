"""Selection rules: which recipe is picked, from figures that were computed once.

A rule reads a contest of recipes and names one of them with the reason. Nothing is trained:
another rule, objective, attribute or epoch rule is another reading of stored predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from fairtune.config import Config, Registry
from fairtune.config.model import carried
from fairtune.errors import ConfigError, StudyError
from fairtune.evaluation.arrays import FloatArray
from fairtune.evaluation.objectives import COMPOUNDS, Objective

SELECTIONS: Registry[Config] = Registry("selection rule", "fairtune.study.selection")


@dataclass(frozen=True, eq=False)
class Entrant:
    """A recipe that may be picked, or that others are compared with.

    Attributes:
        label: Its name in tables, or its digest.
        values: Mean of each objective over its runs, by printed name.
        trained: How much it trains: parameters, or their share; for comparison only.
        groups: Utility of each eligible group, mean over its runs.
        scaled: Equity-scaled utility, mean over its runs; None where it is not defined.
        violation: Sum of what its figures violate the study's constraints by; 0 when it meets all.
    """

    label: str
    values: Mapping[str, float]
    trained: float
    groups: Mapping[str, float]
    scaled: float | None = None
    violation: float = 0.0


@dataclass(frozen=True, eq=False)
class Contest:
    """What a rule chooses from.

    Attributes:
        entrants: Recipes in the order in which equal ones are preferred.
        baselines: Reference recipes trained without any mitigation.
        objectives: The study's objectives, the primary one first.
        utility: Base metric, higher is better, in which groups are compared.
        attribute: Attribute whose groups are compared; None where there is none.
        constraints: The study's constraints as text.
        se: `(label, objective) -> standard error` of an entrant's value.
    """

    entrants: tuple[Entrant, ...]
    baselines: tuple[Entrant, ...]
    objectives: tuple[Objective, ...]
    utility: str
    attribute: str | None
    constraints: tuple[str, ...]
    se: Callable[[str, Objective], float]

    @property
    def primary(self) -> Objective:
        """The first objective."""
        return self.objectives[0]

    def merit(self, entrant: Entrant) -> float:
        """Return the primary objective, better counted up."""
        return self.primary.sign * entrant.values[str(self.primary)]

    def best(self, entrants: Sequence[Entrant] | None = None) -> Entrant:
        """Return the entrant with the best primary objective, the first of equals."""
        return max(self.entrants if entrants is None else entrants, key=self.merit)

    def shown(self, entrant: Entrant) -> str:
        """Return the primary objective of an entrant in words."""
        return f"{self.primary} {entrant.values[str(self.primary)]:.3f}"

    def of_groups(self, rule: str) -> tuple[list[str], list[FloatArray]]:
        """Return the names of the groups and the group values of each entrant, `(g,)` each.

        Raises:
            StudyError: No attribute is named, or its groups are too small.
        """
        names = list(self.entrants[0].groups)
        if self.attribute is None or not names:
            raise StudyError(
                f"{rule} compares groups, and there are none to compare",
                found="no attribute" if self.attribute is None else f"{self.attribute}: too small",
                todo="name another attribute",
            )
        return names, [np.array([e.groups[name] for name in names]) for e in self.entrants]


@dataclass(frozen=True)
class Choice:
    """What a rule picked.

    Attributes:
        entrant: The pick.
        why: The reason, as the end of a sentence.
    """

    entrant: Entrant
    why: str


@runtime_checkable
class Selection(Protocol):
    """A selection rule."""

    def pick(self, contest: Contest) -> Choice:
        """Return the pick.

        Args:
            contest: At least one entrant.

        Raises:
            StudyError: The rule needs what this contest does not have.
        """


def utility_of(primary: Objective) -> str:
    """Return the base metric in which rules compare groups.

    That of the primary objective where higher is better; else `auc`.
    """
    if primary.metric in COMPOUNDS or primary.parts[0].better != "higher":
        return "auc"
    return primary.metric


def rule_of(name: str) -> Selection:
    """Return a rule by name.

    Raises:
        ConfigError: No such rule.
    """
    rule = SELECTIONS.parse(name)
    assert isinstance(rule, Selection)
    return rule


def known_rule(name: str) -> str:
    """Return `name` if a rule is called so, for the field of a study file.

    Raises:
        ValueError: No such rule; carries the ConfigError.
    """
    try:
        SELECTIONS.get(name)
    except ConfigError as error:
        raise carried(error) from None
    return name


def picks(contest: Contest) -> tuple[dict[str, Choice], dict[str, StudyError]]:
    """Return what each rule picks, and why a rule cannot be used, by name."""
    found: dict[str, Choice] = {}
    refused: dict[str, StudyError] = {}
    for name in SELECTIONS:
        try:
            found[name] = rule_of(name).pick(contest)
        except StudyError as error:
            refused[name] = error
    return found, refused
