"""Drawing rows so that groups and classes go together as often as declared, or not at all.

A training set in which a group foretells the class, with a test set in which it does not, is how
shortcuts are studied: what a model has learnt of the group shows as errors of the rare cells. All
of it is a function of ids, labels, groups and a seed: the order of rows does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import pydantic

from fairtune.config import Config
from fairtune.data.groups import AttributeRule
from fairtune.data.labels import Target
from fairtune.data.split import PARTS, Part
from fairtune.data.values import BoolArray, IntArray
from fairtune.errors import ConfigError, DataError, FairtuneError, did_you_mean

Share = Literal["balanced"] | Annotated[float, pydantic.Field(ge=0, le=1)]


class Subsample(Config):
    """Which rows are drawn, split by split.

    A cell is a group with a class. Within a split, the cells that `agree` names hold `share` of
    the rows and the others the rest, evenly; with `balanced` all cells are alike. Rows of no group
    or without a label are not drawn. A cell is filled with one image of each patient before any
    patient's second one.

    Attributes:
        target: Target whose classes count; not a multilabel one.
        attribute: Attribute whose groups count.
        agree: The class that goes with each group.
        share: Share of the rows drawn whose group and class agree, or `balanced`, by split; a
            split without one keeps all its rows.
        size: Rows drawn by split; as many as there can be when left out.
        seed: Enters the hash by which rows are drawn.
    """

    target: str
    attribute: str
    agree: Mapping[str, str]
    share: Mapping[Part, Share] = pydantic.Field(min_length=1)
    size: Mapping[Part, Annotated[int, pydantic.Field(ge=1)]] = {}
    seed: int = 0

    def faults(
        self, targets: Mapping[str, Target], attributes: Mapping[str, AttributeRule]
    ) -> Iterator[tuple[ConfigError, str]]:
        """Yield what does not fit the rest of the spec, each with the field it is about."""
        for field, name, known in (
            ("target", self.target, targets),
            ("attribute", self.attribute, attributes),
        ):
            if name not in known:
                todo = did_you_mean(name, known)
                yield (
                    ConfigError(f"unknown {field}", found=name, allowed=[*known], todo=todo),
                    field,
                )
                return
        if targets[self.target].task == "multilabel":
            yield ConfigError("a multilabel target has no classes to go with groups"), "target"
            return
        groups = attributes[self.attribute].names
        classes = targets[self.target].class_names(self.target)
        if set(self.agree) != set(groups) or not set(self.agree.values()) <= set(classes):
            allowed = f"a class ({', '.join(classes)}) for each of {', '.join(groups)}"
            yield (
                ConfigError("not a class for every group", found={**self.agree}, allowed=allowed),
                "agree",
            )
        for part in set(self.size) - set(self.share):
            yield ConfigError("a size needs a share", found=part, allowed=[*self.share]), "size"


@dataclass(frozen=True)
class Cell:
    """What was drawn of one group with one class in one split.

    Attributes:
        split: Name of the split.
        group: Name of the group.
        label: Name of the class.
        agrees: Whether the two go together by the rule.
        rows: Rows drawn.
        of: Rows there are.
    """

    split: str
    group: str
    label: str
    agrees: bool
    rows: int
    of: int


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a data set, as drawing sees them.

    Attributes:
        ids: `(n,)` ids of the images.
        patients: `(n,)` ids of the patients.
        part: `(n,)` codes into `PARTS`, -1 for rows in no split.
        group: `(n,)` group codes, -1 for unknown.
        label: `(n,)` class codes, below 0 for none.
        groups: Names of the groups.
        classes: Names of the classes.
    """

    ids: Sequence[str]
    patients: Sequence[str]
    part: IntArray
    group: IntArray
    label: IntArray
    groups: tuple[str, ...]
    classes: tuple[str, ...]


def agreeing(cells: Sequence[Cell]) -> dict[str, tuple[int, int]]:
    """Return by split how many of the drawn rows agree, and how many there are in all."""
    found: dict[str, tuple[int, int]] = {}
    for cell in cells:
        agree, rows = found.get(cell.split, (0, 0))
        found[cell.split] = (agree + cell.rows * cell.agrees, rows + cell.rows)
    return found


def draw(rule: Subsample, rows: Rows) -> tuple[BoolArray, tuple[Cell, ...], list[FairtuneError]]:
    """Return which rows stay, `(n,)`, the cells of every split that was drawn, and every fault.

    A split that cannot be drawn as declared is a fault that says what its cells hold.
    """
    kept = np.ones(len(rows.part), dtype=bool)
    cells: list[Cell] = []
    faults: list[FairtuneError] = []
    within = (rows.group >= 0) & (rows.label >= 0)
    place = np.where(within, rows.group * len(rows.classes) + rows.label, -1)
    for part, share in rule.share.items():
        inside = rows.part == PARTS.index(part)
        own = np.where(inside, place, -1)
        found = _cells(rule, rows, part, own)
        weights = _weights(found, share, len(rows.classes))
        wanted = quotas(weights, [cell.of for cell in found], rule.size.get(part))
        if any(n > cell.of for n, cell in zip(wanted, found, strict=True)) or not sum(wanted):
            faults.append(_too_few(rule, part, found, weights, wanted))
        kept[inside] = _first(rule.seed, rows, own, wanted)[inside]
        drawn = zip(found, wanted, strict=True)
        cells += [Cell(c.split, c.group, c.label, c.agrees, n, c.of) for c, n in drawn]
    return kept, tuple(cells), faults


def quotas(weights: Sequence[Fraction], counts: Sequence[int], size: int | None) -> list[int]:
    """Return the rows of each cell.

    Args:
        weights: Share of each cell; they add up to 1.
        counts: Rows that each cell has.
        size: Rows in all, rounded by largest remainder; without it the largest `k` for which
            `k * weight` is in every cell, each rounded down.
    """
    if size is None:
        most = min(Fraction(n) / w for n, w in zip(counts, weights, strict=True) if w)
        return [int(most * w) for w in weights]
    exact = [size * w for w in weights]
    whole = [int(x) for x in exact]
    order = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for i in order[: size - sum(whole)]:
        whole[i] += 1
    return whole


def _cells(rule: Subsample, rows: Rows, part: str, place: IntArray) -> list[Cell]:
    """Return what the cells of a split have, class by class within groups, none of it drawn."""
    counts = np.bincount(place[place >= 0], minlength=len(rows.groups) * len(rows.classes))
    names = [(group, label) for group in rows.groups for label in rows.classes]
    return [
        Cell(part, group, label, rule.agree[group] == label, 0, int(n))
        for (group, label), n in zip(names, counts, strict=True)
    ]


def _weights(cells: Sequence[Cell], share: Share, classes: int) -> list[Fraction]:
    """Return the share of each cell, exactly as it was written in decimals."""
    groups = len(cells) // classes
    agreeing = Fraction(1, classes) if share == "balanced" else Fraction(str(share))
    other = (1 - agreeing) / (classes - 1)
    return [(agreeing if cell.agrees else other) / groups for cell in cells]


def _first(seed: int, rows: Rows, place: IntArray, wanted: Sequence[int]) -> BoolArray:
    """Return the first rows of each cell in the order in which they are drawn."""
    at = np.flatnonzero(place >= 0).tolist()
    frame = pd.DataFrame(
        {
            "cell": place[place >= 0],
            "patient": [_mark(seed, rows.patients[i]) for i in at],
            "image": [_mark(seed, rows.ids[i]) for i in at],
        },
        index=at,
    ).sort_values("image")
    frame["turn"] = frame.groupby("patient").cumcount()
    frame = frame.sort_values(["turn", "patient", "image"])
    before = frame.groupby("cell").cumcount().to_numpy()
    chosen = frame.index[before < np.asarray(wanted)[frame["cell"]]]
    kept = np.zeros(len(place), dtype=bool)
    kept[chosen] = True
    return kept


def _mark(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _too_few(
    rule: Subsample,
    part: str,
    cells: Sequence[Cell],
    weights: Sequence[Fraction],
    wanted: Sequence[int],
) -> DataError:
    counts = [cell.of for cell in cells]
    most = min(Fraction(n) / w for n, w in zip(counts, weights, strict=True) if w)
    lines = [
        f"{cell.group} with {cell.label}: {n:,} wanted of {cell.of:,}"
        for cell, n in zip(cells, wanted, strict=True)
    ]
    return DataError(
        f"the split '{part}' has too few rows to be drawn like this",
        found="; ".join(lines),
        allowed=f"at most {int(most):,} rows with this share",
        todo=f"take a smaller subsample.size.{part}, another share, or larger splits",
    )
