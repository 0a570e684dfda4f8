"""What an objective sees of an edited batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Seen:
    """An edited batch as the heads read it.

    Attributes:
        logits: `(batch, groups)` of the head that reads the attribute; empty `(batch, 0)` for an
            objective that does not read it.
        embedding: `(batch, dim)`.
        group: `(batch,)` codes of the attribute; no row is of an unknown group.
        label: `(batch,)` class codes, or `(batch, targets)` of 0/1.
        task_loss: `(batch,)` unweighted loss of the task head; None where there is none.
    """

    logits: Tensor
    embedding: Tensor
    group: Tensor
    label: Tensor
    task_loss: Tensor | None = None
