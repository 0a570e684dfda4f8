"""Sinkhorn divergence of strata, with the gradient of plans that are solved for."""

from __future__ import annotations

import torch
from torch import Tensor

from fairtune.mitigation.transport.dual import solved
from fairtune.mitigation.transport.strata import points_of, shares


def sinkhorn(
    x: Tensor, member: Tensor, blur: float, *, tolerance: float = 1e-3, most: int = 60
) -> tuple[Tensor, Tensor]:
    """Return the Sinkhorn divergence of scores, and how many of its problems are not solved.

    S(u, v) = OT(u, v) - OT(u, u)/2 - OT(v, v)/2 with
    OT(u, v) = min_P <P, C> + eps KL(P | u v^T), C_ij = |x_i - y_j|^2 / 2 and eps = blur^2
    (Feydy et al., "Interpolating between Optimal Transport and MMD using Sinkhorn Divergences",
    AISTATS 2019). It is near W_2^2 / 2 for a small blur and near half the squared distance of the
    means for a large one. The gradient is that of the cost at the plans found (envelope theorem).

    The plans are found in float64 and in the log domain, for all p (2g + 1) problems at once, in
    annealed steps and then at `blur` until the next step would change the entries of the plan by
    less than `tolerance` (root mean square, relative, weighted by the plan). That step is taken
    too, and leaves about the square of it. Each costs O(k^3), with k the largest number of samples
    of a problem. The host waits for the device once per step.

    Deviation from the reference implementation, geomloss: Newton steps in place of alternating
    averages, whose error falls by 1 - blur^2 / 2 a step for scores of SD 1, and a test of it.

    Args:
        x: `(n,)` or `(n, d)` scores.
        member: `(p, g, n)` of 0 and 1; a sample is in one stratum at most.
        blur: Above 0, in the unit of `x`; not less than 1e-5 of the diameter is used.
        tolerance: Above 0.
        most: Most steps at `blur`.

    Returns:
        `(p, g)` divergences, 0 without gradient for an empty stratum; and a number of problems out
        of p (2g + 1), as an integer tensor `()`.
    """
    points, strata = points_of(x, member)
    packed, weight = _packed(points.double(), strata.double())
    cost = (packed[:, :, None] - packed[:, None]).square().sum(dim=-1) / 2
    with torch.no_grad():
        rows, columns = _sides(weight)
        found = solved(cost[:, None], rows, columns, blur, tolerance, most)
        filled = weight.sum(dim=-1) > 0
        value = _divergence(found.value).where(filled, 0.0)
        plan = _divergence(found.plan).where(filled[..., None, None], 0.0)
    moved = (plan * cost[:, None]).sum(dim=(-2, -1))
    # The value of the dual, with the gradient of the cost.
    return (value + (moved - moved.detach())).to(points.dtype), found.unsolved


def _packed(points: Tensor, strata: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points of every problem, `(p, k, d)`, first those in it; and its `(p, g, k)`."""
    inside = strata.sum(dim=1)
    size = max(1, int(inside.sum(dim=-1).max()))
    order = inside.argsort(dim=-1, descending=True, stable=True)[:, :size]
    at = order[:, None].expand(-1, strata.shape[1], -1)
    return points[order], strata.gather(-1, at)


def _sides(strata: Tensor) -> tuple[Tensor, Tensor]:
    """Return both weights of all problems, `(p, 2g + 1, k)`: g with the pool, pool, g alone.

    An empty side is one point, so that it is a problem with a solution.
    """
    each, every = shares(strata), shares(strata.sum(dim=1, keepdim=True))
    weight = torch.cat([each, every], dim=1)
    weight[..., 0] += weight.sum(dim=-1) == 0
    each, every = weight[:, :-1], weight[:, -1:]
    return torch.cat([every.expand_as(each), every, each], 1), torch.cat([each, every, each], 1)


def _divergence(of: Tensor) -> Tensor:
    """Return cross - pool/2 - self/2 of `(p, 2g + 1, ...)` as `(p, g, ...)`."""
    groups = of.shape[1] // 2
    return of[:, :groups] - of[:, groups : groups + 1] / 2 - of[:, groups + 1 :] / 2
