"""How many runs of a study are expected to start training at which block."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

from fairtune.config import Choice, Dimension
from fairtune.config.dimensions import Int, Scalar
from fairtune.study.fields import MASK, MITIGATIONS
from fairtune.study.phases import BaselinePhase, SearchPhase
from fairtune.study.plan import Plan

DRAWS = 200


def expected_starts(plan: Plan) -> dict[int, float]:
    """Return the expected number of runs by the first block that trains.

    Baselines and anchors are counted as they are, the rest of the search, the control and the
    confirm runs as uniform draws from the space; each as many times as there are folds. 0 stands
    for the stem, the number of blocks for what follows them; a linear readout trains nothing and
    is not counted, but a head that is trained with mitigations is.
    """
    study = plan.study
    fixed: Counter[int] = Counter()
    baseline = BaselinePhase(plan)
    for proposal in baseline.proposals():
        _count(fixed, plan, proposal.recipe["adaptation"]["mask"], 1)
    again = study.confirm.seeds if study.confirm.top else 0
    for name in study.baselines.of:
        _count(fixed, plan, plan.baseline(name).adaptation.mask, again)
    anchors = SearchPhase(plan, baseline).anchors()
    for proposal in anchors:
        mitigated = bool(proposal.recipe.get(MITIGATIONS))
        _count(fixed, plan, proposal.recipe["adaptation"]["mask"], 1, mitigated=mitigated)
    drawn = max(0, study.budget.trials - len(anchors)) + study.confirm.top * again
    if study.baselines.control is not None:
        drawn += study.budget.trials + again
    starts: Counter[int] = Counter()
    rng = random.Random(0)
    for _ in range(DRAWS):
        _count(starts, plan, _mask(plan, rng), 1, mitigated=_mitigated(plan))
    found = {first: float(runs) for first, runs in fixed.items()}
    for first, count in starts.items():
        found[first] = found.get(first, 0.0) + drawn * count / DRAWS
    return {first: runs * study.judge.validation.folds for first, runs in found.items()}


def _count(
    counter: Counter[int],
    plan: Plan,
    mask: str | Sequence[str],
    runs: int,
    *,
    mitigated: bool = False,
) -> None:
    names = mask if isinstance(mask, str) else tuple(mask)
    part = plan.base.adaptation.model_copy(update={"mask": names})
    recipe = plan.base.model_copy(update={"adaptation": part})
    if recipe.head_only and (recipe.scored or not mitigated):
        return
    counter[plan.mask(recipe).start(plan.units)] += runs


def _mitigated(plan: Plan) -> bool:
    """Tell whether runs of the search may have mitigations that act on training."""
    return plan.base.mitigated or plan.space.get(MITIGATIONS) is not None


def _mask(plan: Plan, rng: random.Random) -> str | Sequence[str]:
    node = plan.space.get(MASK)
    if node is None:
        return plan.base.adaptation.mask
    drawn: Sequence[str] = node.draw(
        MASK, lambda name, dimension: _uniform(dimension, rng), plan.units
    )
    return drawn


def _uniform(dimension: Dimension, rng: random.Random) -> Scalar:
    if isinstance(dimension, Choice):
        return rng.choice(dimension.options)
    low, high = dimension.low, dimension.high
    value = (
        low * math.exp(rng.random() * math.log(high / low))
        if dimension.log
        else rng.uniform(low, high)
    )
    if dimension.step is not None:
        value = low + dimension.step * round((value - low) / dimension.step)
        value = min(value, high)
    return round(value) if isinstance(dimension, Int) else value
