"""All rows of metadata of a data set, from wherever its layout has them."""

from __future__ import annotations

from pathlib import Path

from fairtune.data import npz_rows, raw
from fairtune.data.layout import NpzFiles
from fairtune.data.locate import Found
from fairtune.data.raw import Raw


def gather(found: Found, cache: Path | None) -> Raw:
    """Return the rows of all tables one after the other, with the columns joined to them.

    Raises:
        DataError: A file cannot be read, or rows cannot be joined.
        Problems: Several faults of one table.
    """
    parts = []
    for item in found.layout.tables:
        if isinstance(item, NpzFiles):
            part = npz_rows.read(item, found.folder, cache)
        else:
            part = raw.read(found.folder / item.file)
        for name, value in item.set.items():
            part = part.with_column(name, ["" if value is None else str(value)] * len(part))
        parts.append(part)
    rows = raw.concatenate(parts)
    for more in found.layout.joins:
        other = raw.read(found.folder / more.file)
        rows = raw.join(rows, other, more.on, more.columns)
    return rows
