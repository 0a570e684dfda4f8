"""Metadata tables as they lie on disk: text cells, each row with its file and line."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from fairtune.data.values import BoolArray, IntArray, shown, shown_cells
from fairtune.errors import DataError, FairtuneError, did_you_mean, raise_all

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
_FIELD_LIMIT = 2**24


@dataclass(frozen=True, eq=False)
class Origin:
    """Where rows were read from.

    Attributes:
        files: Names of the files.
        file: `(n,)` index into `files`.
        line: `(n,)` line in the file, counted from 1 (in a parquet file: the row).
        single: Files of one row each, by index of the name in `files` that stands for them all;
            `line` counts in them.
    """

    files: tuple[str, ...]
    file: IntArray
    line: IntArray
    single: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def keep(self, mask: BoolArray) -> Origin:
        """Return the rows where `mask` holds."""
        return Origin(self.files, self.file[mask], self.line[mask], self.single)

    def where(self, mask: BoolArray) -> str:
        """Return `file:line` or `file: lines ... (n rows)` of the rows where `mask` holds."""
        parts = []
        for index, name in enumerate(self.files):
            lines = self.line[mask & (self.file == index)]
            if len(lines) == 1:
                parts.append(self._place(index, lines[0]))
            elif len(lines):
                listed = f"lines {shown(lines)}"
                if index in self.single:
                    listed = shown(Path(self._place(index, line)).name for line in lines)
                parts.append(f"{name}: {listed} ({len(lines)} rows)")
        return "; ".join(parts)

    def row(self, index: int) -> str:
        """Return `file:line` of one row."""
        return self._place(int(self.file[index]), self.line[index])

    def _place(self, file: int, line: int) -> str:
        if file in self.single:
            return self.single[file][line - 1]
        return f"{self.files[file]}:{line}"


@dataclass(frozen=True, eq=False)
class Raw:
    """Rows of one or several metadata files.

    Attributes:
        frame: Text columns; an empty cell is the empty string.
        origin: Where each row stands.
    """

    frame: pd.DataFrame
    origin: Origin

    def __len__(self) -> int:
        return len(self.frame)

    def keep(self, mask: BoolArray) -> Raw:
        """Return the rows where `mask` holds, in their order."""
        return Raw(self.frame[mask].reset_index(drop=True), self.origin.keep(mask))

    def where(self, mask: BoolArray) -> str:
        """Return where the rows stand for which `mask` holds."""
        return self.origin.where(mask)

    def column(self, name: str, field: str) -> pd.Series[str]:
        """Return the column `name` that the spec's `field` asks for.

        Raises:
            DataError: There is no such column.
        """
        problem = self.missing(name, field)
        if problem is not None:
            raise problem
        return self.frame[name]

    def missing(self, name: str, field: str) -> DataError | None:
        """Return the fault that the column `name` of `field` is not there, or None."""
        if name in self.frame.columns:
            return None
        known = list(self.frame.columns)
        return DataError(
            f"the table has no column '{name}', which '{field}' of the dataset spec reads",
            where=", ".join(self.origin.files),
            found=known,
            todo=did_you_mean(name, known) or "correct the column name in the dataset spec",
        )

    def with_column(self, name: str, values: Sequence[str]) -> Raw:
        """Return the rows with one more column."""
        frame = self.frame.assign(**{name: pd.Series(list(values), dtype=object)})
        return Raw(frame, self.origin)


def read(path: Path, name: str | None = None) -> Raw:
    """Read one metadata table.

    Args:
        path: A file ending in one of `SUFFIXES`.
        name: What to call it in messages.

    Raises:
        DataError: The file cannot be read, is not a table, or a row has the wrong width.
    """
    label = name or str(path)
    try:
        frame, line = _parquet(path) if path.suffix == ".parquet" else _text(path, label)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("cannot read the table", where=label, found=str(error)) from None
    except UnicodeDecodeError as error:
        raise DataError("the table is not UTF-8 text", where=label, found=str(error)) from None
    except (csv.Error, ValueError) as error:
        raise DataError("not a readable table", where=label, found=str(error)) from None
    return Raw(frame, Origin((label,), np.zeros(len(frame), dtype=np.int64), line))


def concatenate(parts: Sequence[Raw]) -> Raw:
    """Return the rows of all `parts`; a column that a part lacks is empty there."""
    if len(parts) == 1:
        return parts[0]
    frame = pd.concat([part.frame for part in parts], ignore_index=True).fillna("")
    origins = [part.origin for part in parts]
    starts = np.cumsum([0, *(len(origin.files) for origin in origins[:-1])])
    file = np.concatenate([o.file + start for o, start in zip(origins, starts, strict=True)])
    line = np.concatenate([origin.line for origin in origins])
    files = tuple(name for origin in origins for name in origin.files)
    single = {
        int(start) + index: names
        for origin, start in zip(origins, starts, strict=True)
        for index, names in origin.single.items()
    }
    return Raw(frame, Origin(files, file, line, single))


def join(left: Raw, right: Raw, on: str, columns: Iterable[str] | None) -> Raw:
    """Return `left` with the columns of `right` whose row has the same value of `on`.

    Raises:
        DataError: `on` is missing, stands twice in `right`, or a row of `left` has no partner.
    """
    key, other = left.column(on, "joins.on"), right.column(on, "joins.on")
    wanted = [c for c in (columns or right.frame.columns) if c != on]
    raise_all(right.origin.files[0], _join_faults(left, right, on, wanted))
    place = pd.Series(np.arange(len(other)), index=other)[key].to_numpy()
    picked = right.frame[wanted].iloc[place].reset_index(drop=True)
    return Raw(pd.concat([left.frame, picked], axis=1), left.origin)


def _join_faults(left: Raw, right: Raw, on: str, wanted: Sequence[str]) -> list[FairtuneError]:
    key, other = left.frame[on], right.frame[on]
    problems: list[FairtuneError] = []
    twice = other.duplicated(keep=False).to_numpy()
    if twice.any():
        problems.append(
            DataError(
                f"'{on}' stands more than once in a joined table",
                where=right.where(twice),
                found=shown_cells(other[twice].unique()),
                todo="join on a column that is unique there",
            )
        )
    alone = ~key.isin(other).to_numpy()
    if alone.any():
        problems.append(
            DataError(
                f"rows without a partner in {right.origin.files[0]}",
                where=left.where(alone),
                found=shown_cells(key[alone].unique()),
                todo=f"add the rows to {right.origin.files[0]}, or remove these",
            )
        )
    problems += [p for c in wanted if (p := right.missing(c, "joins.columns")) is not None]
    problems += [
        DataError(
            f"both tables have a column '{c}'",
            where=right.origin.files[0],
            todo="name the columns to take in joins.columns",
        )
        for c in wanted
        if c in left.frame.columns
    ]
    return problems


def _parquet(path: Path) -> tuple[pd.DataFrame, IntArray]:
    frame = pd.read_parquet(path)
    cells = {
        str(name): [
            ("" if missing else str(cell)) for cell, missing in zip(col, col.isna(), strict=True)
        ]
        for name, col in frame.items()
    }
    return pd.DataFrame(cells, dtype=object), np.arange(1, len(frame) + 1, dtype=np.int64)


def _text(path: Path, label: str) -> tuple[pd.DataFrame, IntArray]:
    name = path.name.removesuffix(".gz")
    if not name.endswith((".csv", ".tsv")):
        raise DataError("unknown kind of table", where=label, found=path.name, allowed=SUFFIXES)
    content = path.read_bytes()
    if path.name.endswith(".gz"):
        content = gzip.decompress(content)
    return _rows(content.decode("utf-8-sig"), "\t" if name.endswith(".tsv") else ",", label)


def _rows(text: str, delimiter: str, label: str) -> tuple[pd.DataFrame, IntArray]:
    csv.field_size_limit(_FIELD_LIMIT)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = [cell.strip() for cell in next(reader, [])]
    if not any(header):
        raise DataError("the table is empty: it has no header line", where=label)
    cells: list[list[str]] = []
    lines: list[int] = []
    odd: list[FairtuneError] = []
    begins = reader.line_num + 1
    for row in reader:
        if len(row) == len(header):
            cells.append(row)
            lines.append(begins)
        elif row:
            odd.append(
                DataError(
                    "the row does not have as many fields as the header",
                    where=f"{label}:{begins}",
                    found=len(row),
                    allowed=len(header),
                )
            )
        begins = reader.line_num + 1
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        odd.append(DataError("column names stand twice", where=f"{label}:1", found=twice))
    raise_all(label, odd)
    frame = pd.DataFrame(cells, columns=header, dtype=object)
    # A trailing comma in the header makes a nameless, empty column.
    named = frame.loc[:, [bool(name) for name in header]]
    return named, np.array(lines, dtype=np.int64)
