"""How much a variance over few patients with several rows each can be trusted.

The variance of a mean over clusters is read from the squares of their deviations d_k = s_k -
n_k mean, s_k the sum and n_k the number of rows of patient k. With few or unequal patients that
sum of squares is too small and itself uncertain. Both are taken from its first two moments under
a working model in which the rows of a patient are one (Bell and McCaffrey 2002, who take rows as
independent): then Var(s_k) is proportional to w_k = n_k^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from fairtune.evaluation.arrays import FloatArray, IntArray


@dataclass(frozen=True)
class Trust:
    """What a sum of squared deviations over patients is worth.

    Attributes:
        inflation: Factor that makes it unbiased under the working model, 1 or more; with one row
            per patient G / (G - 1) for G patients.
        freedom: Degrees of freedom by Satterthwaite (1946), 2 mean^2 / variance; with one row per
            patient G - 1.
    """

    inflation: float
    freedom: float


def trust(rows: IntArray | FloatArray) -> Trust:
    """Return the trust in a sum of squares over patients with these numbers of rows.

    With p_k = n_k / n and B = (I - p 1')' (I - p 1'), the sum of squares is s' B s, so that its
    mean is tr(B W) and half its variance tr(B W B W), W = diag(w); both are sums over patients.

    Args:
        rows: `(patients,)` rows of each patient, all 1 or more, two patients or more.
    """
    n = np.asarray(rows, dtype=np.float64)
    share, w = n / n.sum(), n**2
    c, total = float(share @ share), float(w.sum())
    first, second = float(share @ w), float(share**2 @ w)
    mean = total - 2 * first + c * total
    off = c**2 * total**2 + 2 * second * total + 2 * first**2 - 4 * c * first * total
    half = off + float(w**2 @ (1 + 2 * (c - 2 * share)))
    return Trust(total / mean, mean**2 / half)


def variance_of_mean(values: FloatArray, code: IntArray) -> float:
    """Return the variance of the mean of `values` over patients: inflation sum d_k^2 / n^2.

    Args:
        values: `(n,)`.
        code: `(n,)` patients as 0..k-1, k of 2 or more.
    """
    deviation = np.bincount(code, weights=values - values.mean())
    inflation = trust(np.bincount(code)).inflation
    return inflation * float(deviation @ deviation) / len(values) ** 2


def quantile(tail: float, freedom: float = np.inf) -> float:
    """Return the quantile of Student's t that leaves `tail` above it; at infinity the normal's."""
    return float(-ndtri(tail) if np.isinf(freedom) else -stdtrit(freedom, tail))
