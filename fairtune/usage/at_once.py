"""Heads that are fitted at once, on what frozen towers show of every row, instead of by steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fairtune.usage import Task

if TYPE_CHECKING:
    from fairtune.models.net import Net

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def _nobody() -> Ints:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Seen:
    """Rows as a head sees them.

    Attributes:
        x: `(n, dim)` or `(n, queries, dim)`, what the towers made of them.
        label: `(n,)` class index, or `(n, targets)` of 0/1.
        group: `(n,)` groups of the usage's attribute, -1 where unknown; empty where it has none.
        patient: `(n,)` numbers by which rows share a patient.
    """

    x: Floats
    label: Ints
    group: Ints = field(default_factory=_nobody)
    patient: Ints = field(default_factory=_nobody)

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, eq=False)
class Problem:
    """What a head is fitted to.

    Attributes:
        fitted: Rows the head is fitted on.
        held: Validation rows; none where everything is fitted on.
        task: Kind of label.
        outputs: Columns of the score.
        l2: Penalty, above 0.
        balance: Whether classes are weighed as `readout.balanced` says.
        smoothing: Share of every label that is spread over the classes.
        seed: Of what the usage draws.
        build: Returns the net with a head as it is before the fit.
        told: Called before every look at the features; may raise.
    """

    fitted: Seen
    held: Seen
    task: Task
    outputs: int
    l2: float
    balance: bool
    smoothing: float
    seed: int
    build: Callable[[], Net]
    told: Callable[[], None]


@dataclass(frozen=True, eq=False)
class Solved:
    """A head that was fitted at once.

    Attributes:
        tensors: Everything of the head that is stored, by name.
        score: `(held rows, outputs)` logits; of what was chosen on these rows, cross-fitted.
        loss: Mean loss over the fitted rows.
    """

    tensors: Mapping[str, Any]
    score: Floats
    loss: float


@runtime_checkable
class AtOnce(Protocol):
    """A usage whose head, where no unit and no mitigation trains, is fitted at once.

    Attributes:
        trains: Whether the fit minimises a loss, with `l2`, class weights and smoothed labels.
        chooses: Numbers of the head that are chosen on validation rows.
    """

    @property
    def trains(self) -> bool:
        """Whether a loss is minimised."""
        ...

    @property
    def chooses(self) -> tuple[str, ...]:
        """What is chosen on validation rows, by name."""
        ...

    def solve(self, problem: Problem) -> Solved:
        """Return the head that fits the problem.

        Raises:
            DataError: The rows cannot answer it.
            Interrupted: There is a reason to leave.
        """


@runtime_checkable
class OfRows(Protocol):
    """A usage whose head begins with training rows.

    Attributes:
        draws: Whether it does, as it is configured.
        attribute: Whose groups the rows are drawn by; None for nobody's.
    """

    @property
    def draws(self) -> bool:
        """Whether the head begins with rows."""
        ...

    @property
    def attribute(self) -> str | None:
        """Whose groups they are drawn by: None for nobody's, empty where none is named yet."""
        ...

    def attributed(self, default: str) -> Any:
        """Return the usage with `default` as its attribute, where it needs one and names none."""

    def begin(self, net: Net, rows: Seen, seed: int) -> None:
        """Put rows into the head of `net`, before it is trained."""
