"""Scores and strata for the tests of distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

RAGGED = (32, 20, 7)


def strata(sizes: Sequence[Sequence[int]], outside: int = 0) -> Tensor:
    """Return `(p, g, n)` for groups of `sizes[p][g]` samples in a row, then `outside` in none."""
    n = sum(map(sum, sizes)) + outside
    member = torch.zeros(len(sizes), len(sizes[0]), n)
    start = 0
    for p, groups in enumerate(sizes):
        for g, size in enumerate(groups):
            member[p, g, start : start + size] = 1
            start += size
    return member


def scores(n: int, seed: int, d: int | None = None) -> Tensor:
    """Return scores `(n,)` or `(n, d)` of mean 0 and SD 1 with a trend along the samples."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n,) if d is None else (n, d)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    drawn = drawn + torch.linspace(0, 1, n, dtype=torch.float64).reshape(
        -1, *[1] * (d is not None)
    )
    return (drawn - drawn.mean()) / drawn.std()


def sides(x: Tensor, member: Tensor, p: int, g: int) -> tuple[Tensor, Tensor]:
    """Return the scores of everybody in problem p, and those of its group g."""
    return x[member[p].sum(dim=0) > 0], x[member[p, g] > 0]


def gradient(of: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the gradient of the sum of a distance at `x`."""
    at = x.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(of(at).sum(), at)
    return found
