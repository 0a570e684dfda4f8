"""Domain-independent training: a head for every group, and their mean for everyone."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fairtune.config import Config
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.fields import Attribute

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.data.batch import Batch
    from fairtune.mitigation.context import Context
    from fairtune.mitigation.hooks import Hooks


@MITIGATIONS.register("domain_independent")
class DomainIndependent(Config):
    """Train one head per group on a shared embedding; score with the mean of their logits.

    A sample trains the head of its group, s = W_g z + b_g; one of an unknown group the mean of
    the heads. Scores need no group: as heads are linear, the mean of their logits is one head
    (mean_g W_g, mean_g b_g), which is what is validated, stored and exported. The paper sums over
    the groups, which ranks alike and multiplies the logits by their number. Groups without
    training rows have no head.

    Attributes:
        attribute: Whose groups.
    """

    paper: ClassVar[str] = (
        "Wang et al., Towards fairness in visual recognition: effective strategies for bias "
        "mitigation, CVPR 2020"
    )
    formula: ClassVar[str] = "training: s = W_g z + b_g; scoring: the mean over g"
    slots: ClassVar[tuple[str, ...]] = ("head",)
    trains: ClassVar[bool] = True
    mixes: ClassVar[bool] = False
    clashes: ClassVar[tuple[str, ...]] = ()

    attribute: Attribute = None

    @property
    def idle(self) -> tuple[str, ...]:
        """Every field acts."""
        return ()

    def build(self, context: Context) -> Hooks:
        """Return the heads; each starts as the model's head does.

        Raises:
            DataError: Fewer than two groups.
        """
        import torch
        from torch import nn
        from torch.nn import functional

        from fairtune.mitigation.hooks import Hooks

        groups, head = context.groups(self.attribute), context.head
        assert isinstance(head, nn.Linear)
        heads = nn.Linear(context.dim, len(groups) * context.outputs)
        present = torch.from_numpy(groups.counts > 0).float().to(context.device)
        even = present / present.sum()
        with torch.no_grad():
            heads.weight.copy_(head.weight.repeat(len(groups), 1))
            heads.bias.copy_(head.bias.repeat(len(groups)))

        def score(batch: Batch, embedding: Tensor) -> Tensor:
            code = groups.of(batch).long()
            own = functional.one_hot(code.clamp(min=0), len(groups)).float()
            share = torch.where((code >= 0)[:, None], own, even)
            every = heads(embedding).float().view(len(code), len(groups), context.outputs)
            return torch.einsum("bg,bgo->bo", share, every)

        def stepped() -> None:
            with torch.no_grad():
                weight = heads.weight.view(len(groups), context.outputs, context.dim)
                head.weight.copy_(torch.einsum("g,god->od", even, weight))
                bias = heads.bias.view(len(groups), context.outputs)
                head.bias.copy_(even @ bias)

        return Hooks(head=score, modules={"heads": heads}, lr=context.head_lr, stepped=stepped)
