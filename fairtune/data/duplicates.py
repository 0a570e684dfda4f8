"""Near-duplicate images on two sides of a split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairtune.data.values import IntArray

MAX_DISTANCE = 4
MIN_CORRELATION = 0.98
_CHUNK = 2048
_SMALL = 16

Read = Callable[[slice], npt.NDArray[np.uint8]]
Hashes = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]


def difference_hashes(images: npt.NDArray[np.uint8]) -> Hashes:
    """Return `(n,)` 64-bit difference hashes (dHash) of `(n, h, w, c)`.

    The grey image is averaged to 8 rows of 9 cells; a bit says whether a cell is brighter than
    its left neighbour. Images under 9 pixels wide or 8 high have no such hash.
    """
    cells = shrunk(images, 8, 9)
    bits = (cells[:, :, 1:] > cells[:, :, :-1]).reshape(len(images), 64)
    powers = np.uint64(1) << np.arange(64, dtype=np.uint64)
    return np.asarray((bits * powers).sum(axis=1, dtype=np.uint64))


def shrunk(images: npt.NDArray[np.uint8], rows: int, columns: int) -> Floats:
    """Return `(n, rows, columns)` means of grey over nearly equal cells.

    Raises:
        ValueError: The images have fewer pixels than cells along a side.
    """
    height, width = images.shape[1:3]
    if height < rows or width < columns:
        raise ValueError(f"images of {height} x {width} cannot be averaged to {rows} x {columns}")
    grey = images.mean(axis=3, dtype=np.float64)
    tall = np.linspace(0, height, rows + 1).astype(int)
    wide = np.linspace(0, width, columns + 1).astype(int)
    sums = np.add.reduceat(np.add.reduceat(grey, tall[:-1], axis=1), wide[:-1], axis=2)
    return np.asarray(sums / np.outer(np.diff(tall), np.diff(wide)))


def near_pairs(hashes: Hashes, split: IntArray, limit: int = MAX_DISTANCE) -> IntArray:
    """Return `(p, 3)` rows a < b in different splits and their Hamming distance, at most `limit`.

    Args:
        hashes: `(n,)` 64-bit hashes.
        split: `(n,)` codes of the splits.
        limit: Largest number of differing bits.
    """
    found = [np.empty((0, 3), dtype=np.int64)]
    for start in range(0, len(hashes), _CHUNK):
        part = slice(start, start + _CHUNK)
        distance = np.bitwise_count(hashes[part, None] ^ hashes[None, start:])
        close = (distance <= limit) & (split[part, None] != split[None, start:])
        a, b = np.nonzero(close)
        forward = b > a
        a, b = a[forward], b[forward]
        found.append(np.stack([a + start, b + start, distance[a, b]], axis=1).astype(np.int64))
    return np.concatenate(found)


def across_splits(read: Read, count: int, split: IntArray) -> pd.DataFrame:
    """Return the pairs of images in different splits that look alike.

    A pair has dHashes at most `MAX_DISTANCE` bits apart and, as standard views share much of
    their outline, a correlation of at least `MIN_CORRELATION` between 16 x 16 grey averages.

    Args:
        read: Returns the images of a slice of rows, `(m, h, w, c)`.
        count: Rows in all.
        split: `(count,)` codes of the splits.

    Returns:
        Columns `a`, `b` (rows, a < b), `distance`, `correlation`, closest first.
    """
    hashes, small = [np.empty(0, dtype=np.uint64)], [np.empty((0, _SMALL * _SMALL))]
    for start in range(0, count, _CHUNK):
        images = read(slice(start, min(start + _CHUNK, count)))
        hashes.append(difference_hashes(images))
        small.append(_standardised(shrunk(images, _SMALL, _SMALL)))
    pairs = near_pairs(np.concatenate(hashes), split)
    unit = np.concatenate(small)
    correlation = np.einsum("pi,pi->p", unit[pairs[:, 0]], unit[pairs[:, 1]])
    frame = pd.DataFrame(pairs, columns=["a", "b", "distance"]).assign(correlation=correlation)
    frame = frame[frame["correlation"] >= MIN_CORRELATION]
    return frame.sort_values(["distance", "correlation"], ascending=[True, False]).reset_index(
        drop=True
    )


def _standardised(cells: Floats) -> Floats:
    """Return flat cells with mean 0 and length 1; a flat image becomes one fixed direction."""
    flat = cells.reshape(len(cells), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    constant = np.eye(1, flat.shape[1])
    return np.asarray(np.where(length > 1e-9, flat / np.maximum(length, 1e-9), constant))
