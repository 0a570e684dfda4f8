"""What making an edit gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairtune.editing.edit import Edit


@dataclass(frozen=True, eq=False)
class Learned:
    """An edit and how it came to be.

    Attributes:
        edit: The edit.
        queries: Batches of images that the model was asked about, by what for: `heads` (fitting
            heads on unedited images), `steps`, `refits`. A learned edit's budget is on the sum of
            steps and refits.
        trace: One row a step: `queries` so far, `loss`, and what else is known, as JSON.
        notes: What is to be known of it, in words.
    """

    edit: Edit
    queries: Mapping[str, int] = field(default_factory=dict)
    trace: Sequence[Mapping[str, Any]] = ()
    notes: tuple[str, ...] = ()

    @property
    def spent(self) -> int:
        """Queries of the budget: those of steps and refits."""
        return sum(self.queries.get(name, 0) for name in ("steps", "refits"))
