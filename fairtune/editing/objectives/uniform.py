"""Uniform: the head that reads the attribute is to find all groups equally likely."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fairtune.config import Config
from fairtune.editing import OBJECTIVES

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.editing.seen import Seen


@OBJECTIVES.register("uniform")
class Uniform(Config):
    """Mean over rows of -(1/K) sum_k log p_k, p the softmax of the head over K groups.

    The cross-entropy of the even distribution against p. Its minimum is log K, where every p_k is
    1/K. Unlike the published objective it is bounded below, asks that groups be hidden and not
    mistaken for each other, and has a strong gradient where a fitted head is sure.
    """

    paper: ClassVar[str] = (
        "cross-entropy to the even distribution, as in Alvi et al., Turning a blind eye, "
        "ECCV 2018 workshops"
    )
    formula: ClassVar[str] = "-(1/K) Σ_k log p_k; minimum log K"
    head: ClassVar[bool] = True
    labels: ClassVar[bool] = False
    task: ClassVar[bool] = False

    def loss(self, seen: Seen) -> Tensor:
        """Return the loss, at least log K."""
        return -seen.logits.log_softmax(dim=1).mean()
