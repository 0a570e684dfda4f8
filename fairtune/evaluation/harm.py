"""Who pays: per-group changes against a baseline, and where a change of the gap comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fairtune.errors import ConfigError, DataError
from fairtune.evaluation.metrics import Metric
from fairtune.evaluation.metrics import metric as base_metric
from fairtune.evaluation.paired import of_figures
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.resampling import REPLICATES
from fairtune.evaluation.rules import GroupMinimum
from fairtune.evaluation.sampled import Sampled, Side, Thresholds, sample


@dataclass(frozen=True)
class GroupChange:
    """How one group fares compared with a baseline.

    Args:
        group: Its name.
        baseline: Its value under the baseline, mean over seeds.
        pick: Its value under the recipe that was picked.
        change: pick - baseline with better counted up.
        low: Lower 95 % end of the change.
        high: Upper 95 % end.
        harmed: The change is below -delta.
        certain: The whole interval is below -delta.
        n: Rows of the group.
    """

    group: str
    baseline: float
    pick: float
    change: float
    low: float
    high: float
    harmed: bool
    certain: bool
    n: int


def no_harm(
    pick: Sequence[Predictions],
    baseline: Sequence[Predictions],
    attribute: str,
    metric: str,
    delta: float,
    *,
    minimum: GroupMinimum,
    thresholds_pick: Thresholds,
    thresholds_baseline: Thresholds,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[GroupChange]:
    """Return for each eligible group whether it is worse off than under the baseline.

    Args:
        pick: Predictions of the picked recipe, one per seed.
        baseline: Predictions of the baseline, one per seed.
        attribute: Attribute or crossing.
        metric: A base metric with a better side.
        delta: Loss that is still tolerated.
        minimum: What a group must have.
        thresholds_pick: One for all seeds, or one per seed.
        thresholds_baseline: The same for the baseline.
        replicates: Draws.
        seed: Seed of the draws.

    Returns:
        One row per eligible group; of a multi-label table values are means over the targets for
        which the group is eligible.

    Raises:
        ConfigError: A metric without a better side.
        DataError: Different rows on the two sides, or no eligible group.
    """
    _sign(base_metric(metric))
    drawn = sample(
        {"pick": Side(pick, thresholds_pick), "baseline": Side(baseline, thresholds_baseline)},
        [],
        [(metric, attribute)],
        minimum=minimum,
        replicates=replicates,
        seed=seed,
    )
    return changes(drawn["pick"], drawn["baseline"], attribute, metric, delta)


def changes(
    pick: Sampled, baseline: Sampled, attribute: str, metric: str, delta: float
) -> list[GroupChange]:
    """Return the same as `no_harm` from two sides drawn in one call of `sample`.

    Raises:
        ConfigError: A metric without a better side.
        DataError: No group has enough rows.
    """
    sign = _sign(base_metric(metric))
    mine = pick.groups.get((metric, attribute))
    if mine is None:
        raise DataError(f"no group of {attribute} has enough rows for {metric}")
    theirs = baseline.groups[metric, attribute]
    found = []
    for name, rows, a, b in zip(mine.names, mine.rows, mine.values, theirs.values):
        change = of_figures(a, b, (pick.seeds, baseline.seeds), pick.patients, sign)
        found.append(
            GroupChange(
                name,
                baseline=b.point,
                pick=a.point,
                change=change.value,
                low=change.low,
                high=change.high,
                harmed=change.value < -delta,
                certain=change.high < -delta,
                n=rows,
            )
        )
    return found


def _sign(metric: Metric) -> float:
    if metric.better == "neither":
        raise ConfigError(f"{metric.name} has no better side, so nobody can be harmed by it")
    return 1.0 if metric.better == "higher" else -1.0


def smallest_change(
    pick: Mapping[str, float], baseline: Mapping[str, float], metric: str
) -> float:
    """Return the smallest change of any group, better counted up: the value of `no_harm(delta)`.

    Args:
        pick: Group values of the recipe (see `scoring.group_values`).
        baseline: Group values of the baseline, for the same groups.
        metric: The base metric they are values of.

    Raises:
        DataError: The two sides hold different groups.
    """
    if set(pick) != set(baseline) or not pick:
        raise DataError(
            "the same groups are needed on both sides",
            found=sorted(pick),
            allowed=sorted(baseline),
        )
    sign = _sign(base_metric(metric))
    return min(sign * (pick[name] - baseline[name]) for name in pick)


@dataclass(frozen=True)
class GapChange:
    """Where the change of a gap comes from; the two parts add up to its narrowing.

    Args:
        narrowing: Gap of the baseline minus gap of the pick.
        rise_of_worst: How much better the worst-served group fares (whichever it is).
        fall_of_best: How much worse the best-served group fares.
    """

    narrowing: float
    rise_of_worst: float
    fall_of_best: float

    @property
    def levelling_down(self) -> bool:
        """Whether the gap narrowed mostly because the best-served group lost."""
        return self.narrowing > 0 and self.fall_of_best > self.rise_of_worst

    def __str__(self) -> str:
        verb = "narrowed" if self.narrowing >= 0 else "widened"
        worst = "rose" if self.rise_of_worst >= 0 else "fell"
        best = "fell" if self.fall_of_best >= 0 else "rose"
        text = (
            f"The gap {verb} by {abs(self.narrowing):.3f}: the worst-served group {worst} by "
            f"{abs(self.rise_of_worst):.3f}, the best-served {best} by "
            f"{abs(self.fall_of_best):.3f}"
        )
        return text + (" (levelling down)." if self.levelling_down else ".")


def gap_change(rows: Sequence[GroupChange], metric: str) -> GapChange:
    """Split the change of a gap into the rise of the worst and the fall of the best.

    Args:
        rows: The result of `no_harm`, all eligible groups of one attribute.
        metric: Its base metric.
    """
    sign = _sign(base_metric(metric))
    pick = [sign * row.pick for row in rows]
    baseline = [sign * row.baseline for row in rows]
    rise, fall = min(pick) - min(baseline), max(baseline) - max(pick)
    return GapChange(rise + fall, rise, fall)
