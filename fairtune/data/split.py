"""Split rules: which rows train, which choose, and which are looked at once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
import pydantic

from fairtune.config import Config, digest
from fairtune.config.model import carried
from fairtune.data.raw import Raw
from fairtune.data.values import IntArray, Values, coded, shown, shown_cells, texts
from fairtune.errors import ConfigError, DataError, FairtuneError

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


class Fractions(Config):
    """Shares of the rows; they add up to 1."""

    train: float = pydantic.Field(ge=0)
    val: float = pydantic.Field(ge=0)
    test: float = pydantic.Field(ge=0)

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Fractions:
        if not math.isclose(self.train + self.val + self.test, 1.0, abs_tol=1e-9):
            found = [self.train, self.val, self.test]
            raise carried(ConfigError("the shares must add up to 1", found=found))
        return self


class SplitRule(Config):
    """How rows are divided, in one of three forms.

    `{column, map: {train: .., val: .., test: ..}}` reads a given split;
    `{fractions: {train, val, test}, seed, stratify: TARGET}` divides patients by a keyed hash;
    `{all: test}` makes an outside test set.

    Attributes:
        column: Column of the metadata with the split.
        map: Values of `column` by split; without it they are `train`, `val` and `test`.
        unknown: Values of `column` whose rows are left out.
        fractions: Shares of rows of the hash split.
        seed: Seed of the hash split.
        stratify: Target whose classes are divided alike.
        all: The one split of all rows.
    """

    column: str | None = None
    map: Mapping[Part, Values] | None = None
    unknown: Values = ()
    fractions: Fractions | None = None
    seed: int = 0
    stratify: str | None = None
    all: Part | None = None

    @pydantic.model_validator(mode="after")
    def _one_form(self) -> SplitRule:
        forms = {
            "column": {"map", "unknown"},
            "fractions": {"seed", "stratify"},
            "all": set[str](),
        }
        given = [name for name in forms if getattr(self, name) is not None]
        if len(given) != 1:
            raise carried(ConfigError("exactly one form is needed", found=given, allowed=forms))
        absent = {name: info.default for name, info in type(self).model_fields.items()}
        written = {name for name, value in absent.items() if getattr(self, name) != value}
        surplus = written - {given[0]} - forms[given[0]]
        if surplus:
            problem = ConfigError(
                f"these do not go with '{given[0]}'",
                found=sorted(surplus),
                allowed=forms[given[0]],
            )
            raise carried(problem)
        return self

    def declared(self) -> tuple[Part, ...]:
        """Return the splits that must not be empty."""
        if self.all is not None:
            return (self.all,)
        if self.fractions is not None:
            return tuple(part for part in PARTS if getattr(self.fractions, part) > 0)
        return PARTS if self.map is None else tuple(p for p in PARTS if p in self.map)

    def from_column(self, raw: Raw) -> tuple[IntArray, list[FairtuneError]]:
        """Return `(n,)` codes into `PARTS`, -1 for rows left out, and every fault."""
        column = raw.column(str(self.column), "split.column")
        given = self.map or {part: (part,) for part in PARTS}
        codes = {text: PARTS.index(part) for part, vs in given.items() for text in texts(vs)}
        codes |= dict.fromkeys(texts(self.unknown), -1)
        out = coded(column, lambda cell: codes.get(cell, -2))
        odd = out == -2
        if not odd.any():
            return out, []
        fault = DataError(
            f"values of '{self.column}' that name no split",
            where=raw.where(odd),
            found=shown_cells(sorted(set(column[odd]))),
            allowed=sorted(codes),
            todo="correct the cells, or name the values under split.map or split.unknown",
        )
        return np.where(odd, -1, out), [fault]


def hash_split(
    patients: pd.Series[str], strata: IntArray, fractions: Fractions, seed: int
) -> IntArray:
    """Divide rows so that no patient is in two splits, from nothing but ids, strata and seed.

    Within a stratum (the highest class among a patient's rows) patients stand in the order of
    SHA-256(seed:patient); each goes to the split in which the middle of its rows falls.

    Args:
        patients: `(n,)` patient ids.
        strata: `(n,)` class codes; one constant when nothing is stratified.
        fractions: Shares of rows.
        seed: Enters the hash.

    Returns:
        `(n,)` codes into `PARTS`.
    """
    which, ids = pd.factorize(patients)
    rows = np.bincount(which, minlength=len(ids))
    stratum = np.full(len(ids), np.iinfo(np.int64).min)
    np.maximum.at(stratum, which, strata)
    order = np.array([hashlib.sha256(f"{seed}:{i}".encode()).hexdigest() for i in ids])
    ends = np.cumsum([fractions.train, fractions.val])
    part = np.empty(len(ids), dtype=np.int64)
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        members = members[np.argsort(order[members])]
        size = rows[members]
        middle = (np.cumsum(size) - size / 2) / size.sum()
        part[members] = np.searchsorted(ends, middle, side="right")
    # Rounding of the cumulated shares must not open a split that has none.
    last = max(i for i, name in enumerate(PARTS) if getattr(fractions, name) > 0)
    return np.asarray(np.minimum(part, last)[which])


def patients_in_two(raw: Raw, patients: pd.Series[str], codes: IntArray) -> list[FairtuneError]:
    """Return one fault that lists every patient who is in two splits."""
    frame = pd.DataFrame({"patient": patients.to_numpy(), "part": codes})[codes >= 0]
    spread = frame.groupby("patient", sort=True)["part"].nunique()
    both = spread.index[spread > 1]
    if both.empty:
        return []
    mask = patients.isin(both).to_numpy() & (codes >= 0)
    return [
        DataError(
            f"{len(both)} patients are in more than one split",
            where=raw.where(mask),
            found=shown(both),
            todo="give each patient one split, or use split.fractions",
        )
    ]


def split_digest(ids: pd.Series[str], codes: IntArray) -> str:
    """Return the digest of which id is in which split, whatever the order of rows."""
    pairs = sorted(zip(ids, codes.tolist(), strict=True))
    return digest([[name, PARTS[code]] for name, code in pairs])
