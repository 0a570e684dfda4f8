"""What a worker last read of a study."""

from __future__ import annotations

import uuid
from dataclasses import replace

from optuna.trial import FrozenTrial

from fairtune.study.family import Family
from fairtune.study.rows import Failed, Row


class View:
    """Rows of every phase as of the last reading.

    Attributes:
        rows: By phase, in order of number; lists are replaced, never changed.
        trials: Optuna's trials of the same reading, those of other programs among them.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self.rows: dict[str, list[Row]] = {}
        self.trials: dict[str, list[FrozenTrial]] = {}

    def refresh(self, *phases: str) -> None:
        """Read `phases` anew, by default every phase there is."""
        for phase in phases or self._family.phases():
            self.rows[phase], self.trials[phase] = self._family.read(phase)

    def row_of(self, phase: str, trial_id: int) -> Row:
        """Return the row that the storage calls `trial_id`."""
        number = next(t.number for t in self.trials[phase] if t._trial_id == trial_id)
        return next(row for row in self.rows[phase] if row.number == number)

    def trial_id(self, row: Row) -> int:
        """Return what the storage calls `row`."""
        return next(t._trial_id for t in self.trials[row.phase] if t.number == row.number)

    def fail(self, row: Row, reason: str) -> bool:
        """End a row that runs and show it so; False when it had ended already."""
        ended = self._family.end(self.trial_id(row), Failed(reason), uuid.uuid4().hex, own=False)
        if ended:
            failed = replace(row, state="failed", reason=reason)
            self.rows[row.phase] = [
                failed if other.number == row.number else other for other in self.rows[row.phase]
            ]
        return ended
