"""What may be claimed: simultaneous bounds over comparisons, and yes, no or cannot tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri

from fairtune.evaluation.paired import Difference

LEVEL = 0.05
POWER = 0.8
Answer = Literal["yes", "no", "cannot tell"]


@dataclass(frozen=True)
class Bounds:
    """A difference with bounds that hold together with those of the other comparisons.

    Args:
        value: The difference, better counted up.
        low: Simultaneous lower bound.
        high: Simultaneous upper bound.
        p: Two-sided p-value before adjustment.
        tail: Probability left out on each side.
        se: Standard error of the difference.
        patients: Patients it rests on.
        speaks_of: `this model` or `this method`.
    """

    value: float
    low: float
    high: float
    p: float
    tail: float
    se: float
    patients: int
    speaks_of: str


def holm(differences: Mapping[str, Difference], level: float = LEVEL) -> dict[str, Bounds]:
    """Return Holm-adjusted bounds over attributes x baselines.

    In the order of their p-values the j-th of m differences is held to level / (m - j + 1), and
    from the first one that does not exclude 0 on, all others to the level of that one, so that
    a bound excludes 0 exactly when Holm's step-down procedure rejects.

    Args:
        differences: By a name such as `age vs fullft`; better counted up.
        level: Two-sided family-wise level.
    """
    p_values = {name: p_value(d.draws) for name, d in differences.items()}
    order = sorted(differences, key=lambda name: (p_values[name], name))
    found: dict[str, Bounds] = {}
    tail, rejecting = level / 2 / max(len(order), 1), True
    for rank, name in enumerate(order):
        if rejecting:
            tail = level / 2 / (len(order) - rank)
        d = differences[name]
        low, high = d.ends(tail)
        rejecting = rejecting and (low > 0 or high < 0)
        se = float(d.draws.std())
        found[name] = Bounds(d.value, low, high, p_values[name], tail, se, d.patients, d.speaks_of)
    return {name: found[name] for name in differences}


def p_value(draws: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Return the two-sided p-value that the draws' percentile interval belongs to.

    Twice the smaller share of draws on one side of 0, counting one draw more, so never 0.
    """
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(draws) + 1))


@dataclass(frozen=True)
class Verdict:
    """Whether the pick serves its primary objective better than the baselines.

    Args:
        answer: `yes`, `no` or `cannot tell`.
        why: The reason in words.
        patients_needed: For `cannot tell`: about how many patients like these would settle it
            with 80 % power if the observed difference is the true one; None where no number
            would (the difference is not positive) or where patients are not what is missing.
    """

    answer: Answer
    why: str
    patients_needed: int | None = None


def verdict(
    bounds: Mapping[str, Bounds],
    *,
    harmed: Sequence[str] = (),
    delta: float = 0.0,
    broken: Sequence[str] = (),
) -> Verdict:
    """Return the answer.

    *yes*: every lower bound is above 0, no group is harmed by more than delta and all
    constraints hold. *no*: some upper bound is below 0. Else *cannot tell*.

    Args:
        bounds: From `holm`, better counted up, one per attribute and baseline.
        harmed: Names of groups harmed by more than `delta`.
        delta: The tolerated loss, for the words.
        broken: Constraints that are not met.
    """
    losing = [name for name, b in bounds.items() if b.high < 0]
    if losing:
        worst = bounds[losing[0]]
        return Verdict(
            "no",
            f"{worst.speaks_of} is worse on {', '.join(losing)}: "
            f"{worst.value:+.3f}, at most {worst.high:+.3f}",
        )
    open_ = {name: b for name, b in bounds.items() if b.low <= 0}
    if open_ or not bounds:
        return _undecided(open_)
    if harmed:
        return Verdict(
            "cannot tell",
            f"the objective improved, but harmed by more than {delta:g}: {', '.join(harmed)}",
        )
    if broken:
        return Verdict(
            "cannot tell", f"the objective improved, but not within {', '.join(broken)}"
        )
    least = min(bounds.values(), key=lambda b: b.low)
    return Verdict("yes", f"{least.speaks_of} is better by at least {least.low:.3f} everywhere")


def _undecided(open_: Mapping[str, Bounds]) -> Verdict:
    if not open_:
        return Verdict("cannot tell", "nothing was compared")
    needed = [patients_needed(b) for b in open_.values()]
    name, b = min(open_.items(), key=lambda item: item[1].low)
    why = f"on {name} the difference {b.value:+.3f} may lie between {b.low:+.3f} and {b.high:+.3f}"
    known = [n for n in needed if n is not None]
    if len(known) < len(needed):
        return Verdict("cannot tell", why + "; it points the other way or nowhere")
    return Verdict(
        "cannot tell", f"{why}; about {max(known)} patients would be needed", max(known)
    )


def patients_needed(bounds: Bounds, power: float = POWER) -> int | None:
    """Return about how many patients would put the lower bound above 0, None if none would.

    n' = n ((z_tail + z_power) SE / difference)^2, taking the observed difference as true and the
    standard error as falling with the root of the number of patients.
    """
    if bounds.value <= 0 or not bounds.patients:
        return None
    z = -ndtri(bounds.tail) + ndtri(power)
    return math.ceil(bounds.patients * float((z * bounds.se / bounds.value) ** 2))
