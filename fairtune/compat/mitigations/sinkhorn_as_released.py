"""FairCLIP's term as its released code computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from fairtune.config import Config, Float
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.fields import Attribute

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.data.batch import Batch
    from fairtune.mitigation.context import Context
    from fairtune.mitigation.hooks import Hooks
    from fairtune.usage import Output


@MITIGATIONS.register("sinkhorn_as_released")
class SinkhornAsReleased(Config):
    """Add weight * sum_g (1/2) W_2^2(s, t_g / sum t_g), with s of the batch and t_g of group g.

    Only the group's side is normalised, by its sum, and it has no gradient. The batch's scores are
    compared as they are with numbers near 1 / n, so that the term is close to weight * groups *
    mean(s^2) / 2: it shrinks all scores and hardly looks at groups. To be used only to show why
    numbers made with that code differ; `sinkhorn` is the method of the paper.

    From the code of FairCLIP (Harvard-Ophthalmology-AI-Lab, commit 91b05b6), with three
    differences. Its blur of 1e-4 to 1e-6 is the exact distance here, which its solver, stopped
    early, does not reach. Groups come from the batch, and not from loaders of their own. A sum of
    scores below 1e-6 in size, where the code divides by nearly nothing, leaves the group out.

    Of pairs (`contrastive`) s is the code's: with L the logits of every image with every text,
    s_i = (L^2)_ii = sum_j L_ij L_ji, over the batch, and over the pairs of group g for t. Of other
    usages it is their score.

    Attributes:
        attribute: Whose groups.
        weight: Factor of the term.
    """

    paper: ClassVar[str] = "Luo et al., FairCLIP, CVPR 2024: the released code, not the paper"
    formula: ClassVar[str] = "L + λ Σ_g ½ W₂²(s, t_g / Σ t_g)"
    slots: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = True
    mixes: ClassVar[bool] = False
    clashes: ClassVar[tuple[str, ...]] = ("sinkhorn",)

    attribute: Attribute = None
    weight: Annotated[float, pydantic.Field(gt=0), Float(1e-7, 1e-1, log=True)] = 1e-6

    @property
    def idle(self) -> tuple[str, ...]:
        """Every field acts."""
        return ()

    def build(self, context: Context) -> Hooks:
        """Return the term.

        Raises:
            DataError: Fewer than two groups.
        """
        import torch

        from fairtune.mitigation.hooks import Hooks
        from fairtune.mitigation.transport.exact import between

        groups = context.groups(self.attribute)

        def term(batch: Batch, out: Output, first: bool) -> Tensor:
            code, total = groups.of(batch), torch.zeros((), device=out.score.device)
            everybody = torch.ones(len(code), device=code.device)
            inside = [(code == g).to(out.score.dtype) for g in range(len(groups))]
            scores = scored(out, everybody)
            for own in inside:
                for score, held in zip(scores, scored(out, own)):
                    held = held.detach()
                    sum_ = (held * own).sum()
                    usable = sum_.abs() > TINY
                    scaled = held / torch.where(usable, sum_, 1.0)
                    found = between(score, everybody, scaled, own * usable)
                    total = total + found / len(scores)
            return self.weight * total

        return Hooks(loss=term)


TINY = 1e-6


def scored(out: Output, counted: Tensor) -> list[Tensor]:
    """Return the `(n,)` scores of every column; of pairs (L^2)_ii over those that are counted."""
    if out.across is None:
        return list(out.score.T)
    return [(out.across * out.across.T) @ counted.to(out.across.dtype)]
