"""Negative cross-entropy: the head that reads the attribute is to be wrong (DNE as published)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fairtune.config import Config
from fairtune.editing import OBJECTIVES

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.editing.seen import Seen


@OBJECTIVES.register("neg_ce")
class NegativeCrossEntropy(Config):
    """Mean over rows of log p_a, p the softmax of the head and a the row's group.

    As published, for K groups. It has no lower bound: the head is rewarded for taking each group
    for another, which hides nothing from a head that is fitted anew. On the rows that a head was
    fitted on the gradient of a shift of its logits is 0 by the first-order condition of its
    intercept, so that a search that starts at no edit hardly moves: give it an `init_std`.
    """

    paper: ClassVar[str] = "Jin et al., Debiased noise editing on foundation models, MICCAI 2024"
    formula: ClassVar[str] = "-CE(p, a) = log p_a; no lower bound"
    head: ClassVar[bool] = True
    labels: ClassVar[bool] = False
    task: ClassVar[bool] = False

    def loss(self, seen: Seen) -> Tensor:
        """Return the loss, at most 0."""
        from torch.nn import functional

        return -functional.cross_entropy(seen.logits, seen.group)
