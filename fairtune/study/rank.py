"""The order of recipes: shrunken means over the runs of a digest, never the luckiest run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fairtune.evaluation.optimism import shrunken_means
from fairtune.evaluation.scoring import at_chance
from fairtune.study.rows import Row, results

DEGENERATE = "degenerate"


@dataclass(frozen=True)
class Ranked:
    """One recipe of the search.

    Attributes:
        digest: Its identity.
        rows: Its finished runs, in order of number.
        mean: Mean of the primary objective over them.
        shrunk: The mean drawn towards that of all recipes, by the noise of the seeds.
        degenerate: Why its predictions count for nothing, or None.
    """

    digest: str
    rows: tuple[Row, ...]
    mean: float
    shrunk: float
    degenerate: str | None

    @property
    def unusable(self) -> bool:
        """Whether its predictions are constant: it is never confirmed or picked."""
        return is_unusable(self.degenerate)


def ranked(rows: Sequence[Row], sign: int) -> list[Ranked]:
    """Return the finished recipes, best shrunken mean first; degenerate ones after all others.

    Args:
        rows: Rows of one phase.
        sign: 1 when larger is better, -1 when smaller is.
    """
    groups: dict[str, list[Row]] = {}
    for row in results(rows):
        if row.values is not None:
            groups.setdefault(row.digest, []).append(row)
    if not groups:
        return []
    values = {d: [r.values[0] for r in g if r.values is not None] for d, g in groups.items()}
    shrunk = shrunken_means(values, None)
    entries = [
        Ranked(
            digest,
            tuple(group),
            shrunk[digest].mean,
            shrunk[digest].shrunk,
            next((str(r.attrs[DEGENERATE]) for r in group if r.attrs.get(DEGENERATE)), None),
        )
        for digest, group in groups.items()
    ]
    # Equal means keep the order of their first run.
    return sorted(
        entries,
        key=lambda e: (
            e.unusable,
            e.degenerate is not None,
            -sign * e.shrunk,
            e.rows[0].number,
        ),
    )


def best_baselines(rows: Sequence[Row], sign: int) -> dict[str, Row]:
    """Return for each baseline its best finished run over the points of its own search.

    A degenerate run is the best only where all of them are.
    """
    groups: dict[str, list[Row]] = {}
    for row in results(rows):
        if row.values is not None:
            groups.setdefault(str(row.attrs.get("label", row.digest)), []).append(row)
    return {label: min(group, key=lambda r: _order(r, sign)) for label, group in groups.items()}


def is_unusable(reason: str | None) -> bool:
    """Tell whether predictions degenerate for `reason` are constant, not only near chance."""
    return reason is not None and not at_chance(reason)


def _order(row: Row, sign: int) -> tuple[bool, bool, float]:
    reason = row.attrs.get(DEGENERATE)
    assert row.values is not None
    return is_unusable(reason), reason is not None, -sign * row.values[0]
