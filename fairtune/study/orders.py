"""`fairtune stop`: what a person tells all workers of a study, and how a worker hears it."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fairtune.study import codec
from fairtune.study.family import Family
from fairtune.study.rows import ASKED, SEARCH, Row

ATTR = "stop"
"""Attribute of the search study: the last order to stop."""

STOPPED_BY = "stopped by `fairtune stop`"
"""Why a worker left that obeyed an order."""


@dataclass(frozen=True)
class Order:
    """One order to stop.

    Attributes:
        mark: Tells it from every other order.
        at: When it was given, by the clock of `by`, UTC.
        now: Runs end at their next step, not as they would have.
        by: Host that it was given on.
        workers: Those that had begun a run: they obey, so a run of any other is of a worker that
            joined after the order.
    """

    mark: str
    at: str
    now: bool
    by: str
    workers: tuple[str, ...]

    @classmethod
    def read(cls, attrs: Mapping[str, Any]) -> Order | None:
        """Return the last order of a study from the attributes of its search, None without."""
        data = attrs.get(ATTR)
        return cls(**{**data, "workers": tuple(data["workers"])}) if data else None

    def obeying(self, rows: Mapping[str, Sequence[Row]]) -> list[Row]:
        """Return the runs under way whose workers leave after them."""
        return [
            row
            for mine in rows.values()
            for row in mine
            if row.state == "running" and row.worker in self.workers
        ]

    def is_over(self, rows: Mapping[str, Sequence[Row]]) -> bool:
        """Tell whether somebody has gone on with the study since the order was given."""
        begun = {row.worker for mine in rows.values() for row in mine if row.reason != ASKED}
        return not begun <= set(self.workers)


def give(family: Family, rows: Mapping[str, Sequence[Row]], *, now: bool) -> Order:
    """Store the order that all workers who take part leave.

    Args:
        family: The study.
        rows: Its rows by phase.
        now: Runs end at their next step and are tried again, not run to their end.
    """
    begun = {row.worker for mine in rows.values() for row in mine}
    order = Order(
        mark=uuid.uuid4().hex,
        at=codec.now(),
        now=now,
        by=socket.gethostname(),
        workers=tuple(sorted(begun)),
    )
    family.set_attr(SEARCH, ATTR, asdict(order))
    return order


class Orders:
    """Orders as one worker hears them: only those that were given after it had joined.

    It remembers the mark of the order that stood there when it joined. So no clocks have to
    agree, nothing has to be cleared, and a worker that starts after an order takes part.

    Args:
        family: The study.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        old = Order.read(family.attrs(SEARCH))
        self._known = None if old is None else old.mark

    def heard(self, patience: float | None = None) -> Order | None:
        """Return the order to leave, or None; asks the storage once.

        Args:
            patience: Seconds for which a storage that does not answer is asked again.

        Raises:
            StorageError: It did not answer.
        """
        order = Order.read(self._family.attrs(SEARCH, patience))
        return None if order is None or order.mark == self._known else order
