"""One pass over the training rows, as far as it has come, and how rows are scored after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairtune.data.batch import Batch, Loader
from fairtune.errors import RunError
from fairtune.models.net import Net
from fairtune.training.recipe_parts import OptimPart
from fairtune.usage import Output

T = TypeVar("T")


@dataclass(eq=False)
class Pass:
    """A pass that is under way: begun, and not yet validated.

    Attributes:
        start: State of the loader before the pass drew its order.
        total: This process's summed loss over the steps so far, on the device.
        done: Steps that were made.
        seen: Rows in them, repeats counted.
        loss: Mean loss over the whole pass; None before its last step.
        told: An average that follows the validation loss has been told it.
    """

    start: dict[str, Any]
    total: Tensor
    done: int = 0
    seen: int = 0
    loss: float | None = None
    told: bool = False

    def state(self) -> dict[str, Any]:
        """Return what does not follow from loader and process, as JSON, for `restored`."""
        return {name: getattr(self, name) for name in ("done", "seen", "loss", "told")}

    @classmethod
    def restored(cls, state: Mapping[str, Any], start: dict[str, Any], total: Tensor) -> Pass:
        """Return the pass that `state` is of, with what this process has of it."""
        return cls(start, total, **state)


def measured_at(taken: int, optim: OptimPart, rows: int, steps: int) -> str | None:
    """Return what a step is of all: the `start`, the `end`, or neither.

    The end is the last step whose first batch is full: of a few left samples terms over groups see
    nothing.

    Args:
        taken: Steps before it.
        optim: Epochs and batches.
        rows: Rows of a pass.
        steps: Steps of a pass.
    """
    if taken == 0:
        return "start"
    left = rows - (steps - 1) * optim.batch_size * optim.accumulate
    short = steps > 1 and left < optim.batch_size
    return "end" if taken + 1 == steps * optim.epochs - short else None


def finite(mean: float, mitigated: bool) -> float:
    """Return the mean loss of a pass.

    Args:
        mean: It.
        mitigated: Whether mitigations act on training.

    Raises:
        RunError: It is not finite.
    """
    if math.isfinite(mean):
        return mean
    raise RunError(
        "the training loss is not finite",
        reason="nan",
        found=mean,
        todo="lower the learning rate, or keep clip_norm above 0"
        + (", or lower the weight of a mitigation" if mitigated else ""),
    )


def at_a_stretch(work: Generator[None, None, T]) -> T:
    """Go through `work` without a pause and return what it returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: T = end.value
            return found


def scoring(
    net: Net,
    loader: Loader,
    forward: Callable[[Net, Batch], Output],
    autocast: AbstractContextManager[object],
    pauses: int | None = None,
) -> Generator[None, None, tuple[NDArray[np.float32], float]]:
    """Return `(rows, outputs)` logits and the mean loss over everything `loader` yields.

    It pauses before every batch.

    Args:
        net: The net; put into evaluation mode.
        loader: Serves the rows in their order; without rows there are no logits.
        forward: Usage of the net.
        autocast: Precision of the products.
        pauses: Pauses to make, at least one a batch; None for just those.
    """
    net.eval()
    scores, losses = [], []
    batches = loader.epoch(shuffle=False)
    for _ in range(len(loader) if pauses is None else pauses):
        yield
        batch = next(batches, None)
        if batch is None:
            continue
        with torch.inference_mode(), autocast:
            out = forward(net, batch)
            scores.append(out.score.float())
            losses.append(out.loss.float())
    if not scores:
        return np.empty((0, 0), dtype=np.float32), math.nan
    return torch.cat(scores).cpu().numpy(), float(torch.cat(losses).mean())


def score_rows(
    net: Net,
    loader: Loader,
    forward: Callable[[Net, Batch], Output],
    autocast: AbstractContextManager[object],
) -> tuple[NDArray[np.float32], float]:
    """Return `(rows, outputs)` logits and the mean loss over everything `loader` yields."""
    return at_a_stretch(scoring(net, loader, forward, autocast))
