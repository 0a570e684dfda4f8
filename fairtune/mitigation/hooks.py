"""Where a mitigation takes hold of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairtune.data.batch import Batch
from fairtune.usage import Output

Order = Callable[[torch.Generator], Tensor]
Look = Callable[[Batch, Output, bool], Tensor]
Step = Callable[[Callable[[bool], Tensor], Iterable[nn.Parameter]], Tensor]


class Averager(Protocol):
    """Weights that are scored and stored in place of the last ones.

    Attributes:
        held: Averaged tensors by name.
        follows: Whether it wants to know the validation loss of the weights as they are.
    """

    held: dict[str, Tensor]
    follows: bool

    def update(self) -> None:
        """Take in the weights after a step."""

    def passed(self, loss: float) -> None:
        """Take in the validation loss of the weights after a pass."""

    def applied(self) -> AbstractContextManager[None]:
        """Let the trained tensors have the averaged values meanwhile."""

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on, for `restore`."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the average that `state` is of would have."""


@dataclass(frozen=True)
class Identify:
    """A first fit without any mitigation, whose predictions the run starts from.

    Attributes:
        epochs: Its epochs.
        take: Is given the `(n, outputs)` logits of the rows the run is fitted on.
    """

    epochs: int
    take: Callable[[NDArray[np.float32]], None]


@dataclass(frozen=True, eq=False)
class Hooks:
    """What one mitigation does in one run; what is None it leaves as it is.

    The look at a batch gets the batch, what the usage made of it, and whether it is the first
    look: where a step sees its batch twice (`sam`), nothing may be remembered twice. With several
    processes batch and output are those of all of them.

    Attributes:
        sampler: Order of a pass: `(k,)` positions in the fitted rows, drawn from the generator.
        head: `(batch, embedding (b, dim)) -> (b, outputs)` logits in place of the head's, while
            training only.
        step: Makes the gradient of a step: is given a function that computes it (told whether it
            is the first look) and returns the summed loss, and all trained parameters.
        average: Returns what is averaged of the trained tensors.
        weights: `(b,)` factors of the samples' loss, without gradient; those of several
            mitigations are multiplied.
        loss: A term that is added to the mean loss of the batch.
        stepped: Called after every optimiser step.
        passed: Called after every pass with its number, counted from 1.
        modules: Networks that are trained beside the model and thrown away.
        lr: Peak learning rate of `modules`.
        identify: A first fit that the run needs.
        state: What it remembers, as JSON and tensors.
        load_state: Takes back what `state` returned.
        report: What is to be known about it after a pass, as JSON.
    """

    sampler: Order | None = None
    head: Callable[[Batch, Tensor], Tensor] | None = None
    step: Step | None = None
    average: Callable[[Mapping[str, nn.Parameter]], Averager] | None = None
    weights: Look | None = None
    loss: Look | None = None
    stepped: Callable[[], None] | None = None
    passed: Callable[[int], None] | None = None
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    lr: float = 1e-3
    identify: Identify | None = None
    state: Callable[[], dict[str, Any]] | None = None
    load_state: Callable[[Mapping[str, Any]], None] | None = None
    report: Callable[[], dict[str, Any]] | None = None
