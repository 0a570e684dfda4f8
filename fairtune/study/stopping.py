"""When a search no longer gets better: `budget.stop: auto`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fairtune.evaluation.optimism import seed_sd, shrunken_means
from fairtune.evaluation.pareto import advance
from fairtune.study.rank import DEGENERATE, is_unusable
from fairtune.study.rows import Row, current, due, results, roots

LEAST = 15
SHARE = 0.25
RISE = 0.5


def settled(rows: Sequence[Row], signs: Sequence[int], startup: int) -> str | None:
    """Return why the search is over, or None while it is not.

    It is over when at least twice `startup` trials have ended and in the last max(15, 25 %) of
    them no recipe's shrunken mean has risen above what was there before by more than half the
    standard deviation between seeds. Where no recipe was run with two seeds that is unknown, and
    any rise counts.

    Several objectives: the rise is by how many of those standard deviations every recipe from
    before would have to be lifted, in all objectives at once, for one of them to be nowhere worse
    than the new one (the additive epsilon indicator of the two sets, `pareto.advance`). With one
    objective that is the rise of the best. Recipes whose predictions are constant and, once one is
    feasible, those that break a constraint do not count.

    Args:
        rows: Rows of the search.
        signs: 1 per objective that is to be large, -1 per one that is to be small.
        startup: Trials before which the sampler learns nothing.
    """
    again = {row.key for row in due(rows)}
    speaking = current(rows)
    over = {k for k, r in speaking.items() if r.state not in ("running", "waiting")} - again
    ended = [row for row in roots(rows) if row.key in over]
    recent = max(LEAST, math.ceil(SHARE * len(ended)))
    if len(ended) < max(2 * startup, recent + 1):
        return None
    before = {row.key for row in ended[:-recent]}
    done = _counted(rows)
    units = [seed_sd(_values(_groups(done), j)) for j in range(len(signs))]
    rise = advance(
        _points([r for r in done if r.key in before], len(signs)),
        _points(done, len(signs)),
        signs,
        [unit or 1.0 for unit in units],
    )
    if not rise <= (RISE if all(units) else 0.0):
        return None
    known = "0, the SD between seeds being unknown" if None in units else "half the SD of seeds"
    return (
        f"budget.stop: auto: in the last {recent} of {len(ended)} trials nothing rose by more "
        f"than {known}"
    )


def _counted(rows: Sequence[Row]) -> list[Row]:
    """Return the finished runs that may be an incumbent."""
    done = [row for row in results(rows) if row.values is not None]
    done = [row for row in done if not is_unusable(row.attrs.get(DEGENERATE))]
    return [row for row in done if all(v <= 0 for v in row.constraints.values())] or done


def _points(rows: Sequence[Row], count: int) -> list[tuple[float, ...]]:
    """Return the shrunken means of each recipe, `(recipes, objectives)`."""
    groups = _groups(rows)
    if not groups:
        return []
    columns = [shrunken_means(_values(groups, j)) for j in range(count)]
    return [tuple(column[digest].shrunk for column in columns) for digest in groups]


def _groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.digest, []).append(row)
    return found


def _values(groups: Mapping[str, Sequence[Row]], objective: int) -> dict[str, list[float]]:
    return {
        digest: [row.values[objective] for row in rows if row.values is not None]
        for digest, rows in groups.items()
    }
