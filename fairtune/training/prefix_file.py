"""One file of hidden states: written row by row, read as a memory map."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fairtune.data.values import IntArray as Rows
from fairtune.errors import StorageError

CHUNK = 128
ROWS = "rows.npy"
RESERVE = 2**30
"""Bytes that are left free on the disk."""

_HELD, _META = "hidden.bin", "hidden.json"

Compute = Callable[[Rows], Tensor]
"""Returns `(rows, ...)` hidden states of some rows of the pack."""


def write(
    folder: Path,
    train: Rows,
    val: Rows,
    compute: Compute,
    progress: Callable[[str, int, int], None],
    *,
    whole: bool,
) -> None:
    """Compute what stands before a cut and write it with its rows, training rows first.

    Args:
        folder: Where to; not yet in its place.
        train: Rows that are served in batches of any rows.
        val: Rows that are served in this order.
        compute: Makes the hidden states.
        progress: Is told what is done, rows so far and rows in all.
        whole: Nothing is computed twice so that training rows stand among many.

    Raises:
        StorageError: The disk is too full.
    """
    rows = np.concatenate([train, val])
    shape: list[int] = []
    kind = "float32"
    with (folder / _HELD).open("wb") as file:
        done = 0
        for asked, new in (*_chunks(train, full=not whole), *_chunks(val, full=False)):
            hidden = compute(asked)[-new:].cpu().contiguous()
            if not shape:
                shape, kind = [len(rows), *hidden.shape[1:]], str(hidden.dtype).split(".")[1]
                _check_room(folder, math.prod(shape) * hidden.element_size())
            # Written, not mapped: a full disk is then an error, where a map would kill us.
            file.write(hidden.view(torch.uint8).numpy().tobytes())
            done += new
            progress("computing frozen blocks", done, len(rows))
    np.save(folder / ROWS, rows)
    (folder / _META).write_text(json.dumps({"shape": shape, "dtype": kind}))


def _chunks(rows: Rows, *, full: bool) -> Iterator[tuple[Rows, int]]:
    """Yield rows to compute and how many of them, from the end, are new.

    With `full` the last chunk reaches back, so that every row is computed among many.
    """
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        asked = rows[max(0, start + len(part) - CHUNK) : start + CHUNK] if full else part
        yield asked, len(part)


def mapped(folder: Path) -> Tensor:
    """Return `(rows, ...)` hidden states as they stand on the disk."""
    meta = json.loads((folder / _META).read_text())
    shape, dtype = meta["shape"], getattr(torch, meta["dtype"])
    size = math.prod(shape)
    flat = torch.from_file(str(folder / _HELD), shared=False, size=size, dtype=dtype)
    return flat.view(shape)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + RESERVE:
        raise StorageError(
            "the disk is too full to keep what frozen blocks compute",
            where=folder.parent,
            found=f"{free // 2**20} MiB free",
            allowed=f"at least {(needed + RESERVE) // 2**20} MiB",
        )
