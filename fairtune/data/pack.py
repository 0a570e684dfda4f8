"""A table with its images decoded once, as one memory map that all processes share."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairtune import store
from fairtune.config import digest
from fairtune.data import decode, gatekeep, patients
from fairtune.data.decode import Decoder, Pixels
from fairtune.data.gatekeep import TestPass
from fairtune.data.split import PARTS
from fairtune.data.table import Table, group_codes, labels
from fairtune.data.values import IntArray
from fairtune.errors import ConfigError, DataError, FairtuneError, StorageError, raise_all
from fairtune.evaluation.predictions import Attribute, Predictions

IMAGES = "images.npy"
ROWS = "rows.parquet"
Progress = Callable[[int, int], None]
_CHUNK = 256
_LISTED = 100
_RESERVE = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Pack:
    """Images and columns of a table, by row. Test rows are locked without a `TestPass`.

    Attributes:
        table: The table it was made of, with raw ids: never export it.
        key: Digest of images, rows, size and decoding.
        folder: Where it lies.
        image_size: Height and width.
        channels: 1 or 3.
        cache: The cache's root, which keeps the key of the patient hashes.
    """

    table: Table
    key: str
    folder: Path
    image_size: int
    channels: int
    cache: Path

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def _pixels(self) -> Pixels:
        return np.asarray(np.load(self.folder / IMAGES, mmap_mode="r", allow_pickle=False))

    @cached_property
    def _split(self) -> npt.NDArray[np.str_]:
        return self.table.frame["split"].to_numpy(dtype=str)

    @cached_property
    def _labels(self) -> IntArray:
        return labels(self.table)

    @cached_property
    def _groups(self) -> IntArray:
        codes = [group_codes(self.table, name) for name in self.table.attributes]
        return np.stack(codes, axis=1) if codes else np.empty((len(self), 0), dtype=np.int64)

    @cached_property
    def patient_codes(self) -> IntArray:
        """`(n,)` numbers that say which rows share a patient, and nothing else."""
        return pd.factorize(self.table.frame["patient"])[0].astype(np.int64)

    @cached_property
    def image_hashes(self) -> npt.NDArray[np.str_]:
        """`(n,)` SHA-256 of each image file."""
        column = pd.read_parquet(self.folder / ROWS, columns=["sha256"])["sha256"]
        return column.to_numpy(dtype=str)

    @cached_property
    def index(self) -> pd.DataFrame:
        """What may be known of every row: `row`, `patient` code, `split`, `sha256`."""
        return pd.DataFrame(
            {
                "row": np.arange(len(self)),
                "patient": self.patient_codes,
                "split": self._split,
                "sha256": self.image_hashes,
            }
        )

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Train and val rows: `row`, `patient` code, `split`, labels, attributes; no raw ids."""
        keep = self.table.frame["split"] != "test"
        names = [*self.table.label_columns, *self.table.attributes]
        return self.index.drop(columns="sha256").join(self.table.frame[names])[keep]

    def rows(self, split: str, *, test_pass: TestPass | None = None) -> IntArray:
        """Return the row numbers of `split` in ascending order.

        Raises:
            StudyError: `split` is `test` and there is no pass for it.
            ConfigError: There is no split of that name.
        """
        if split not in PARTS:
            raise ConfigError("unknown split", found=split, allowed=PARTS)
        if split == "test":
            gatekeep.check(test_pass, self.table.split_hash)
        return np.flatnonzero(self._split == split)

    def images(self, rows: IntArray, *, test_pass: TestPass | None = None) -> Pixels:
        """Return `(len(rows), h, w, c)` uint8.

        Raises:
            StudyError: A test row without a pass.
        """
        return self._pixels[self._open(rows, test_pass)]

    def labels(self, rows: IntArray, *, test_pass: TestPass | None = None) -> IntArray:
        """Return `(len(rows),)` class codes, or `(len(rows), t)` of 0/1.

        Raises:
            StudyError: A test row without a pass.
        """
        return self._labels[self._open(rows, test_pass)]

    def groups(
        self,
        rows: IntArray,
        attribute: str | None = None,
        *,
        test_pass: TestPass | None = None,
    ) -> IntArray:
        """Return `(len(rows),)` codes of `attribute`, or `(len(rows), a)` of all; -1 = unknown.

        Raises:
            StudyError: A test row without a pass.
            ConfigError: The table has no such attribute.
        """
        codes = self._groups[self._open(rows, test_pass)]
        if attribute is None:
            return codes
        if attribute not in self.table.attributes:
            raise ConfigError("unknown attribute", found=attribute, allowed=self.table.attributes)
        return codes[:, self.table.attributes.index(attribute)]

    def attribute(
        self, rows: IntArray, name: str, *, test_pass: TestPass | None = None
    ) -> Attribute:
        """Return the groups of `rows` by an attribute, or by a crossing `A*B`.

        Raises:
            StudyError: A test row without a pass.
            ConfigError: The table has no such attribute.
        """
        single = [
            Attribute(part, self.group_names(part), self.groups(rows, part, test_pass=test_pass))
            for part in map(str.strip, name.split("*"))
        ]
        return functools.reduce(Attribute.cross, single)

    def group_names(self, attribute: str) -> tuple[str, ...]:
        """Return the group names of `attribute` in the order of their codes."""
        return self.table.spec.attribute(attribute).names

    def texts(self, rows: IntArray, *, test_pass: TestPass | None = None) -> list[str] | None:
        """Return the text of each row, or None when the data set has none.

        Raises:
            StudyError: A test row without a pass.
        """
        rows = self._open(rows, test_pass)
        if "text" not in self.table.frame:
            return None
        return [str(text) for text in self.table.frame["text"].to_numpy()[rows]]

    def patient_hashes(self) -> list[str]:
        """Return the keyed hash of each row's patient, for exported predictions."""
        key = patients.patient_key(self.cache)
        return patients.hashed(self.table.frame["patient"], self.table.spec.id_space, key)

    def predictions(
        self,
        rows: IntArray,
        score: npt.NDArray[np.floating],
        *,
        model: IntArray | None = None,
        test_pass: TestPass | None = None,
    ) -> Predictions:
        """Return the scores of `rows` with their labels, groups and patients.

        Args:
            rows: `(m,)` row numbers.
            score: `(m,)`, `(m, k)` or `(m, t)` as `Predictions` says.
            model: `(m,)` which model scored the row, where there are several.
            test_pass: Needed when `rows` has a test row.

        Raises:
            StudyError: A test row without a pass.
        """
        rows = self._open(rows, test_pass)
        codes = self.groups(rows, test_pass=test_pass)
        table = self.table
        return Predictions(
            label=self.labels(rows, test_pass=test_pass),
            score=np.asarray(score, dtype=np.float64),
            attributes={
                name: Attribute(name, self.group_names(name), codes[:, j])
                for j, name in enumerate(table.attributes)
            },
            patient=self.patient_codes[rows],
            row=rows,
            task=table.task,
            targets=table.classes if table.task == "multilabel" else (),
            model=np.empty(0, dtype=np.int64) if model is None else model,
        )

    def _open(self, rows: IntArray, test_pass: TestPass | None) -> IntArray:
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        if (self._split[rows] == "test").any():
            gatekeep.check(test_pass, self.table.split_hash)
        return rows


def open_pack(
    table: Table,
    *,
    image_size: int,
    channels: int = 3,
    cache: Path,
    cap_gib: float = 50.0,
    progress: Progress | None = None,
) -> Pack:
    """Return the pack of `table`, decoding its images if no one has yet.

    Args:
        table: Rows and image files.
        image_size: Height and width in pixels.
        channels: 3, or 1 for grey images (a third of the memory; a loader repeats the channel).
        cache: Root of the cache.
        cap_gib: Size above which packs used longest ago are removed.
        progress: Called with images done and images in all.

    Raises:
        DataError: An image is missing or cannot be read.
        Problems: Several are; all of them are listed.
        StorageError: The disk is full or cannot be written; nothing is left behind.
    """
    if image_size < 1 or channels not in (1, 3):
        raise ConfigError(
            "a pack needs image_size >= 1 and 1 or 3 channels", found=[image_size, channels]
        )
    key = pack_key(table, image_size, channels)
    decoder = Decoder(table.spec.reader, table.spec.resize, image_size, channels)

    def make(folder: Path) -> None:
        _make(folder, table, decoder, progress)

    folder = store.get_or_make("packs", key, make, root=cache, cap_gib=cap_gib)
    return Pack(table, key, folder, image_size, channels, cache)


def pack_key(table: Table, image_size: int, channels: int) -> str:
    """Return the digest of all that determines a pack's files: not of labels, groups or split."""
    frame = table.frame
    return digest(
        {
            "protocol": decode.PROTOCOL,
            "rows": [frame[name].tolist() for name in ("id", "patient", "image")],
            "marks": list(table.marks),
            "reader": table.spec.to_json()["reader"],
            "resize": table.spec.resize,
            "size": [image_size, channels],
        }
    )


def _make(folder: Path, table: Table, decoder: Decoder, progress: Progress | None) -> None:
    shape = (len(table), decoder.size, decoder.size, decoder.channels)
    _check_space(folder, int(np.prod(shape)))
    hashes: list[str] = []
    problems: list[FairtuneError] = []
    with (folder / IMAGES).open("wb") as file:
        _header(file, shape)
        for done, result in enumerate(_decoded(table, decoder), 1):
            if isinstance(result, FairtuneError):
                problems.append(result)
            elif not problems:
                # Written, not mapped: a full disk is then an error, where a map would kill us.
                file.write(result[0].tobytes())
                hashes.append(result[1])
            if progress is not None:
                progress(done, len(table))
        raise_all(f"images of dataset {table.spec.name}", _shortened(problems))
        file.flush()
        os.fsync(file.fileno())
    frame = table.frame[["id", "patient", "image"]].astype(str).assign(sha256=hashes)
    frame.to_parquet(folder / ROWS, index=False)


def _decoded(table: Table, decoder: Decoder) -> Iterator[tuple[Pixels, str] | FairtuneError]:
    """Yield the result of every row in order; threads do, as decoding releases the GIL."""
    names = table.frame["image"].tolist()

    def one(item: tuple[int, str]) -> tuple[Pixels, str] | FairtuneError:
        row, name = item
        try:
            return decoder(table.files, name)
        except FairtuneError as error:
            error.where = f"{table.origin.row(row)} (image {name})"
            return error

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(names), _CHUNK):
            yield from pool.map(one, enumerate(names[start : start + _CHUNK], start))


def _header(file: BinaryIO, shape: Sequence[int]) -> None:
    head = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, head)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + _RESERVE:
        raise StorageError(
            "the disk is too full for the pack",
            where=folder.parent,
            found=f"{free // 2**20} MiB free",
            allowed=f"at least {(needed + _RESERVE) // 2**20} MiB",
            todo="free space, point FAIRTUNE_CACHE at a larger disk, or take a smaller image_size",
        )


def _shortened(problems: list[FairtuneError]) -> list[FairtuneError]:
    if len(problems) <= _LISTED:
        return problems
    rest = DataError(f"and {len(problems) - _LISTED} more images cannot be read")
    return [*problems[:_LISTED], rest]
