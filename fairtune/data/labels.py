"""Label rules: how a target is read from the metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pydantic

from fairtune.config import Config
from fairtune.config.model import carried
from fairtune.data.raw import Raw
from fairtune.data.values import IntArray, Values, coded, shown_cells, text_of, texts
from fairtune.errors import ConfigError, DataError, FairtuneError

Task = Literal["binary", "multiclass", "multilabel"]

MISSING = -1
_OUTSIDE = -2


class Cells(Config):
    """What some values mean in one column of several; all others mean what they do in all.

    Attributes:
        positive: Values that mean 1.
        negative: Values that mean 0.
        unknown: Values that mean "not labelled".
    """

    positive: Values = ()
    negative: Values = ()
    unknown: Values = ()

    def code(self, cell: str) -> int | None:
        """Return 1, 0 or -1, or None for a value that is not named here."""
        for code, values in ((1, self.positive), (0, self.negative), (MISSING, self.unknown)):
            if cell in texts(values):
                return code
        return None

    def named(self) -> set[str]:
        """Return the values that have a meaning here."""
        return texts([*self.positive, *self.negative, *self.unknown])


def _as_columns(value: Any) -> Any:
    return {name: {} for name in value} if isinstance(value, list | tuple) else value


class Target(Config):
    """What the model learns to predict, in one of five forms.

    binary: `{column, positive: [..], negative: [..] | rest}`;
    multiclass: `{column, classes: [A, B, ..]}` or `{column, classes: {A: [values], ..}}`;
    multilabel over columns: `{columns: [A, B, ..], positive: [..], negative: [..] | rest}`;
    one of several columns: the same with `exclusive: true`; binary with two columns;
    multilabel in one column: `{column, separator: "|", labels: [A, B, ..], negative: as above}`.

    A value that no list names is a fault with its rows, unless `negative: rest` (or `other` in
    the multiclass form) takes it. Rows with a value of `unknown` have no label and are left out.

    Attributes:
        column: Column with the label.
        columns: Columns with one label each, 0 or 1; where values mean something else in one
            of them, `{A: {}, B: {positive: -1}, ..}`.
        exclusive: The class of a row is the one column that is 1, in their order; rows in which
            none, several or not all are known to be so have no label and are left out.
        positive: Values that mean 1.
        negative: Values that mean 0, or `rest` for all others.
        names: Names of class 0 and 1 in the binary form.
        classes: Class names in the order of their codes, with the values each stands for.
        other: Class of all values that `classes` does not name.
        labels: Labels of the multilabel form in one column.
        separator: Splits a cell into several values; one positive value is enough for 1.
        unknown: Values that mean "not labelled"; `null` is the empty cell.
    """

    column: str | None = None
    columns: Annotated[Mapping[str, Cells], pydantic.BeforeValidator(_as_columns)] = {}
    exclusive: bool = False
    positive: Values = ()
    negative: Values = ()
    names: tuple[str, str] | None = None
    classes: Mapping[str, Values] | tuple[str, ...] = ()
    other: str | None = None
    labels: tuple[str, ...] = ()
    separator: str | None = None
    unknown: Values = ()

    @pydantic.model_validator(mode="after")
    def _form(self) -> Target:
        for problem in _form_faults(self):
            raise carried(problem)
        return self

    @property
    def task(self) -> Task:
        """The kind of question."""
        if self.exclusive:
            return "binary" if len(self.columns) == 2 else "multiclass"
        if self.columns or self.labels:
            return "multilabel"
        return "multiclass" if self.classes else "binary"

    def reads(self) -> tuple[str, ...]:
        """Return the columns the rule reads."""
        return tuple(self.columns) or (str(self.column),)

    def class_names(self, target: str) -> tuple[str, ...]:
        """Return the names of the classes, or of the labels of a multilabel target."""
        if self.columns or self.labels:
            return tuple(self.columns) or self.labels
        if self.task == "multiclass":
            named = tuple(self.classes)
            extra = (self.other,) if self.other is not None and self.other not in named else ()
            return (*named, *extra)
        return self.names or (f"not {target}", target)

    def encode(self, raw: Raw, target: str) -> tuple[IntArray, list[FairtuneError]]:
        """Return the labels and every fault.

        Returns:
            `(n,)` class codes, or `(n, t)` of 0/1 for a multilabel target; -1 where the value is
            declared unknown. Cells outside the rule are in the list of faults.
        """
        problems: list[FairtuneError] = []
        columns = [self._encode_column(raw, c, target, problems) for c in self._tasks()]
        if self.task == "multilabel":
            return np.stack(columns, axis=1), problems
        return _the_one(np.stack(columns, axis=1)) if self.exclusive else columns[0], problems

    def _tasks(self) -> list[tuple[str, str | None]]:
        if self.labels:
            return [(str(self.column), label) for label in self.labels]
        return [(column, None) for column in self.reads()]

    def _encode_column(
        self, raw: Raw, task: tuple[str, str | None], target: str, problems: list[FairtuneError]
    ) -> IntArray:
        column, label = task
        cells = raw.column(column, f"targets.{target}")
        own = self.columns.get(column, Cells())
        codes = coded(cells, lambda cell: self._code(cell, label, own))
        outside = codes == _OUTSIDE
        # Every label of one column meets the same odd cells: say so once.
        if outside.any() and label in (None, *self.labels[:1]):
            problems.append(
                DataError(
                    f"values of '{column}' that the label rule 'targets.{target}' does not name",
                    where=raw.where(outside),
                    found=shown_cells(sorted(set(cells[outside]))),
                    allowed=sorted(self._named() | own.named()),
                    todo="correct the cells, or name the values in the rule "
                    "(a list, 'unknown', or 'negative: rest')",
                )
            )
        return codes

    def _code(self, cell: str, label: str | None, own: Cells) -> int:
        code = own.code(cell)
        if code is not None:
            return code
        parts = {cell}
        if self.separator is not None:
            parts = {text_of(part) for part in cell.split(self.separator)}
        if parts & texts(self.unknown):
            return MISSING
        if self.classes:
            return self._class_code(parts)
        if label is not None:
            known = self.negative == ("rest",) or parts <= self._named()
            return int(text_of(label) in parts) if known else _OUTSIDE
        if parts & texts(self.positive):
            return 1
        if self.negative == ("rest",) or parts <= texts(self.negative):
            return 0
        return _OUTSIDE

    def _class_code(self, parts: set[str]) -> int:
        for code, values in enumerate(self._class_values().values()):
            if parts & values:
                return code
        if self.other is not None:
            return self.class_names("").index(self.other)
        return _OUTSIDE

    def _class_values(self) -> dict[str, set[str]]:
        if isinstance(self.classes, Mapping):
            return {name: texts(values) for name, values in self.classes.items()}
        return {name: {text_of(name)} for name in self.classes}

    def _named(self) -> set[str]:
        named = texts([*self.positive, *self.negative, *self.unknown, *self.labels])
        return named.union(*self._class_values().values()) if self.classes else named


def _the_one(codes: IntArray) -> IntArray:
    """Return the column of each row that is 1, -1 where it is not the only one for certain."""
    certain = (codes >= 0).all(axis=1) & ((codes == 1).sum(axis=1) == 1)
    return np.where(certain, codes.argmax(axis=1), MISSING)


def _form_faults(rule: Target) -> list[ConfigError]:
    """Return what keeps `rule` from being one of the five forms."""
    if bool(rule.column) == bool(rule.columns):
        return [ConfigError("exactly one of 'column' and 'columns' is needed")]
    nothing: tuple[object, ...] = ((), None, {}, False)
    given = {name for name in type(rule).model_fields if getattr(rule, name) not in nothing}
    given -= {"column", "columns", "unknown"}
    if rule.columns:
        needed, more = {"positive", "negative"}, {"exclusive"}
    elif rule.labels:
        needed, more = {"labels", "separator"}, {"negative"}
    elif rule.classes:
        needed, more = {"classes"}, {"other"}
    else:
        needed, more = {"positive", "negative"}, {"names", "separator"}
    lacking, surplus = sorted(needed - given), sorted(given - needed - more)
    faults = []
    if lacking or surplus:
        faults.append(
            ConfigError(
                "the label rule mixes forms or is not complete",
                found=sorted(given),
                allowed=f"with these: {', '.join(sorted(needed | more))}",
                todo="see the five forms in docs/datasets.md",
            )
        )
    if rule.exclusive and len(rule.columns) < 2:
        faults.append(
            ConfigError("'exclusive' needs two columns or more", found=len(rule.columns))
        )
    lists = [texts(rule.positive), texts(rule.negative) - {"rest"}, texts(rule.unknown)]
    lists += rule._class_values().values() if rule.classes else []
    faults += _two_meanings(lists)
    for own in rule.columns.values():
        if "rest" in own.negative:
            faults.append(ConfigError("'rest' stands for the values of all columns, not of one"))
        faults += _two_meanings([texts(own.positive), texts(own.negative), texts(own.unknown)])
    return faults


def _two_meanings(lists: Iterable[set[str]]) -> list[ConfigError]:
    seen: set[str] = set()
    twice: list[ConfigError] = []
    for values in lists:
        if seen & values:
            twice.append(ConfigError("a value has two meanings", found=sorted(seen & values)))
        seen |= values
    return twice
