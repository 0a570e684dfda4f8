"""By how much the runs of a search violate the study's constraints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from fairtune.experiment.judge import Judge
from fairtune.study.claim import Claim
from fairtune.study.rank import DEGENERATE, best_baselines
from fairtune.study.rows import CONTROL, SEARCH, Complete, Outcome, Row


@dataclass(frozen=True, eq=False)
class Bounds:
    """Adds to the outcome of a run of the search what it violates.

    Attributes:
        judge: Objectives and constraints of the study.
        attributes: Its attributes.
        baselines: Names of its baselines.
        read: Returns the rows of the baselines; they are all there before a search begins.
    """

    judge: Judge
    attributes: Sequence[str]
    baselines: Sequence[str]
    read: Callable[[], Sequence[Row]]

    def __call__(self, claim: Claim, outcome: Outcome) -> Outcome:
        """Return `outcome` with its constraints.

        Raises:
            ConfigError: A baseline that a constraint needs has no finished run.
        """
        if not self.judge.constraints or claim.phase not in (SEARCH, CONTROL):
            return outcome
        if not isinstance(outcome, Complete):
            return outcome
        needed = any(constraint.needs_baselines for constraint in self.judge.constraints)
        rows = self.read() if needed else ()
        found = violations(self.judge, outcome.attrs, rows, self.baselines, self.attributes)
        return replace(outcome, constraints=found)


def violations(
    judge: Judge,
    figures: Mapping[str, float],
    rows: Sequence[Row],
    baselines: Sequence[str],
    attributes: Sequence[str],
) -> dict[str, float]:
    """Return by how much each constraint is violated, by its printed form; above 0 where it is.

    The figures of a baseline are those of its best run by the primary objective. The reference
    of `no_harm` is the best of these baselines, all of them trained without a mitigation.

    Args:
        judge: Objectives and constraints.
        figures: Attributes of a finished row.
        rows: Rows of the baselines.
        baselines: Names of the baselines that count.
        attributes: Attributes of the study.

    Raises:
        ConfigError: A baseline or a figure that a constraint needs is missing.
    """
    sign = judge.primary.sign
    best = {n: row for n, row in best_baselines(rows, sign).items() if n in baselines}
    known = {name: row.attrs for name, row in best.items()}
    values = {name: sign * row.values[0] for name, row in best.items() if row.values}
    degenerate = [name for name, row in best.items() if row.attrs.get(DEGENERATE) is not None]
    reference = reference_of(values, degenerate)
    harm = judge.harm(attributes)
    return {str(c): c.violation(figures, known, reference, harm) for c in judge.constraints}


def reference_of(values: Mapping[str, float], degenerate: Collection[str] = ()) -> str | None:
    """Return the baseline that `no_harm` compares with: the best one, None without any.

    A degenerate one only where all of them are; of equal ones the first by name.

    Args:
        values: Primary objective of each baseline, better counted up.
        degenerate: Those whose predictions count for little.
    """
    return min(values, key=lambda name: (name in degenerate, -values[name], name), default=None)
