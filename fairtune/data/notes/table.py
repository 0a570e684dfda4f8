"""Notes as a table holds them, every column by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairtune.data.raw import Raw, read
from fairtune.errors import ConfigError, DataError, did_you_mean
from fairtune.store import file_sha256

_SHOWN_LETTERS = 40


@dataclass(frozen=True, eq=False)
class Notes:
    """The notes of one table, in its order.

    Attributes:
        path: The table.
        sha256: Of the file.
        text: Name of the column with the notes.
        id: Name of the column that tells rows apart.
        texts: The notes; an empty one is the empty string or blanks.
        ids: What identifies each row; no two are equal.
        kept: Columns that are handed on as they are, by name.
        lines: Line of the file in which each row begins.
    """

    path: Path
    sha256: str
    text: str
    id: str
    texts: tuple[str, ...]
    ids: tuple[str, ...]
    kept: Mapping[str, Sequence[str]]
    lines: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def empty(self) -> int:
        """Notes without a word."""
        return sum(not text.strip() for text in self.texts)

    def where(self, row: int) -> str:
        """Return file and line of a row, counted from 0."""
        return f"{self.path.name}:{self.lines[row]}"

    def source(self) -> dict[str, Any]:
        """Return what the table is, as JSON values; nothing that stands in a row."""
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "text": self.text,
            "id": self.id,
            "kept": list(self.kept),
        }

    def table(self, column: str, texts: Sequence[str]) -> tuple[list[str], list[list[str]]]:
        """Return header and rows of a table with `texts` in `column` after the identifiers.

        Raises:
            ConfigError: The column is one of those that are handed on.
        """
        header = [self.id, column, *self.kept]
        if len(set(header)) != len(header):
            raise ConfigError(
                "two columns of the output would have one name",
                found=header,
                todo="leave the column out of --keep-column, or rename it in the table",
            )
        columns = [self.ids, texts, *self.kept.values()]
        return header, [list(row) for row in zip(*columns, strict=True)]


def read_notes(path: Path, text: str, id_: str, keep: Sequence[str] = ()) -> Notes:
    """Read notes from a table.

    Args:
        path: CSV, TSV (both UTF-8, also .gz) or parquet.
        text: Column with the notes.
        id_: Column that identifies a row.
        keep: Columns that the output shall have too.

    Raises:
        DataError: The file is no such table, has not these columns, no rows, or rows that are not
            told apart. Names of columns are shown, nothing that stands in a row.
        ConfigError: A column is asked for twice.
    """
    asked = [text, id_, *keep]
    if len(set(asked)) != len(asked):
        raise ConfigError("a column is asked for twice", where="--text, --id, --keep-column")
    raw = read(path)
    for option, name in (("--text", text), ("--id", id_), *(("--keep-column", k) for k in keep)):
        _check_column(raw, path, option, name)
    if not len(raw):
        raise DataError("the table has no rows", where=path)
    _check_ids(raw, id_)
    return Notes(
        path=path,
        sha256=file_sha256(path),
        text=text,
        id=id_,
        texts=tuple(raw.frame[text]),
        ids=tuple(raw.frame[id_]),
        kept={name: tuple(raw.frame[name]) for name in keep},
        lines=tuple(int(line) for line in raw.origin.line),
    )


def _check_column(raw: Raw, path: Path, option: str, name: str) -> None:
    known = [str(column) for column in raw.frame.columns]
    if name in known:
        return
    # A table without a header line has its first note there.
    names = any(len(column) > _SHOWN_LETTERS or column.strip().isdigit() for column in known)
    raise DataError(
        "the table has no such column",
        where=f"{path} ({option})",
        found=name,
        allowed="names of columns; the first line of the table holds none" if names else known,
        todo="write a first line with the columns' names" if names else did_you_mean(name, known),
    )


def _check_ids(raw: Raw, id_: str) -> None:
    ids = raw.frame[id_].str.strip()
    for what, mask in (
        ("rows have no identifier", np.asarray(ids == "")),
        ("rows have one identifier together", np.asarray(ids.duplicated(keep=False))),
    ):
        if mask.any():
            raise DataError(
                what,
                where=raw.where(mask),
                allowed=f"another '{id_}' in every row",
                todo="name a column with --id that tells rows apart, or mend these rows",
            )
