"""Attribute rules: how sensitive attributes become named groups."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
import pydantic

from fairtune.config import Config
from fairtune.config.model import carried
from fairtune.data.raw import Raw
from fairtune.data.values import BoolArray, Values, coded, number_of, shown_cells, text_of, texts
from fairtune.errors import ConfigError, DataError, FairtuneError

_UNKNOWN = -1
_OUTSIDE = -2


class Bins(Config):
    """Numeric groups.

    Attributes:
        edges: Rising numbers between the groups.
        names: Names of the groups from low to high, one more than edges.
        edge: Group of a value equal to an edge: `upper` makes `60` part of `60+`, `lower` part
            of `<=60` (MEDFAIR's notebooks put age 60 into the young group).
        range: Lowest and highest possible value, both included.
        outside: What a number outside `range` is: a `fault`, or `unknown`.
    """

    edges: tuple[float, ...] = pydantic.Field(min_length=1)
    names: tuple[str, ...]
    edge: Literal["upper", "lower"] = "upper"
    range: tuple[float, float] | None = None
    outside: Literal["fault", "unknown"] = "fault"

    @pydantic.model_validator(mode="after")
    def _rising(self) -> Bins:
        if any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise carried(ConfigError("edges must rise", found=self.edges), "edges")
        if len(self.names) != len(self.edges) + 1 or len(set(self.names)) != len(self.names):
            problem = ConfigError(
                "there is one name more than edges, each its own",
                found=self.names,
                allowed=f"{len(self.edges) + 1} different names",
            )
            raise carried(problem, "names")
        return self

    def code(self, number: float) -> int:
        """Return the group of `number`, -1 for unknown or -2 for a fault."""
        if self.range is not None and not self.range[0] <= number <= self.range[1]:
            return _UNKNOWN if self.outside == "unknown" else _OUTSIDE
        side = bisect.bisect_right if self.edge == "upper" else bisect.bisect_left
        return side(self.edges, number)


class AttributeRule(Config):
    """A sensitive attribute: either `map` or `bins`.

    An empty cell is always unknown. A value that neither the rule nor `unknown` names is a fault
    with its rows, unless `other` names the group that takes it.

    Attributes:
        column: Column of the metadata, or a derived one.
        map: Values by group name, in the order of the groups.
        bins: Numeric groups.
        unknown: Values that mean "not known"; such rows count overall and in no group.
        other: Group of all values that `map` does not name.
    """

    column: str
    map: Mapping[str, Values] | None = None
    bins: Bins | None = None
    unknown: Values = ()
    other: str | None = None

    @pydantic.model_validator(mode="after")
    def _one_form(self) -> AttributeRule:
        if (self.map is None) == (self.bins is None):
            raise carried(ConfigError("exactly one of 'map' and 'bins' is needed"))
        if self.bins is not None and self.other is not None:
            raise carried(ConfigError("'other' belongs to 'map'"), "other")
        if self.map is not None:
            every = [text for values in self.map.values() for text in texts(values)]
            every += texts(self.unknown)
            twice = sorted({text for text in every if every.count(text) > 1})
            if twice:
                raise carried(ConfigError("a value has two meanings", found=twice), "map")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Group names in the order of their codes."""
        if self.bins is not None:
            return self.bins.names
        named = tuple(self.map or ())
        return named if self.other is None or self.other in named else (*named, self.other)

    def encode(self, raw: Raw, name: str) -> tuple[pd.Categorical[str], list[FairtuneError]]:
        """Return the groups (NaN where unknown) and every fault."""
        cells = raw.column(self.column, f"attributes.{name}")
        values = {
            text: code
            for code, group in enumerate((self.map or {}).values())
            for text in texts(group)
        }
        values |= dict.fromkeys(texts(self.unknown), _UNKNOWN)
        codes = coded(cells, lambda cell: self._code(cell, values))
        outside = codes == _OUTSIDE
        problems: list[FairtuneError] = []
        if outside.any():
            problems.append(self._fault(raw, outside, name))
        codes = np.where(outside, _UNKNOWN, codes)
        groups = pd.Categorical.from_codes(codes, categories=pd.Index(self.names))
        return groups, problems

    def _code(self, cell: str, values: Mapping[str, int]) -> int:
        if cell in values:
            return values[cell]
        if not cell:
            return _UNKNOWN
        if self.bins is not None:
            number = number_of(cell)
            return _OUTSIDE if number is None else self.bins.code(number)
        return _OUTSIDE if self.other is None else self.names.index(self.other)

    def _fault(self, raw: Raw, outside: BoolArray, name: str) -> DataError:
        cells = raw.frame[self.column][outside]
        if self.bins is not None:
            allowed = f"a number in {list(self.bins.range)}" if self.bins.range else "a number"
        else:
            allowed = ", ".join(
                f"{group} ({', '.join(text_of(v) for v in values)})"
                for group, values in (self.map or {}).items()
            )
        if self.unknown:
            allowed += f"; unknown: {', '.join(map(repr, self.unknown))}"
        return DataError(
            f"values of '{self.column}' that the attribute rule 'attributes.{name}' does not name",
            where=raw.where(outside),
            found=shown_cells(sorted(set(cells))),
            allowed=allowed,
            todo="correct the cells, or name the values under 'map', 'unknown' or 'other'",
        )
