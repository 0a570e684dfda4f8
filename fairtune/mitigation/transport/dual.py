"""Entropic transport by Newton's method: a plan that is optimal, not one on its way there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

COOLING = 0.7
"""Factor of the blur from one step of the annealing to the next, at the least."""
FINEST = 1e-5
"""Least blur as a share of the diameter: below it float64 does not resolve the plan."""
RIDGE = 1e-10
"""Added to eigenvalues in [0, 1]. Only what moves less mass than this remains undecided."""


@dataclass(frozen=True, eq=False)
class Solution:
    """Solved problems.

    Attributes:
        value: `(p, b)` optimal values.
        plan: `(p, b, k, k)` optimal plans.
        unsolved: `()` number of problems that are short of the tolerance.
    """

    value: Tensor
    plan: Tensor
    unsolved: Tensor


def solved(
    cost: Tensor, rows: Tensor, columns: Tensor, blur: float, tolerance: float, most: int
) -> Solution:
    """Return the solutions of min_P <P, C> + eps KL(P | a b^T), P 1 = a, P^T 1 = b, eps = blur^2.

    Args:
        cost: C, `(p, 1, k, k)`, in float64; the b problems of each p share it.
        rows: a, `(p, b, k)`, at least 0, sums 1; points without weight take no part.
        columns: b, likewise.
        blur: Above 0; not less than 1e-5 of the root of 2 max C is used.
        tolerance: Of the relative change of the plan by the next step, above 0.
        most: Most steps at `blur`, after the annealed ones.
    """
    dual = Dual(cost, rows, columns)
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
    return Solution(value, dual.plan(other, potential, eps), (~(left < tolerance)).sum())


class Dual:
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
