"""Points that a person wants a search to try next, as the study keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fairtune.study.rows import Row, decide_digest, valid

PREFIX = "enqueued:"
"""Start of the study attributes that hold one point each, so that two who add do not collide."""

KIND = "enqueued"
"""Kind of the rows, and the attribute in which they name their point."""


@dataclass(frozen=True)
class Point:
    """One point of a search space that is to be tried.

    Attributes:
        mark: Tells it from every other one.
        values: Fields of the recipe that the space sets, by dotted path.
        digest: Identity of the recipe.
        label: Its name in tables.
        at: When it was added, UTC, by the clock of whoever did.
        again: It is to be run with a new seed where it was run already.
    """

    mark: str
    values: Mapping[str, Any]
    digest: str
    label: str
    at: str
    again: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what the study keeps."""
        return asdict(self)


def points_of(attrs: Mapping[str, Any]) -> list[Point]:
    """Return the points of a study, in the order in which they were added."""
    found = [Point(**value) for name, value in attrs.items() if name.startswith(PREFIX)]
    return sorted(found, key=lambda point: (point.at, point.mark))


def waiting(points: Sequence[Point], rows: Sequence[Row]) -> list[Point]:
    """Return the points that are still to be tried.

    One whose recipe was run meanwhile, because it was drawn or was an anchor, is done, unless it
    is to be run again; so is one whose recipe has as many runs as any may have, was pruned or
    failed for good.

    Args:
        points: All points of the study.
        rows: Rows of the search.
    """
    begun = {str(row.given.get(KIND)) for row in valid(rows)}
    return [
        point
        for point in points
        if point.mark not in begun
        and decide_digest(rows, point.digest) in ("new", "replicate" if point.again else "new")
    ]
