"""Image files outside a data set, for prediction without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fairtune.data.decode import Decoder, Pixels
from fairtune.data.images import ImageFiles
from fairtune.data.layout import Images
from fairtune.data.spec import DatasetSpec
from fairtune.errors import DataError, FairtuneError, raise_all

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy", ".npz", ".dcm")


def image_files(given: Sequence[Path]) -> list[Path]:
    """Return the image files meant by files, folders and CSV tables with a column `image`.

    Paths in a table are relative to the table. Folders are read in alphabetical order, without
    their subfolders.

    Raises:
        DataError: A path does not exist, or nothing is left; all faults at once.
    """
    found: list[Path] = []
    problems: list[FairtuneError] = []
    for path in given:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        elif path.suffix.lower() in (".csv", ".tsv"):
            found += _listed(path, problems)
        elif path.is_file():
            found.append(path)
        else:
            problems.append(DataError("no such file or folder", where=path))
    problems += [DataError("no such image", where=p) for p in found if not p.is_file()]
    raise_all("images to predict", problems)
    if not found:
        raise DataError("no image files", found=[str(p) for p in given], allowed=SUFFIXES)
    return found


def decode_files(paths: Sequence[Path], spec: DatasetSpec, size: int, channels: int) -> Pixels:
    """Return `(n, size, size, channels)` uint8, decoded and resized as the data set says.

    Raises:
        DataError: An image cannot be read; all of them are named.
    """
    decoder = Decoder(spec.reader, spec.resize, size, channels)
    pixels: list[Pixels] = []
    problems: list[FairtuneError] = []
    for path in paths:
        files = ImageFiles.of(Images(name="{image}"), path.resolve().parent)
        try:
            pixels.append(decoder(files, path.name)[0])
        except FairtuneError as error:
            error.where = path
            problems.append(error)
    raise_all("images to predict", problems)
    return np.stack(pixels)


def _listed(path: Path, problems: list[FairtuneError]) -> list[Path]:
    import pandas as pd

    try:
        frame = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",", dtype=str)
    except (OSError, ValueError) as error:
        problems.append(DataError("cannot read the table", where=path, found=str(error)))
        return []
    if "image" not in frame:
        problems.append(
            DataError("no column `image`", where=path, found=[str(c) for c in frame.columns])
        )
        return []
    return [path.parent / name for name in frame["image"].dropna()]
