"""How much of the difference between good and other trials goes with each parameter."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fairtune.evaluation.arrays import FloatArray
from fairtune.report.effects import LEAST, MASK
from fairtune.study.distributions import to_optuna
from fairtune.study.overview import Overview
from fairtune.study.rank import DEGENERATE, is_unusable
from fairtune.study.rows import SEARCH, Row, results

if TYPE_CHECKING:
    import optuna

SHUFFLES, WORK = 40, 4000
TOP = 5
"""Fewest trials that count as good: with fewer their densities are those of single points."""


def importance_frame(view: Overview) -> pd.DataFrame:
    """Return the importance of every searched parameter for the primary objective.

    PED-ANOVA of Optuna (Watanabe, Bansal and Hutter, IJCAI 2023) on finished trials: how much
    the density of a parameter among good trials (the best tenth, at least 5) differs from that
    among all. Shares add up to 1; the switches of one unit type are added up. `chance` is the
    95th percentile of the same share when the values are shuffled between the trials: a share
    below it cannot be told from nothing.

    Columns: `parameter`, `switches` (parameters in it), `share`, `chance`; empty with fewer than
    8 finished trials or one parameter.
    """
    rows = [r for r in results(view.rows[SEARCH]) if r.params and r.values is not None]
    rows = [r for r in rows if not is_unusable(r.attrs.get(DEGENERATE))]
    names = sorted({name for row in rows for name in row.params})
    columns = ["parameter", "switches", "share", "chance"]
    values = np.array([row.values[0] for row in rows if row.values is not None])
    if len(rows) < LEAST or len(names) < 2 or not np.ptp(values):
        return pd.DataFrame(columns=columns)
    study, better = _study(rows), view.judge.primary.sign * values
    found = _shares(study, better)
    rng = np.random.default_rng(0)
    shuffled = [
        _shares(study, rng.permutation(better))
        for _ in range(min(SHUFFLES, max(10, WORK // len(names))))
    ]
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(part_of(name), []).append(name)

    def total(shares: dict[str, float], part: str) -> float:
        return sum(shares.get(name, 0.0) for name in parts[part])

    lines = [
        (
            part,
            len(members),
            total(found, part),
            float(np.quantile([total(one, part) for one in shuffled], 0.95)),
        )
        for part, members in parts.items()
    ]
    frame = pd.DataFrame(lines, columns=columns)
    return frame.sort_values("share", ascending=False, kind="stable").reset_index(drop=True)


def part_of(name: str) -> str:
    """Return the name under which a parameter is shown: that of its unit type, or its own."""
    if not name.startswith(f"{MASK}."):
        return name
    rest = name.removeprefix(f"{MASK}.").partition(".")[2] or name
    head, dot, _ = rest.rpartition(".")
    return f"mask: {head if dot else rest}"


def _shares(study: optuna.Study, better: FloatArray) -> dict[str, float]:
    """Return the importance of every parameter if the trials of `study` had these values."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    judge = PedAnovaImportanceEvaluator(target_quantile=min(0.5, max(0.1, TOP / len(better))))
    with warnings.catch_warnings():
        # It says that low targets count as good: hence the sign.
        warnings.filterwarnings("ignore", message=".*computes the importances")
        # A parameter that few trials have: what chance makes of as few stands beside it.
        warnings.filterwarnings("ignore", message=".*regimes for parameter")
        return get_param_importances(
            study, evaluator=judge, target=lambda trial: -float(better[trial.number])
        )


def _study(rows: Sequence[Row]) -> optuna.Study:
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for row in rows:
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(row.params),
                distributions={name: to_optuna(d) for name, d in row.dimensions.items()},
                values=[0.0],
            )
        )
    return study
