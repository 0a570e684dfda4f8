"""Entropy: the head that reads the attribute is to be unsure."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fairtune.config import Config
from fairtune.editing import OBJECTIVES

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.editing.seen import Seen


@OBJECTIVES.register("entropy")
class Entropy(Config):
    """Mean over rows of -H(p) = sum_k p_k log p_k, p the softmax of the head over K groups.

    Its minimum is -log K, where every p_k is 1/K, its maximum 0. The gradient vanishes where the
    head is sure, which a fitted one often is.
    """

    paper: ClassVar[str] = "a part of FAAP: Wang et al., CVPR 2022"
    formula: ClassVar[str] = "-H(p) = Σ_k p_k log p_k; minimum -log K"
    head: ClassVar[bool] = True
    labels: ClassVar[bool] = False
    task: ClassVar[bool] = False

    def loss(self, seen: Seen) -> Tensor:
        """Return the loss, in [-log K, 0]."""
        log_p = seen.logits.log_softmax(dim=1)
        return (log_p.exp() * log_p).sum(dim=1).mean()
