"""The mean of the weights after every step in a valley of the validation loss."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fairtune.models.swap import swapped


@dataclass(eq=False)
class Segment:
    """The mean of weights over the steps of some passes.

    Attributes:
        values: Means by name; empty without steps.
        steps: Steps whose weights are in it.
        passes: Passes that these are of.
        loss: Validation loss of the weights at the end of its one pass.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    passes: int = 0
    loss: float = float("nan")

    def add(self, values: Mapping[str, Tensor], steps: int = 1) -> None:
        """Take in `values`, the weights after a step or their mean over several."""
        with torch.no_grad():
            if not self.steps:
                self.values = {name: value.detach().clone() for name, value in values.items()}
            else:
                share = steps / (self.steps + steps)
                for name, mean in self.values.items():
                    mean.lerp_(values[name].detach(), share)
        self.steps += steps

    def join(self, other: Segment) -> None:
        """Take in the steps of `other`."""
        if other.steps:
            self.add(other.values, other.steps)
            self.passes += other.passes

    def state(self) -> dict[str, Any]:
        """Return it as JSON and tensors, not copied."""
        return dict(vars(self))

    @classmethod
    def restored(cls, state: Mapping[str, Any], like: Mapping[str, Tensor]) -> Segment:
        """Return the segment that `state` is of, on the devices of `like`."""
        values = {
            name: value.detach().to(like[name].device, copy=True)
            for name, value in state["values"].items()
        }
        return cls(**{**state, "values": values})


class Valley:
    """Finds a valley of the validation loss and keeps the mean of the weights in it.

    Pass s has the loss L_s of the weights at its end. The valley opens at the first pass t with
    L_t the least of L_t, ..., L_{t + converge - 1}; its rim is l = (1 + ratio) * their mean. It is
    closed once `tolerance` passes in a row were above l, and reaches from pass t to the last one
    not above l. The mean is over the weights after every step of its passes. Until it opens, what
    counts is the mean over the last pass.

    Args:
        converge: Passes without a lower loss after which it opens.
        tolerance: Passes above the rim after which it is closed.
        ratio: Height of the rim, as a share of the mean loss where it opened.
    """

    follows = True

    def __init__(self, converge: int, tolerance: int, ratio: float) -> None:
        self.converge, self.tolerance, self.ratio = converge, tolerance, ratio
        self.trained: Mapping[str, nn.Parameter] = {}
        self.held: dict[str, Tensor] = {}
        self.losses: list[float] = []
        self.rim: float | None = None
        self.opened: int | None = None
        self.closed = False
        self._now, self._inside, self._above = Segment(), Segment(), Segment()
        self._last: deque[Segment] = deque(maxlen=converge)

    def begin(self, trained: Mapping[str, nn.Parameter]) -> Valley:
        """Average `trained`, tensors by name, in their own precision."""
        self.trained = trained
        self.held = {name: p.detach().clone() for name, p in trained.items()}
        return self

    def update(self) -> None:
        """Take in the weights after a step."""
        if not self.closed:
            self._now.add(self.trained)

    def passed(self, loss: float) -> None:
        """Take in the validation loss of the weights after a pass."""
        self.losses.append(loss)
        if self.closed:
            return
        ended, self._now = self._now, Segment()
        ended.loss, ended.passes = loss, 1
        if self.rim is not None:
            self._extend(ended)
            self.closed = self._above.passes >= self.tolerance
            if self.closed:
                self._above = Segment()
            return
        self._last.append(ended)
        self.held = ended.values
        losses = [segment.loss for segment in self._last]
        if len(losses) == self.converge and losses[0] <= min(losses):
            self._open(losses)

    def _open(self, losses: list[float]) -> None:
        self.rim = (1 + self.ratio) * sum(losses) / len(losses)
        self.opened = len(self.losses) - self.converge + 1
        self._inside, *rest = self._last
        self._last.clear()
        for segment in rest:
            self._extend(segment)
        self.held = self._inside.values

    def _extend(self, segment: Segment) -> None:
        """Take in a pass; those above the rim wait for one that is not."""
        assert self.rim is not None
        if not segment.loss <= self.rim:
            self._above.join(segment)
            return
        self._inside.join(self._above)
        self._inside.join(segment)
        self._above = Segment()

    def applied(self) -> AbstractContextManager[None]:
        """Let the trained tensors have the averaged values meanwhile."""
        return swapped(self.trained, self.held)

    def report(self) -> dict[str, Any]:
        """Return where the valley is, as JSON; passes are counted from 1."""
        if self.opened is None:
            steps = self._last[-1].steps if self._last else 0
            return {"opened": None, "losses": list(self.losses), "steps": steps}
        return {
            "opened": self.opened,
            "until": self.opened + self._inside.passes - 1,
            "closed": self.closed,
            "rim": self.rim,
            "losses": list(self.losses),
            "steps": self._inside.steps,
        }

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on, for `restore`; not a copy."""
        return {
            "losses": list(self.losses),
            "rim": self.rim,
            "opened": self.opened,
            "closed": self.closed,
            "now": self._now.state(),
            "inside": self._inside.state(),
            "above": self._above.state(),
            "last": [segment.state() for segment in self._last],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the average that `state` is of would have."""
        self.losses = list(state["losses"])
        self.rim, self.opened, self.closed = (state[k] for k in ("rim", "opened", "closed"))
        self._now, self._inside, self._above = (
            Segment.restored(state[name], self.trained) for name in ("now", "inside", "above")
        )
        last = (Segment.restored(segment, self.trained) for segment in state["last"])
        self._last = deque(last, maxlen=self.converge)
        if self.opened is not None:
            self.held = self._inside.values
        elif self._last:
            self.held = self._last[-1].values
