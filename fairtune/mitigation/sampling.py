"""Orders of a pass that give rows other chances than one each."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairtune.mitigation.hooks import Order


def drawn_by(weight: NDArray[np.float64]) -> Order:
    """Return the order of a pass of n draws with replacement, row i with chance w_i / sum w.

    Drawn by inverting the cumulative sum at stratified uniform numbers (one in each n-th of the
    unit interval, then shuffled): every row is drawn its expected number of times but for less
    than one, so that a small group is in every pass (systematic resampling, Kitagawa 1996).

    Args:
        weight: `(n,)`, none below 0, not all 0.
    """
    edges = torch.from_numpy(np.cumsum(weight) / weight.sum())

    def order(generator: torch.Generator) -> Tensor:
        n = len(edges)
        at = (
            torch.arange(n, dtype=torch.float64)
            + torch.rand(n, generator=generator, dtype=torch.float64)
        ) / n
        found = torch.searchsorted(edges, at, right=True).clamp(max=n - 1)
        return found[torch.randperm(n, generator=generator)]

    return order
