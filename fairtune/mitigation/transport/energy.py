"""Energy distance and maximum mean discrepancy, as statistics with no bias from small groups."""

from __future__ import annotations

import torch
from torch import Tensor

from fairtune.mitigation.transport.strata import points_of, shares


def energy(x: Tensor, member: Tensor) -> Tensor:
    """Return the energy distance of every group from the mixture of the groups.

    With M_hk the mean of |x_i - x_j| over i in h and j in k, i != j, and pi_h the share of group
    h among the samples of its problem,
    D_g = sum_h pi_h M_hg - 1/2 sum_hk pi_h pi_k M_hk - 1/2 M_gg
    (Szekely and Rizzo, "Energy statistics", 2013, halved, as E|X-Y| - E|X-X'|/2 - E|Y-Y'|/2). A
    mean of distinct pairs is a U-statistic: given the shares, the mean of D_g over draws is the
    distance of the distributions, 0 where these are one. So D_g can be negative. Groups of fewer
    than 2 samples have distance 0 and are not part of the mixture.

    Args:
        x: `(n,)` or `(n, d)` scores, computed in float32 at least; |.| is the Euclidean norm, of
            which the gradient at equal points is taken as 0.
        member: `(p, g, n)` of 0 and 1; a sample is in one stratum at most.

    Returns:
        `(p, g)`, in the unit of `x`.
    """
    points, strata = points_of(x, member)
    apart = torch.linalg.vector_norm(points[:, None] - points[None], dim=-1)
    return _statistic(apart, strata)


def mmd(x: Tensor, member: Tensor, bandwidth: float = 1.0) -> Tensor:
    """Return the squared maximum mean discrepancy of every group from the mixture of the groups.

    With K_hk the mean of k(x_i, x_j) = exp(-|x_i - x_j|^2 / (2 bandwidth^2)) over i in h and j in
    k, i != j, and pi as for `energy`,
    MMD^2_g = sum_hk pi_h pi_k K_hk + K_gg - 2 sum_h pi_h K_hg
    (Gretton et al., "A Kernel Two-Sample Test", JMLR 2012, lemma 6, for a mixture on one side).
    Its mean over draws is 0 where the distributions are one, so it can be negative. Groups of
    fewer than 2 samples have distance 0 and are not part of the mixture.

    Args:
        x: `(n,)` or `(n, d)` scores, computed in float32 at least.
        member: `(p, g, n)` of 0 and 1; a sample is in one stratum at most.
        bandwidth: Standard deviation of the kernel in the unit of `x`, above 0.

    Returns:
        `(p, g)`, at most 2.
    """
    points, strata = points_of(x, member)
    apart = ((points[:, None] - points[None]) / bandwidth).square().sum(dim=-1)
    kernel = torch.exp(-apart / 2)
    return -2 * _statistic(kernel - torch.diag(kernel.diagonal()), strata)


def _statistic(pairs: Tensor, strata: Tensor) -> Tensor:
    """Return D_g `(p, g)` of `pairs`, `(n, n)` with diagonal 0, for the strata `(p, g, n)`."""
    # Mixed precision would round these sums, of which the statistic is a small difference.
    with torch.autocast(pairs.device.type, enabled=False):
        total = strata @ pairs @ strata.mT
    count = strata.sum(dim=-1)
    number = count[:, :, None] * count[:, None, :] - torch.diag_embed(count)
    mean = total / number.clamp(min=1)
    enough = count >= 2
    share = shares(count * enough)
    cross = (share[:, :, None] * mean).sum(dim=1)
    mixed = (share * cross).sum(dim=-1, keepdim=True)
    found = cross - mixed / 2 - mean.diagonal(dim1=1, dim2=2) / 2
    return found.where(enough, torch.zeros_like(found))
