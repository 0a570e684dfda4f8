"""What people asked of a study and what has come of it, for those who look on."""

from __future__ import annotations

from dataclasses import dataclass

from fairtune.study.orders import Order
from fairtune.study.overview import Overview
from fairtune.study.queued import points_of, waiting
from fairtune.study.rows import SEARCH


@dataclass(frozen=True)
class Stopping:
    """An order to stop after which nobody has begun another run yet.

    Attributes:
        at: When it was given, UTC, by the clock of `by`.
        by: Host that it was given on.
        now: Runs end at their next step.
        left: Runs from before that are still under way: phase and trial.
    """

    at: str
    by: str
    now: bool
    left: tuple[str, ...]


def stopping(view: Overview) -> Stopping | None:
    """Return the order to stop that holds, or None."""
    order = Order.read(view.search)
    if order is None or order.is_over(view.rows):
        return None
    left = tuple(f"{row.phase} {row.number + 1}" for row in order.obeying(view.rows))
    return Stopping(order.at, order.by, order.now, left)


def enqueued(view: Overview) -> tuple[str, ...]:
    """Return the labels of the enqueued points that have not begun, the next one first."""
    points = waiting(points_of(view.search), view.rows[SEARCH])
    return tuple(point.label for point in points)
