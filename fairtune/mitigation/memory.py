"""What is known of every training row, where a batch can look it up."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairtune.mitigation.context import Context


def by_row(context: Context, values: NDArray[np.float64], rest: float = 1.0) -> Tensor:
    """Return the `(rows of the pack,)` values of the fitted rows on the device; others `rest`."""
    whole = np.full(context.pack_rows, rest, dtype=np.float32)
    whole[context.row] = values
    return torch.from_numpy(whole).to(context.device)
