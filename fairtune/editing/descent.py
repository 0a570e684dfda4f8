"""Search by slopes: a rule turns what a batch says into a move."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Generator, Tensor

from fairtune.editing import Asked
from fairtune.editing.zeroth import Slope, rms

Sloped = Callable[[Asked, Tensor, int], Slope]
"""Asks a batch about a point, at a step counted from 0."""


class Rule(Protocol):
    """What is made of slopes. It remembers numbers and tensors by name, in `held`."""

    held: dict[str, Tensor]

    def move(self, slope: Slope, step: int) -> Tensor:
        """Return what is subtracted from the point, `(d,)`; steps are counted from 0."""


class Descent:
    """Goes down the slope of one batch a step: point <- bounded(point - move).

    Args:
        start: `(d,)`.
        slope: Asks the batch.
        rule: Makes the move.
        generator: What `slope` draws from.
    """

    def __init__(self, start: Tensor, slope: Sloped, rule: Rule, generator: Generator) -> None:
        self.point = start.clone()
        self._slope, self._rule, self._generator = slope, rule, generator
        self._made = 0

    def step(self, asked: Asked) -> float:
        """Go one step; return the mean loss of what was asked."""
        slope = self._slope(asked, self.point, self._made)
        self.point = asked.bounded(self.point - self._rule.move(slope, self._made))
        self._made += 1
        return slope.loss

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on."""
        return {
            "point": self.point.clone(),
            "made": torch.tensor(self._made),
            "generator": self._generator.get_state(),
            **{f"rule.{name}": value.clone() for name, value in self._rule.held.items()},
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on as the search that `state` is of would have."""
        self.point, self._made = state["point"].clone(), int(state["made"])
        self._generator.set_state(state["generator"])
        self._rule.held = {
            name.removeprefix("rule."): value.clone()
            for name, value in state.items()
            if name.startswith("rule.")
        }


class Capped:
    """Move by lr g / G, G the largest root mean square of a g so far.

    So no step moves pixels by more than `lr`, root mean square, whatever the loss is measured in,
    and steps get shorter as the loss gets flatter.
    """

    def __init__(self, lr: float) -> None:
        self.lr, self.held = lr, dict[str, Tensor]()

    def move(self, slope: Slope, step: int) -> Tensor:
        """Return the move."""
        return slope.gradient.mul(self.lr / _largest(self.held, rms(slope.gradient)))


class Gains:
    """Move by m ((1 + A) / (1 + A + k))^decay h / G, G the largest mean |g_i| so far.

    h is g; with `momentum` b it is (1 - b) (g + b v) with v <- b v + g, which weighs every g by 1
    in the end, as without.
    """

    def __init__(self, first: float, delay: float, decay: float, momentum: float = 0.0) -> None:
        self.first, self.delay, self.decay = first, delay, decay
        self.momentum, self.held = momentum, dict[str, Tensor]()

    def move(self, slope: Slope, step: int) -> Tensor:
        """Return the move."""
        g, b = slope.gradient, self.momentum
        gain = self.first * ((1 + self.delay) / (1 + self.delay + step)) ** self.decay
        gain /= _largest(self.held, float(g.abs().mean()))
        if b == 0:
            return g.mul(gain)
        before = self.held.get("velocity")
        velocity = g.clone() if before is None else before.mul(b).add_(g)
        self.held["velocity"] = velocity
        return torch.add(g, velocity, alpha=b).mul_(gain * (1 - b))


class Signs:
    """Move every pixel by lr, down its slope."""

    def __init__(self, lr: float) -> None:
        self.lr, self.held = lr, dict[str, Tensor]()

    def move(self, slope: Slope, step: int) -> Tensor:
        """Return the move."""
        return slope.gradient.sign().mul_(self.lr)


class Adam:
    """Move by lr m / (sqrt(v) + 1e-8 G), means of g and g^2 with decays .9 and .999, corrected.

    G is the largest root mean square of a g so far, so that the scale of the loss does not matter.
    """

    def __init__(self, lr: float, first: float = 0.9, second: float = 0.999) -> None:
        self.lr, self.first, self.second = lr, first, second
        self.held: dict[str, Tensor] = {}

    def move(self, slope: Slope, step: int) -> Tensor:
        """Return the move."""
        g = slope.gradient
        floor = 1e-8 * _largest(self.held, rms(g))
        m = self.held.get("mean", torch.zeros_like(g)).lerp(g, 1 - self.first)
        v = self.held.get("square", torch.zeros_like(g)).lerp(g * g, 1 - self.second)
        self.held |= {"mean": m, "square": v}
        root = v.div(1 - self.second ** (step + 1)).sqrt_().add_(floor)
        return m.div(root).mul_(self.lr / (1 - self.first ** (step + 1)))


class Scaled:
    """Move by lr g / S, S^2 the mean of the squared slopes with decay `memory`, corrected.

    With a memory of 0, S is that of this step alone.
    """

    def __init__(self, lr: float, memory: float) -> None:
        self.lr, self.memory, self.held = lr, memory, dict[str, Tensor]()

    def move(self, slope: Slope, step: int) -> Tensor:
        """Return the move."""
        before = float(self.held.get("square", torch.zeros(())))
        square = self.memory * before + (1 - self.memory) * slope.scale**2
        self.held["square"] = torch.tensor(square, dtype=torch.float64)
        root = math.sqrt(square / (1 - self.memory ** (step + 1)))
        return slope.gradient.mul(self.lr / (root or 1.0))


def _largest(held: dict[str, Tensor], now: float) -> float:
    """Return the largest of `now` and what it was before, remembered; 1 while all are 0."""
    largest = max(now, float(held.get("largest", torch.zeros(()))))
    held["largest"] = torch.tensor(largest, dtype=torch.float64)
    return largest or 1.0
