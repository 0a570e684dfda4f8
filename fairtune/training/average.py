"""The exponential moving average of what trains."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from fairtune.models.swap import swapped

_POWER = 2 / 3


class Average:
    """A moving average of trained tensors, in their own precision.

    average += (1 - d) * (weight - average) after every step t = 1, 2, ..., with
    d = min(decay, 1 - t^(-2/3)), so that the first steps are forgotten soon. Frozen tensors are
    their own average and are not copied.

    Args:
        trained: What trains, by name.
        decay: The decay d in the end, in (0, 1).
    """

    follows = False

    def __init__(self, trained: Mapping[str, nn.Parameter], decay: float) -> None:
        self.trained, self.decay = trained, decay
        self.steps = 0
        self.held: dict[str, Tensor] = {name: p.detach().clone() for name, p in trained.items()}

    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, 1 - self.steps**-_POWER)
        with torch.no_grad():
            for name, parameter in self.trained.items():
                self.held[name].lerp_(parameter, 1 - decay)

    def passed(self, loss: float) -> None:
        """Nothing follows from a validation loss."""

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on, for `restore`; not a copy."""
        return {"steps": self.steps, "held": dict(self.held)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the average that `state` is of would have."""
        self.steps = state["steps"]
        for name, value in self.held.items():
            value.copy_(state["held"][name])

    def applied(self) -> AbstractContextManager[None]:
        """Let the trained tensors have the averaged values meanwhile."""
        return swapped(self.trained, self.held)
