"""Distances between the scores of a group and those of everybody: tensors in, tensors out.

Every distance takes `x`, the scores `(n,)` or `(n, d)`, and `member`, `(p, g, n)` of 0 and 1: p
problems (one per class, or one in all) of g groups each. A sample is in one stratum (p, g) at
most; a stratum may be empty. Every distance returns `(p, g)`: how far the scores of a stratum are
from the scores of all samples that are in some stratum of the same problem. Both sides carry the
gradient. A stratum without samples has distance 0 and no gradient.

| function | distance | of few samples of one distribution |
|---|---|---|
| `w2` | W_2^2 / 2 in one dimension, exact | above 0 |
| `w2_points` | W_2^2 / 2 of vectors, exact | above 0 |
| `sinkhorn` | Sinkhorn divergence | above 0, less so with more blur |
| `energy` | energy distance, U-statistic | 0 on average |
| `mmd` | MMD^2 of a Gaussian kernel, U-statistic | 0 on average |
"""

from __future__ import annotations

from fairtune.mitigation.transport.energy import energy, mmd
from fairtune.mitigation.transport.entropic import sinkhorn
from fairtune.mitigation.transport.exact import w2, w2_points

__all__ = ["energy", "mmd", "sinkhorn", "w2", "w2_points"]
