"""Squared 2-Wasserstein distance without blur: sorted in one dimension, by POT in more."""

from __future__ import annotations

import torch
from torch import Tensor

from fairtune.mitigation.transport.strata import points_of


def w2(x: Tensor, member: Tensor) -> Tensor:
    """Return (1/2) W_2^2 of scores that are one number each.

    W_2^2(u, v) = integral over q in (0, 1) of (F_u^-1(q) - F_v^-1(q))^2, with uniform weights on
    either side (Peyre and Cuturi, "Computational Optimal Transport", 2019, remark 2.30). Between
    two neighbouring levels of the merged cumulative weights both quantile functions are constant,
    so the integral is a sum of at most 2n terms. The levels are compared as whole numbers, thus
    without rounding. Every sample has its gradient: (x_i - mean of what it is coupled with) times
    its weight. All strata are one call of O(p g n log n), without waiting for the device.

    Args:
        x: `(n,)` or `(n, 1)` scores, computed in float32 at least.
        member: `(p, g, n)` of 0 and 1; a sample is in one stratum at most.

    Returns:
        `(p, g)`, at least 0; 0 without gradient for an empty stratum.

    Raises:
        ValueError: A score has more than one number.
    """
    points, strata = points_of(x, member)
    if points.shape[1] != 1:
        raise ValueError(f"w2 is of one number per sample, found {points.shape[1]}: use w2_points")
    value, order = points[:, 0].sort(stable=True)
    each = strata.long()[..., order]
    every = each.sum(dim=1, keepdim=True).expand_as(each)
    first, second, weight = _coupling(every, each, value.dtype)
    gap = value[first] - value[second]
    # Nothing is multiplied by 0 here: of scores that are not finite that would be NaN.
    gap = gap.where(weight > 0, torch.zeros_like(gap))
    return (weight * gap.square()).sum(dim=-1) / 2


def between(x: Tensor, of_x: Tensor, y: Tensor, of_y: Tensor) -> Tensor:
    """Return (1/2) W_2^2 between two samples of one number each, 0 where one of them is empty.

    Args:
        x: `(n,)` numbers.
        of_x: `(n,)` of 0 and 1: which of them count.
        y: `(m,)` numbers.
        of_y: `(m,)` of 0 and 1.
    """
    value, order = torch.cat([x, y]).sort(stable=True)
    u = torch.cat([of_x, torch.zeros_like(of_y)]).long()[order]
    v = torch.cat([torch.zeros_like(of_x), of_y]).long()[order]
    first, second, weight = _coupling(u, v, value.dtype)
    gap = (value[first] - value[second]).where(weight > 0, torch.zeros_like(weight))
    return (weight * gap.square()).sum() / 2


def _coupling(u: Tensor, v: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return the monotone coupling of sorted counts `(..., n)`, as 2n pairs with weights.

    A cumulative share a/A of `u` stands as a*V, and b/V of `v` as b*A, where A and V are the
    totals: whole numbers below n^2.
    """
    first, second = u.cumsum(dim=-1), v.cumsum(dim=-1)
    all_u, all_v = first[..., -1:], second[..., -1:]
    first, second = first * all_v, second * all_u
    level = torch.cat([first, second], dim=-1).sort(dim=-1).values
    width = level.diff(dim=-1, prepend=torch.zeros_like(level[..., :1]))
    weight = width.to(dtype) / (all_u * all_v).clamp(min=1)
    return torch.searchsorted(first, level), torch.searchsorted(second, level), weight


def w2_points(x: Tensor, member: Tensor) -> Tensor:
    """Return (1/2) W_2^2 of scores that are vectors, by the network simplex of POT.

    W_2^2(u, v) = min_P sum_ij P_ij |x_i - y_j|^2 over the couplings P of the uniform weights of
    both sides. The gradient is that of the cost at the plan found (envelope theorem). The plan is
    found on the host, stratum by stratum, in O(n^3 log n): for batches, not for data sets.

    Args:
        x: `(n,)` or `(n, d)` scores, computed in float32 at least.
        member: `(p, g, n)` of 0 and 1; a sample is in one stratum at most.

    Returns:
        `(p, g)`, at least 0; 0 without gradient for an empty stratum.
    """
    points, strata = points_of(x, member)
    rows = []
    for groups in strata.bool():
        everybody = points[groups.any(dim=0)]
        rows.append(torch.stack([_planned(everybody, points[group]) for group in groups]))
    return torch.stack(rows)


def _planned(x: Tensor, y: Tensor) -> Tensor:
    if len(y) == 0:
        return y.sum()
    # Two seconds that nobody pays who has one score per sample.
    import ot

    cost = (x[:, None] - y[None]).square().sum(dim=-1)
    plan = ot.emd([], [], cost.detach().double().cpu().numpy())
    return (torch.from_numpy(plan).to(cost) * cost).sum() / 2
