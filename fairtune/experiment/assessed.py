"""What an edit does, beside its controls, as numbers: no torch, no image, no identifier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

NONE, EDIT, RANDOM, REWEIGHTED, EARLY = "none", "edit", "random", "reweighted", "early"

FROZEN, RETRAINED = "sa_auc_frozen", "sa_auc_retrained"
TASK = ("auc", "worst_auc", "auc_gap", "eo_diff")
FIGURES = (FROZEN, RETRAINED, *TASK)
"""Of every arm: how well two heads read the attribute, then how the task fares."""

COMPARED = (RETRAINED, "auc", "worst_auc", "eo_diff")
"""Figures that the edit is compared in."""


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval over patients; NaN where it is not defined.

    Attributes:
        value: The figure.
        low: Lower end.
        high: Upper end.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        """Whether it is defined."""
        return math.isfinite(self.value)


@dataclass(frozen=True)
class Group:
    """A group of the rows that are told of.

    Attributes:
        name: Its name.
        n, patients, positives: What it has.
        figures: `auc`, `tpr` and `fpr` of the task; not defined where it has too little for them.
    """

    name: str
    n: int
    patients: int
    positives: int
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Arm:
    """The edit, or a control.

    Attributes:
        name: One of `none`, `edit`, `random`, `reweighted`, `early`.
        words: What it is.
        figures: By name, see `FIGURES`.
        groups: The groups of the attribute.
        released: Figures by the formulas of other tools, decided at 0.5; empty where they are not
            made for these groups and labels.
        norms: RMS and largest absolute value of a pixel in 1/255, and the L2 norm; empty without
            edit.
    """

    name: str
    words: str
    figures: Mapping[str, Figure]
    groups: Sequence[Group]
    released: Mapping[str, float]
    norms: Mapping[str, float]


@dataclass(frozen=True)
class Change:
    """A paired difference between the edit and a control.

    Attributes:
        figure: See `COMPARED`.
        against: The control.
        change: Edit minus control.
    """

    figure: str
    against: str
    change: Figure


@dataclass(frozen=True, eq=False)
class Assessment:
    """An edit beside its controls.

    Attributes:
        attribute: Attribute or crossing.
        groups: The groups that heads tell apart.
        split: `val` or `test`.
        rows, patients: What is told of.
        fitted: Rows that heads are fitted on.
        openings: How often the test split had been opened from the results folder; 0 where it
            stays closed.
        arms: The edit and its controls.
        changes: Differences.
        picture: `(1 or c, side, side)` the edit in 1/255.
        trace: One row a step: `queries`, `loss`, `rms`.
        queries: Batches that the model was asked about, by what for.
        about: What is known of the edit, as JSON.
        recipe: What was assessed, as JSON.
        notes: What is to be known.
    """

    attribute: str
    groups: tuple[str, ...]
    split: str
    rows: int
    patients: int
    fitted: int
    openings: int
    arms: Sequence[Arm]
    changes: Sequence[Change]
    picture: NDArray[np.float32]
    trace: Sequence[Mapping[str, Any]]
    queries: Mapping[str, int]
    about: Mapping[str, Any]
    recipe: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())

    def arm(self, name: str) -> Arm:
        """Return one arm."""
        return next(arm for arm in self.arms if arm.name == name)

    def change(self, figure: str, against: str = NONE) -> Figure:
        """Return one difference."""
        found = (c for c in self.changes if (c.figure, c.against) == (figure, against))
        return next(found).change


@dataclass(frozen=True, eq=False)
class Pair:
    """A training image, `(side, side, c)` uint8, without and with the edit.

    Attributes:
        before: As it is.
        after: As the model sees it, rounded to 8 bits.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
