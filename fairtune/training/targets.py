"""What a batch is trained towards: class weights and softened labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fairtune.data.batch import Batch
from fairtune.training.recipe_parts import OptimPart
from fairtune.usage import Output, Task
from fairtune.usage.losses import sample_loss
from fairtune.usage.readout import balanced

Floats = NDArray[np.float64]


def soft(label: Tensor, task: Task, outputs: int, smoothing: float = 0.0) -> Tensor:
    """Return labels as `(batch, outputs)` shares, the share `smoothing` of each spread evenly.

    Label smoothing (Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016) over the
    classes of a multiclass label, and over 0 and 1 for each output of the other tasks.

    Args:
        label: Class index `(batch,)`, 0/1 of `(batch,)` or `(batch, outputs)`, or such shares.
        task: Kind of label.
        outputs: 1 for binary, else classes or targets.
        smoothing: Share in [0, 1).
    """
    if task == "multiclass":
        hard = not label.is_floating_point()
        share = functional.one_hot(label.long(), outputs).float() if hard else label
        return share * (1 - smoothing) + smoothing / outputs
    return label.float().reshape(len(label), outputs) * (1 - smoothing) + smoothing / 2


@dataclass(frozen=True, eq=False)
class Targets:
    """Turns the output of a batch into the loss that is trained.

    Attributes:
        task: Kind of label.
        outputs: 1 for binary, else classes or targets.
        smoothing: Share of a label that is spread over the classes.
        weight: What `balanced` returned, on the device, or None.
    """

    task: Task
    outputs: int
    smoothing: float = 0.0
    weight: Tensor | None = None

    @classmethod
    def of(
        cls,
        optim: OptimPart,
        label: NDArray[np.integer],
        task: Task,
        outputs: int,
        device: torch.device,
    ) -> Targets:
        """Return the targets of a run that is fitted on rows with `label`."""
        weight = None
        if optim.class_weights == "balanced":
            found = balanced(label, task, outputs).astype(np.float32)
            weight = torch.from_numpy(found).to(device)
        return cls(task, outputs, optim.label_smoothing, weight)

    def loss(self, out: Output, batch: Batch) -> Tensor:
        """Return the `(batch,)` loss of every sample; that of `out` when nothing is changed."""
        if self.weight is None and self.smoothing == 0:
            return out.loss
        label = soft(batch.label, self.task, self.outputs, self.smoothing)
        return sample_loss(out.score, label, self.task, self.weight)
