"""Classification: a linear head on the pooled features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairtune.config import Config
from fairtune.usage import USAGES, Output, Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fairtune.data.batch import Batch
    from fairtune.models.backbone import Backbone
    from fairtune.models.net import Net

HEAD_STD = 0.02


@USAGES.register("classify")
class Classify(Config):
    """Score = `head(embed(image))`.

    Loss per sample: binary cross-entropy of the one logit (binary), cross-entropy (multiclass),
    or the mean binary cross-entropy over targets (multilabel).
    """

    def build(
        self, backbone: Backbone, task: Task, outputs: int, generator: torch.Generator
    ) -> Net:
        """Return backbone and head; head weights ~ truncated N(0, 0.02) from `generator`.

        Args:
            backbone: Gives `(batch, dim)` features.
            task: Kind of label.
            outputs: Columns of the score: 1 for binary, else classes or targets.
            generator: Source of the head's initial weights.
        """
        from torch import nn

        from fairtune.models.net import Net

        head = nn.Linear(backbone.dim, outputs)
        nn.init.trunc_normal_(head.weight, std=HEAD_STD, generator=generator)
        nn.init.zeros_(head.bias)
        return Net(backbone, head)

    def forward(self, net: Net, batch: Batch, task: Task) -> Output:
        """Return the output of a batch; loss and score are fp32 whatever the autocast type."""
        embedding = net.backbone.embed(batch.image)
        score = net.head(embedding).float()
        return Output(sample_loss(score, batch.label, task), score, embedding)


def sample_loss(score: Tensor, label: Tensor, task: Task) -> Tensor:
    """Return the `(batch,)` loss of logits `score` `(batch, outputs)` against `label`.

    Args:
        score: fp32 logits.
        label: `(batch,)` class index, or `(batch, targets)` of 0/1 for multilabel.
        task: Kind of label.
    """
    from torch.nn import functional

    if task == "multiclass":
        return functional.cross_entropy(score, label.long(), reduction="none")
    target = label.to(score.dtype).reshape(score.shape)
    loss = functional.binary_cross_entropy_with_logits(score, target, reduction="none")
    return loss.mean(dim=1)
