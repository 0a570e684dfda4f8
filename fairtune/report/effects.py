"""Which switches of the mask go with a better figure: a ridge on finished trials, descriptive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fairtune.evaluation.arrays import FloatArray
from fairtune.report.trials import mask_frame
from fairtune.study.linear.features import Features
from fairtune.study.overview import Overview
from fairtune.study.rank import DEGENERATE, is_unusable
from fairtune.study.rows import SEARCH, Row, results

LEAST = 8
"""Fewer runs than this are not described."""
PENALTIES = np.logspace(-1, 4, 26)
MASK = "adaptation.mask"


@dataclass(frozen=True, eq=False)
class Effects:
    """What the ridge found.

    Attributes:
        frame: Per switch: `type`, `depth` (None outside the blocks), `effect` (of training it
            against leaving it frozen, in units of the primary objective, better counted up),
            `trained` (runs with it on).
        runs: Finished runs it stands on.
        recipes: Different masks among them.
        explained: Share of the variance explained in runs left out one at a time; at most 0
            where the map says nothing.
        spread: Standard deviation of the objective over the runs.
    """

    frame: pd.DataFrame
    runs: int
    recipes: int
    explained: float
    spread: float


def mask_effects(view: Overview) -> Effects | None:
    r"""Return the effect of every switch that was on in some finished run and off in another.

    With x the switches as -1 and 1, z the other parameters that were searched (numbers as a
    linear and a quadratic column, choices one-hot), all centred, and y the primary objective,

        min |y - X b - Z c|^2 + lambda (|b|^2 + |c|^2),   effect = 2 b;

    lambda has the least squared error when every run is left out once (closed form by the hat
    matrix). Switches that are always on and off together share what they do. None with fewer
    than 8 runs, or where no switch varies.
    """
    rows = [r for r in results(view.rows[SEARCH]) if r.values is not None]
    rows = [r for r in rows if not is_unusable(r.attrs.get(DEGENERATE))]
    table, switches = mask_frame(view)
    rows = [r for r in rows if r.digest in table.index]
    if len(rows) < LEAST or not len(switches):
        return None
    on = table.loc[[r.digest for r in rows], list(range(len(switches)))].to_numpy()
    varies = on.min(axis=0) < on.max(axis=0)
    if not varies.any():
        return None
    x = np.concatenate([2.0 * on[:, varies] - 1, _others(rows)], axis=1)
    y = view.judge.primary.sign * np.array([r.values[0] for r in rows if r.values is not None])
    weights, explained = ridge(x, y)
    frame = switches.loc[varies, ["type", "depth"]].reset_index(drop=True)
    frame["effect"] = 2 * weights[: int(varies.sum())]
    frame["trained"] = on[:, varies].sum(axis=0)
    masks = len({tuple(line) for line in on.tolist()})
    return Effects(frame, len(rows), masks, explained, float(y.std(ddof=1)))


def _others(rows: list[Row]) -> FloatArray:
    """Return the columns of the parameters that are not of the mask, `(runs, columns)`."""
    space = {n: d for r in rows for n, d in r.dimensions.items() if not n.startswith(MASK)}
    points = [{n: v for n, v in r.params.items() if n in space} for r in rows]
    return Features.of(space, points).rest(points)


def ridge(x: FloatArray, y: FloatArray) -> tuple[FloatArray, float]:
    """Return ridge weights at the penalty of least leave-one-out error, and what it explains.

    Args:
        x: `(n, columns)`.
        y: `(n,)`.

    Returns:
        Weights `(columns,)`, and 1 - (squared error of the left out) / (that of their mean).
    """
    n = len(y)
    centred, about = x - x.mean(axis=0), y - y.mean()
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    best: tuple[float, FloatArray] | None = None
    for penalty in PENALTIES:
        shrink = values**2 / (values**2 + penalty)
        lever = 1 / n + (left**2 * shrink).sum(axis=1)
        error = float((((about - left @ (shrink * (left.T @ about))) / (1 - lever)) ** 2).sum())
        if best is None or error < best[0]:
            inverse = values / (values**2 + penalty)
            best = error, np.asarray(right.T @ (inverse * (left.T @ about)))
    assert best is not None
    plain = float(((about * n / (n - 1)) ** 2).sum())
    return best[1], 1 - best[0] / plain if plain else 0.0
