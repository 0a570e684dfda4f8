"""Before the bill: what a validation set can tell at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad
from scipy.special import log_ndtr

from fairtune.evaluation.arrays import FloatArray
from fairtune.evaluation.groups import count, group_rows
from fairtune.evaluation.intervals import hanley_mcneil
from fairtune.evaluation.metrics import METRICS
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import GroupMinimum

POWER = 0.8
DRAWS = 20_000
ASSUMED_AUC = 0.8
SPREAD = 0.03
"""Standard deviation of the true objective between masks that a search hopes to resolve."""


def expected_best(trials: int, se: float = 1.0) -> float:
    """Return E[max of `trials` independent N(0, se^2)]: the optimism of the best of equal recipes.

    E = se * integral of x T phi(x) Phi(x)^(T-1) dx; 0 for one trial.
    """
    if trials < 2 or se == 0:
        return 0.0

    def density(x: float) -> float:
        log = np.log(trials) - 0.5 * x * x + (trials - 1) * log_ndtr(x)
        return float(x * np.exp(log) / np.sqrt(2 * np.pi))

    return se * float(quad(density, -9.0, 9.0 + np.sqrt(2 * np.log(trials)), limit=200)[0])


def smallest_gap(
    errors: FloatArray | list[float], *, power: float = POWER, draws: int = DRAWS, seed: int = 0
) -> float:
    """Return the smallest true gap that exceeds the noise floor with the given power.

    Groups are independent normals with the standard errors `errors`; the floor is the 95th
    percentile of their range when all are equal. The gap is made by the group with the largest
    error, so the answer holds for the hardest group.

    Args:
        errors: `(groups,)` standard errors, two or more.
        power: Wanted probability, above 0.05.
        draws: Simulated studies.
        seed: Seed of the simulation.
    """
    spread = np.asarray(errors, dtype=np.float64)
    noise = np.random.default_rng(seed).standard_normal((draws, len(spread))) * spread
    floor = float(np.quantile(np.ptp(noise, axis=1), 0.95))
    hardest = int(np.argmax(spread))
    others = np.delete(noise, hardest, axis=1)
    # A study whose own noise needs the shift d to pass the floor is passed by every larger shift.
    needed = np.maximum(0.0, floor + noise[:, hardest] - others.max(axis=1))
    needed[np.ptp(others, axis=1) > floor] = 0.0
    return float(np.quantile(needed, power))


@dataclass(frozen=True)
class GroupPower:
    """What one group can tell about an AUC.

    Args:
        group: Its name.
        n: Rows.
        patients: Patients.
        effective: Effective patients.
        positives: Rows of class 1.
        negatives: Rows of class 0.
        se: Standard error of its AUC (Hanley-McNeil, rows scaled to effective patients).
        eligible: Whether it meets the group minimum.
    """

    group: str
    n: int
    patients: int
    effective: float
    positives: int
    negatives: int
    se: float
    eligible: bool


@dataclass(frozen=True)
class Outlook:
    """What the groups of one attribute can tell together.

    Args:
        attribute: Its name.
        groups: Per group.
        smallest_gap: Smallest AUC gap told from the floor with 80 % power; None with fewer than
            two eligible groups.
        optimism: Expected excess of the best of T equal recipes on the worst group's AUC.
        reliability: Share of the variance between recipes' worst-group AUC that is real, for
            true differences of SD 0.03 between masks.
        trials: T.
    """

    attribute: str
    groups: tuple[GroupPower, ...]
    smallest_gap: float | None
    optimism: float | None
    reliability: float | None
    trials: int

    @property
    def sentence(self) -> str:
        """One sentence for the user."""
        if self.smallest_gap is None or self.reliability is None or self.optimism is None:
            return (
                f"this validation set cannot rank masks by worst_auc@{self.attribute}: "
                "fewer than two groups have enough rows"
            )
        tail = (
            f"the best of {self.trials} equal masks would read {self.optimism:.2f} too high, and "
            f"gaps below {self.smallest_gap:.2f} cannot be told from noise"
        )
        if self.reliability < 0.5:
            return f"this validation set cannot rank masks by worst_auc@{self.attribute}: {tail}"
        return f"this validation set can rank masks by worst_auc@{self.attribute}, but {tail}"


def outlook(
    p: Predictions,
    attribute: str,
    *,
    minimum: GroupMinimum,
    trials: int,
    auc: float = ASSUMED_AUC,
    seed_sd: float = 0.0,
    spread: float = SPREAD,
) -> Outlook:
    """Return what a split can tell about the groups of an attribute before anything is trained.

    Only labels, patients and attributes of `p` are looked at; of a multi-label table those of
    the first target.

    Args:
        p: A table; its scores are not read.
        attribute: Attribute or crossing.
        minimum: What a group must have.
        trials: Recipes that will be compared.
        auc: AUC assumed for the standard errors.
        seed_sd: Known seed noise, added to the standard error.
        spread: True SD between masks to be resolved.
    """
    one = p.per_target()[0]
    groups = one.attribute(attribute)
    found = []
    for name, rows in zip(groups.names, group_rows(groups)):
        c = count(one, rows)
        # Rows of one patient repeat each other: only the effective share of each class counts.
        share = c.effective / c.n if c.n else 0.0
        m, n = max(1, round(c.positives * share)), max(1, round(c.negatives * share))
        defined = c.positives > 0 and c.negatives > 0
        se = hanley_mcneil(auc, m, n) if defined else float("nan")
        eligible = c.meets(METRICS["auc"], minimum)
        found.append(
            GroupPower(name, c.n, c.patients, c.effective, c.positives, c.negatives, se, eligible)
        )
    errors = [g.se for g in found if g.eligible]
    if len(errors) < 2:
        return Outlook(attribute, tuple(found), None, None, None, trials)
    noise = float(np.hypot(max(errors), seed_sd))
    return Outlook(
        attribute,
        tuple(found),
        smallest_gap(errors),
        expected_best(trials, noise),
        spread**2 / (spread**2 + noise**2),
        trials,
    )


def as_rows(outlooks: Mapping[str, Outlook]) -> list[dict[str, object]]:
    """Return the groups of several outlooks as flat rows, for tables."""
    return [
        {"attribute": name, **{k: getattr(g, k) for k in GroupPower.__dataclass_fields__}}
        for name, found in outlooks.items()
        for g in found.groups
    ]
