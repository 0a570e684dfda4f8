"""Rules about rows: conditions that keep them, and columns derived from others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pydantic

from fairtune.config import Config, parse
from fairtune.config.model import carried
from fairtune.data.raw import Raw
from fairtune.data.values import BoolArray, Scalar, Values, number_of, shown_cells, text_of, texts
from fairtune.errors import ConfigError, DataError, FairtuneError


class Condition(Config):
    """Keeps the rows in which `column` passes exactly one test.

    Attributes:
        column: Column of the metadata, or a derived one.
        equals: The one value kept; for empty cells write `known: false`.
        one_of: The values kept.
        none_of: The values not kept.
        between: Lowest and highest number kept, both included; an empty cell is not kept.
        known: True keeps filled cells, False empty ones.
    """

    column: str
    equals: Scalar = None
    one_of: Values | None = None
    none_of: Values | None = None
    between: tuple[float, float] | None = None
    known: bool | None = None

    @pydantic.model_validator(mode="after")
    def _one_test(self) -> Condition:
        _exactly_one(self, ("equals", "one_of", "none_of", "between", "known"))
        return self

    def holds(self, raw: Raw, field: str) -> BoolArray:
        """Return `(n,)`: which rows pass.

        Raises:
            DataError: The column is missing, or `between` meets a cell that is no number.
        """
        column = raw.column(self.column, field)
        which, cells = pd.factorize(column)
        passed = np.array([self._passes(text_of(cell)) for cell in cells], dtype=object)
        odd = np.array([answer is None for answer in passed], dtype=bool)
        if odd.any():
            raise DataError(
                f"'{self.column}' must hold numbers for the rule 'between'",
                where=raw.where(odd[which]),
                found=shown_cells(np.asarray(cells)[odd]),
            )
        return np.asarray(passed[which], dtype=bool)

    def _passes(self, cell: str) -> bool | None:
        if self.one_of is not None:
            return cell in texts(self.one_of)
        if self.none_of is not None:
            return cell not in texts(self.none_of)
        if self.known is not None:
            return bool(cell) is self.known
        if self.between is not None:
            number = number_of(cell)
            if number is None:
                return False if not cell else None
            return self.between[0] <= number <= self.between[1]
        return cell == text_of(self.equals)


class Derive(Config):
    """Makes a new column out of others, by exactly one rule.

    Attributes:
        column: Column that `pattern` or `map` reads.
        pattern: Regular expression found anywhere in the cell; its first group (or all of it) is
            the new value. A cell without it is a fault unless `default` is given.
        map: New value by old value. A value that is not in it is a fault unless `default` is
            given.
        template: Text with `{column}` for the row's value of each column.
        default: Value where `pattern` or `map` finds nothing.
    """

    column: str | None = None
    pattern: str | None = None
    map: Mapping[str, Scalar] | None = None
    template: str | None = None
    default: Scalar = None

    @pydantic.model_validator(mode="after")
    def _one_rule(self) -> Derive:
        _exactly_one(self, ("pattern", "map", "template"))
        if (self.template is None) == (self.column is None):
            raise carried(ConfigError("'pattern' and 'map' need 'column', 'template' has none"))
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                problem = ConfigError(f"not a regular expression: {error}", found=self.pattern)
                raise carried(problem, "pattern") from None
        return self

    def apply(self, raw: Raw, name: str) -> Raw:
        """Return `raw` with the column `name`.

        Raises:
            DataError: A column is missing, or a cell that the rule does not cover.
        """
        field = f"derive.{name}"
        if self.template is not None:
            return raw.with_column(name, filled(self.template, raw, field))
        assert self.column is not None
        which, cells = pd.factorize(raw.column(self.column, field))
        values = [self._value(str(cell)) for cell in cells]
        odd = np.array([value is None for value in values], dtype=bool)
        if odd.any():
            raise DataError(
                f"the rule of '{field}' does not cover these values of '{self.column}'",
                where=raw.where(odd[which]),
                found=shown_cells(np.asarray(cells, dtype=object)[odd]),
                allowed=self.pattern or list(self.map or {}),
                todo="widen the rule, or give a 'default'",
            )
        return raw.with_column(name, [str(values[i]) for i in which])

    def _value(self, cell: str) -> str | None:
        default = None if self.default is None else text_of(self.default)
        if self.pattern is not None:
            match = re.search(self.pattern, cell)
            if match is None:
                return default
            return match.group(1 if match.re.groups else 0) or default
        mapped = {text_of(old): new for old, new in (self.map or {}).items()}
        return text_of(mapped[text_of(cell)]) if text_of(cell) in mapped else default

    def columns(self) -> tuple[str, ...]:
        """Return the columns the rule reads."""
        return fields_of(self.template) if self.template is not None else (str(self.column),)


_FIELD = re.compile(r"\{([^{}]+)\}")


def fields_of(template: str) -> tuple[str, ...]:
    """Return the column names in a template such as `{image_id}.jpg`."""
    return tuple(_FIELD.findall(template))


def filled(template: str, raw: Raw, field: str) -> list[str]:
    """Return the template with each row's values put in.

    Raises:
        DataError: A column of the template is missing.
    """
    parts = _FIELD.split(template)
    out = pd.Series([""] * len(raw), dtype=object)
    for index, part in enumerate(parts):
        out = out + (raw.column(part, field).astype(object) if index % 2 else part)
    return [str(text) for text in out]


def condition_of(column: str, value: Any) -> Condition:
    """Return the condition that a recipe's `where: {column: value or [values]}` means."""
    if isinstance(value, list | tuple):
        return Condition(column=column, one_of=tuple(value))
    if isinstance(value, Mapping):
        return parse(Condition, {"column": column, **value})
    return Condition(column=column, one_of=(value,))


def _exactly_one(rule: Config, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(rule, name) is not None]
    if len(given) != 1:
        problem: FairtuneError = ConfigError(
            "exactly one of these fields is needed", found=given or "none", allowed=names
        )
        raise carried(problem)
