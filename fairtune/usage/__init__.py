"""What the model does with a batch: one file per usage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from fairtune.config import Config, Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fairtune.data.batch import Batch
    from fairtune.models.backbone import Backbone
    from fairtune.models.net import Net

Task = Literal["binary", "multiclass", "multilabel"]

USAGES: Registry[Config] = Registry(
    "usage",
    "fairtune.usage",
    later=("contrastive", "zero_shot", "clip_adapt", "segment"),
)


@dataclass(frozen=True)
class Output:
    """What a usage makes of a batch.

    Attributes:
        loss: `(batch,)` loss of every sample, unweighted, fp32.
        score: `(batch, outputs)` logits, fp32; one column for a binary task.
        embedding: `(batch, dim)` pooled features before the head.
    """

    loss: Tensor
    score: Tensor
    embedding: Tensor


@runtime_checkable
class Usage(Protocol):
    """Builds the net round a backbone and reads a batch with it."""

    def build(
        self, backbone: Backbone, task: Task, outputs: int, generator: torch.Generator
    ) -> Net:
        """Return backbone and head."""

    def forward(self, net: Net, batch: Batch, task: Task) -> Output:
        """Return loss, score and embedding of every sample of `batch`."""

    def loss(
        self, score: Tensor, label: Tensor, task: Task, class_weight: Tensor | None = None
    ) -> Tensor:
        """Return the `(batch,)` loss of logits against labels or `(batch, outputs)` shares."""
