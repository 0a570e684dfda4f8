"""What a run tells whoever watches it, and what it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fairtune.errors import Interrupted


@dataclass(frozen=True, eq=False)
class Epoch:
    """One finished epoch.

    Attributes:
        number: Epoch, counted from 1.
        of: Epochs planned.
        scores: `(validation rows, outputs)` fp32 logits in the order of the pack's rows.
        train_loss: Mean training loss over the epoch.
        val_loss: Mean validation loss, unweighted.
        seconds: Wall time of the epoch with its validation.
        images: Training images seen in the epoch.
    """

    number: int
    of: int
    scores: NDArray[np.float32]
    train_loss: float
    val_loss: float
    seconds: float
    images: int


@dataclass(frozen=True)
class Decision:
    """Whether to go on after an epoch, and whether its weights are the ones to keep.

    Attributes:
        stop: Reason to end the run here, or None to continue.
        keep: Keep the weights of this epoch instead of those kept before.
    """

    stop: str | None = None
    keep: bool = True


class Observer(Protocol):
    """Watches one run."""

    def epoch(self, report: Epoch) -> Decision:
        """Take in an epoch and say how to go on."""

    def poll(self) -> str | None:
        """Return a reason to stop now, or None; asked at every step, so a flag and no I/O."""


class Quiet:
    """An observer that keeps the last epoch and never stops a run."""

    def epoch(self, report: Epoch) -> Decision:
        """Continue."""
        return Decision()

    def poll(self) -> str | None:
        """Never stop."""
        return None


@dataclass(frozen=True)
class Follower:
    """The observer of a process that follows another, which alone decides.

    Attributes:
        ask: Returns a reason to stop now, or None.
    """

    ask: Callable[[], str | None]

    def epoch(self, report: Epoch) -> Decision:
        """Leave the decision to rank 0."""
        return Decision()

    def poll(self) -> str | None:
        """Return what `ask` says."""
        return self.ask()


def nobody() -> str | None:
    """Return no reason to leave."""
    return None


def go_on(poll: Callable[[], str | None], what: str) -> None:
    """Go on with `what`, of which nothing is kept if it is left.

    Raises:
        Interrupted: `poll` has a reason to leave.
    """
    reason = poll()
    if reason is not None:
        raise Interrupted(f"stopped while {what}; nothing of it is kept", found=reason)
