"""Sinkhorn divergence, solved by Newton's method: a plan that is optimal, not one on its way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fairtune.mitigation.transport.strata import points_of, shares

COOLING = 0.7
"""Factor of the blur from one step of the annealing to the next, at the least."""
FINEST = 1e-5
"""Least blur as a share of the diameter: below it float64 does not resolve the plan."""
RIDGE = 1e-10
"""Added to eigenvalues in [0, 1]. Only what moves less mass than this remains undecided."""


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
        found = _solved(cost[:, None], rows, columns, blur, tolerance, most)
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


@dataclass(frozen=True, eq=False)
class _Solution:
    value: Tensor
    plan: Tensor
    unsolved: Tensor


def _solved(
    cost: Tensor, rows: Tensor, columns: Tensor, blur: float, tolerance: float, most: int
) -> _Solution:
    """Return values `(p, b)` and plans `(p, b, k, k)` of costs `(p, 1, k, k)`."""
    dual = _Dual(cost, rows, columns)
    potential = torch.zeros_like(columns)
    span = 2 * cost.amax(dim=(-2, -1), keepdim=True)
    eps = (FINEST**2 * span).clamp(min=blur**2)
    heat = (span / eps).clamp(min=1)
    steps = int((heat.max().log() / (-2 * math.log(COOLING))).nan_to_num(nan=0, posinf=0).ceil())
    for step in range(steps):
        potential, _ = dual.newton(potential, eps * heat ** (1 - (step + 1) / steps), 2)
    left = torch.full_like(potential[..., 0], torch.inf)
    for step in range(most):
        # Twice the step that is known to rise converges in a third of the time; should it not,
        # the second half is done with what is known.
        potential, left = dual.newton(potential, eps, 2 if 2 * step < most else 1)
        if bool((left < tolerance).all()):
            break
    other = dual.other(potential, eps)
    value = (rows * other).sum(dim=-1) + (columns * potential).sum(dim=-1)
    return _Solution(value, dual.plan(other, potential, eps), (~(left < tolerance)).sum())


class _Dual:
    """The dual of entropic transport as a function of the potential g of the columns alone.

    It is sum_j b_j g_j + sum_i a_i f_i with f_i = -eps log sum_j b_j exp((g_j - C_ij) / eps). Its
    gradient is b - P^T 1 and its Hessian (P^T diag(1/a) P - diag(P^T 1)) / eps, so it is concave.
    """

    def __init__(self, cost: Tensor, rows: Tensor, columns: Tensor) -> None:
        self.cost, self.columns = cost, columns
        self.log_rows, self.log_columns = rows.log()[..., :, None], columns.log()[..., None, :]
        self.scale = _inverse_root(rows)[..., :, None]

    def other(self, potential: Tensor, eps: Tensor) -> Tensor:
        """Return f `(p, b, k)`, which makes the rows of the plan exact."""
        return -eps[..., 0] * torch.logsumexp(
            self.log_columns + (potential[..., None, :] - self.cost) / eps, dim=-1
        )

    def plan(self, other: Tensor, potential: Tensor, eps: Tensor) -> Tensor:
        """Return P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps) as `(p, b, k, k)`."""
        exponent = (other[..., :, None] + potential[..., None, :] - self.cost) / eps
        return torch.exp(self.log_rows + self.log_columns + exponent)

    def newton(self, potential: Tensor, eps: Tensor, boldness: float) -> tuple[Tensor, Tensor]:
        """Return the potential after a damped Newton step, and the size `(p, b)` of a whole one.

        The dual is self-concordant with the constant r, the spread of the step over eps, so that
        the share log(1 + r) / r of it rises (Sun and Tran-Dinh, "Generalized Self-Concordant
        Functions", 2019); `boldness` multiplies that share, up to the whole step. The size is the
        root of the mean square of the relative change of the plan.
        """
        plan = self.plan(self.other(potential, eps), potential, eps)
        mass = plan.sum(dim=-2)
        scale = _inverse_root(mass)
        step, slope = _newton_step(plan * self.scale * scale[..., None, :], mass, self.columns)
        size = (step * slope).sum(dim=-1).clamp(min=0).sqrt()
        step = (step * scale).where(self.columns > 0, 0.0)
        spread = (step.amax(dim=-1) - step.amin(dim=-1)).clamp(min=1e-12)
        share = (boldness * spread.log1p() / spread).clamp(max=1)
        return potential + eps[..., 0] * share[..., None] * step, size


def _newton_step(scaled: Tensor, mass: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the step and the slope in coordinates in which the Hessian is I - K^T K.

    K is the plan with rows and columns scaled to norm at most 1. A constant potential changes
    nothing: its eigenvalue 0 is moved to 1.
    """
    root = mass.sqrt()
    matrix = root[..., :, None] * root[..., None, :] - scaled.mT @ scaled
    matrix.diagonal(dim1=-2, dim2=-1).add_(1 + RIDGE)
    slope = (target - mass) * _inverse_root(mass)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    step = torch.cholesky_solve(slope[..., None], factor)[..., 0]
    # Without a factor the diagonal of the Hessian has to do: that is a step of Sinkhorn's.
    return step.where((failed == 0)[..., None], slope), slope


def _inverse_root(of: Tensor) -> Tensor:
    return of.where(of > 0, 1.0).rsqrt()
