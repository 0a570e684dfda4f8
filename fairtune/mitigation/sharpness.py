"""Gradients taken where the loss nearby is largest."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fairtune.mitigation.hooks import Step

ETA = 0.01
"""Added to |w| in the adaptive form, so that a weight of 0 is moved too; the paper's value."""


def sharp(rho: float, adaptive: bool) -> Step:
    """Return a step whose gradient is that at the steepest point within `rho` of the weights.

    Values are restored from copies: bit for bit what they were. Nothing waits for the device.

    Args:
        rho: Radius, above 0.
        adaptive: Whether it is measured in units of the weights; see `methods.sam`.
    """

    def step(gradient: Callable[[bool], Tensor], parameters: Iterable[nn.Parameter]) -> Tensor:
        held = list(parameters)
        loss = gradient(True)
        moved: list[Tensor] = [p for p in held if p.grad is not None]
        if not moved:
            return loss
        with torch.no_grad():
            before = [p.detach().clone() for p in moved]
            _ascend(moved, rho, adaptive)
        try:
            gradient(False)
        finally:
            with torch.no_grad():
                torch._foreach_copy_(moved, before)
        return loss

    return step


def _ascend(moved: list[Tensor], rho: float, adaptive: bool) -> None:
    """Add rho T^2 g / ||T g||, with T of 1 or |w| + eta, to every tensor; uses up gradients."""
    gradients = [p.grad for p in moved if p.grad is not None]
    scaled = [(p, g) for p, g in zip(moved, gradients, strict=True) if adaptive and p.ndim > 1]
    sizes = [p.abs().add_(ETA) for p, _ in scaled]
    for size, (_, g) in zip(sizes, scaled, strict=True):
        g.mul_(size)
    norm = torch.nn.utils.get_total_norm(gradients)
    # A flat place has no steepest direction: nothing is moved, and nothing divided by 0.
    torch._foreach_mul_(gradients, torch.where(norm > 0, rho / norm, 0.0))
    for size, (_, g) in zip(sizes, scaled, strict=True):
        g.mul_(size)
    torch._foreach_add_(moved, gradients)
