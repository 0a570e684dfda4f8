"""What every distance does first: scores as points of one precision, and shares of strata."""

from __future__ import annotations

import torch
from torch import Tensor


def points_of(x: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores as points and the strata in the same precision.

    Half precision becomes single. Scores of samples in no stratum become 0, so that a value that
    is not finite there reaches neither a distance nor a gradient.

    Args:
        x: `(n,)` or `(n, d)` scores.
        member: `(p, g, n)` of 0 and 1.

    Returns:
        Points `(n, d)` and strata `(p, g, n)` of float32 or float64.
    """
    points = x[:, None] if x.ndim == 1 else x
    if points.dtype != torch.float64:
        points = points.float()
    inside = member.bool().any(dim=0).any(dim=0)
    return points.where(inside[:, None], torch.zeros_like(points)), member.to(points.dtype)


def shares(weight: Tensor) -> Tensor:
    """Return weights divided by their sum over the last axis; all 0 where that sum is 0."""
    total = weight.sum(dim=-1, keepdim=True)
    return weight / total.where(total > 0, torch.ones_like(total))
