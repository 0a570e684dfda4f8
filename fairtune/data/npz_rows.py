"""Rows of metadata that lie in `.npz` files, one in each, beside the image."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairtune import store
from fairtune.config import digest
from fairtune.data.layout import FILE, FILENAME, NpzFiles
from fairtune.data.raw import Origin, Raw
from fairtune.data.values import shown
from fairtune.errors import DataError, FairtuneError, raise_all

PROTOCOL = 1
"""Rises whenever equal files give other cells."""

_SHELF, _ROWS = "tables", "rows.parquet"
_THREADS = 8
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
)


class _Odd(Exception):
    """What is wrong with one file, in words that many files may share."""

    def __init__(self, what: str, found: str, todo: str) -> None:
        super().__init__(what)
        self.what, self.found, self.todo = what, found, todo


def read(rule: NpzFiles, folder: Path, cache: Path | None) -> Raw:
    """Return a row for each file of `rule`, in the order of their paths.

    Opening thousands of files takes seconds, and minutes on a network disk. With a cache their
    cells are kept, as long as no file changes its name, size or time stamps.

    Args:
        rule: Which files, and which arrays of them.
        folder: Folder of the layout.
        cache: Root of the cache; None reads every file.

    Raises:
        DataError: A file cannot be read, lacks a key, or holds more than one value under it.
        Problems: Several such faults; alike ones of several files are one.
    """
    paths = sorted((p for p in folder.glob(rule.npz) if p.is_file()), key=lambda p: p.as_posix())
    if cache is None:
        frame = _frame(rule, folder, paths)
    else:
        kept = store.get_or_make(
            _SHELF,
            _key(rule, folder, paths),
            lambda made: _frame(rule, folder, paths).to_parquet(made / _ROWS, index=False),
            root=cache,
            # These few bytes are no reason to remove anything else.
            cap_gib=math.inf,
        )
        frame = pd.read_parquet(kept / _ROWS).astype(object)
    count = len(paths)
    origin = Origin(
        (str(folder / rule.npz),),
        np.zeros(count, dtype=np.int64),
        np.arange(1, count + 1, dtype=np.int64),
        {0: tuple(map(str, paths))},
    )
    return Raw(frame, origin)


def _key(rule: NpzFiles, folder: Path, paths: Sequence[Path]) -> str:
    stats = [path.stat() for path in paths]
    # The time of change cannot be set: it tells a file from another of equal size and date.
    files = [
        [path.relative_to(folder).as_posix(), s.st_size, s.st_mtime_ns, s.st_ctime_ns]
        for path, s in zip(paths, stats, strict=True)
    ]
    place = os.path.realpath(folder)
    return digest({"protocol": PROTOCOL, "folder": place, "keys": rule.keys, "files": files})


def _frame(rule: NpzFiles, folder: Path, paths: Sequence[Path]) -> pd.DataFrame:
    def one(path: Path) -> list[str] | _Odd:
        try:
            return _cells(path, rule.keys)
        except _Odd as odd:
            return odd

    with ThreadPoolExecutor(_THREADS) as pool:
        read = list(pool.map(one, paths))
    raise_all(str(folder / rule.npz), list(_faults(folder, paths, read)))
    rows = [row for row in read if not isinstance(row, _Odd)]
    frame = pd.DataFrame(rows, columns=list(rule.keys), dtype=object)
    names = [path.relative_to(folder).as_posix() for path in paths]
    return frame.assign(
        **{
            FILE: pd.Series(names, dtype=object),
            FILENAME: pd.Series([path.name for path in paths], dtype=object),
        }
    )


def _faults(
    folder: Path, paths: Sequence[Path], read: Sequence[list[str] | _Odd]
) -> Iterator[FairtuneError]:
    """Yield one fault for all files with which the same is wrong."""
    alike: dict[str, list[tuple[Path, _Odd]]] = {}
    for path, row in zip(paths, read, strict=True):
        if isinstance(row, _Odd):
            alike.setdefault(row.what, []).append((path, row))
    for what, group in alike.items():
        names = shown(path.relative_to(folder).as_posix() for path, _ in group)
        several = f" ({len(group)} files)" if len(group) > 1 else ""
        yield DataError(
            what,
            where=f"{folder}: {names}{several}",
            found=group[0][1].found,
            todo=group[0][1].todo,
        )


def _cells(path: Path, keys: Sequence[str]) -> list[str]:
    try:
        # Opened here: of an archive that is damaged NumPy would leave its own handle open.
        with path.open("rb") as file:
            return _row(np.load(file, allow_pickle=False), keys)
    except _UNREADABLE as error:
        raise _damaged(error) from None


def _row(arrays: Any, keys: Sequence[str]) -> list[str]:
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise _damaged(ValueError("one array, not an archive of several"))
    with arrays:
        lacking = [key for key in keys if key not in arrays.files]
        if lacking:
            raise _Odd(
                f"no array {', '.join(map(repr, lacking))}",
                shown(arrays.files),
                "correct the keys in the layout, or the files",
            )
        return [_cell(arrays, key) for key in keys]


def _cell(arrays: Any, key: str) -> str:
    try:
        value = arrays[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise _Odd(
            f"the array '{key}' holds Python objects; unpickling may run foreign code, so it "
            "is not read",
            "dtype object",
            "save it as numbers or as text of fixed width, or read the values from a table",
        ) from None
    if value.size != 1 or value.dtype.kind not in "biufSU":
        raise _Odd(
            f"the array '{key}' is not one number or text",
            f"shape {value.shape}, dtype {value.dtype}",
            "leave the key out of the layout, or correct the files",
        )
    item = value.item()
    if isinstance(item, bytes):
        item = item.decode("utf-8")
    return "" if item != item else str(item)


def _damaged(error: BaseException) -> _Odd:
    found = str(error).partition("\n")[0] or type(error).__name__
    return _Odd("not a readable .npz file", found, "get the file anew, or remove it")
