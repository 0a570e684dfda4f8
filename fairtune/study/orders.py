"""`fairtune stop`: what a person tells all workers of a study, and how a worker hears it."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fairtune.study import codec
from fairtune.study.family import Family
from fairtune.study.rows import SEARCH, Row

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
        begun: Rows that each phase had: a row with a later number began after the order.
        running: Rows that ran, `PHASE/NUMBER`.
    """

    mark: str
    at: str
    now: bool
    by: str
    begun: Mapping[str, int]
    running: tuple[str, ...]

    @classmethod
    def read(cls, attrs: Mapping[str, Any]) -> Order | None:
        """Return the last order of a study from the attributes of its search, None without."""
        data = attrs.get(ATTR)
        return cls(**{**data, "running": tuple(data["running"])}) if data else None

    def obeying(self, rows: Mapping[str, Sequence[Row]]) -> list[Row]:
        """Return the runs that were under way when the order was given and still are."""
        return [
            row
            for phase, mine in rows.items()
            for row in mine
            if row.state == "running" and f"{phase}/{row.number}" in self.running
        ]

    def is_over(self, rows: Mapping[str, Sequence[Row]]) -> bool:
        """Tell whether somebody has gone on with the study since the order was given."""
        return any(len(mine) > self.begun.get(phase, 0) for phase, mine in rows.items())


def give(family: Family, rows: Mapping[str, Sequence[Row]], *, now: bool) -> Order:
    """Store the order that all workers who take part leave.

    Args:
        family: The study.
        rows: Its rows by phase.
        now: Runs end at their next step and are tried again, not run to their end.
    """
    running = [
        f"{phase}/{row.number}"
        for phase, mine in rows.items()
        for row in mine
        if row.state == "running"
    ]
    order = Order(
        mark=uuid.uuid4().hex,
        at=codec.now(),
        now=now,
        by=socket.gethostname(),
        begun={phase: len(mine) for phase, mine in rows.items()},
        running=tuple(running),
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
