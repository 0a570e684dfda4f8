"""Image files in folders and zip archives, read by a name from an untrusted table."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from fairtune.data.layout import Images
from fairtune.errors import DataError

_PROBE = 16 * 1024
_MAX_BYTES = 2**30
_THREADS = 8


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """The places in which a layout's images lie.

    Attributes:
        places: Existing folders and zip files, in the order of search.
        looked: Every place that was looked at, for messages.
    """

    places: tuple[Path, ...]
    looked: tuple[Path, ...]
    _zips: dict[Path, zipfile.ZipFile] = field(default_factory=dict, repr=False)
    _names: dict[Path, frozenset[str]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, images: Images, folder: Path) -> ImageFiles:
        """Return the places of `images` below `folder`."""
        looked = tuple(folder if at == "." else folder / at for at in images.at)
        return cls(tuple(path for path in looked if path.exists()), looked)

    def marks(self, names: Sequence[str]) -> list[str | None]:
        """Return a short text per file that changes with its content; None where it is missing.

        In an archive this is the stored CRC-32 and size. In a folder it is the size and a digest
        of the first, middle and last 16 KiB: reading whole folders would cost more than what the
        mark guards against. Time stamps play no part, so a copy has equal marks.

        Raises:
            DataError: A name leads out of the data set's folder.
        """
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(self._mark, names))

    def read(self, name: str) -> bytes:
        """Return the content of the image file `name`.

        Raises:
            DataError: There is no such file, its archive is damaged, or `name` leads out of the
                data set's folder.
        """
        place = self._find(name)
        if place is None:
            raise DataError(
                "no such image file", found=name, allowed=[str(p) for p in self.looked]
            )
        if isinstance(place, Path):
            return place.read_bytes()
        archive, member = place
        return archive.read(member)

    def _mark(self, name: str) -> str | None:
        place = self._find(name)
        if place is None:
            return None
        if not isinstance(place, Path):
            return f"{place[1].CRC:08x}-{place[1].file_size}"
        size = place.stat().st_size
        sample = hashlib.blake2b(digest_size=12)
        with place.open("rb") as file:
            for start in (0, max(0, size // 2 - _PROBE // 2), max(0, size - _PROBE)):
                file.seek(start)
                sample.update(file.read(_PROBE))
        return f"{sample.hexdigest()}-{size}"

    def _find(self, name: str) -> Path | tuple[zipfile.ZipFile, zipfile.ZipInfo] | None:
        check_name(name)
        for place in self.places:
            if place.is_dir():
                path = _inside(place, name)
                if path is not None:
                    return path
            elif name in self._members(place):
                archive = self._zips[place]
                info = archive.getinfo(name)
                if info.file_size > _MAX_BYTES:
                    raise DataError(
                        "the image is too large",
                        where=f"{place}:{name}",
                        found=info.file_size,
                        allowed=f"at most {_MAX_BYTES} bytes",
                    )
                return archive, info
        return None

    def _members(self, place: Path) -> frozenset[str]:
        if place not in self._names:
            try:
                archive = zipfile.ZipFile(place)
            except (zipfile.BadZipFile, OSError) as error:
                raise DataError("not a readable zip file", where=place, found=str(error)) from None
            self._zips.setdefault(place, archive)
            self._names[place] = frozenset(self._zips[place].namelist())
        return self._names[place]


def check_name(name: str) -> None:
    """Refuse a file name that could lead out of the folder it is looked up in.

    Raises:
        DataError: The name is empty, absolute, has a part `..`, or is written with backslashes.
    """
    parts = name.split("/")
    away = name.startswith(("/", "~")) or ".." in parts or "\\" in name or "\0" in name
    if away or not parts[-1].strip():
        raise DataError(
            "an image name may not lead out of the data set's folder",
            found=name,
            allowed="a relative path with forward slashes and without '..'",
        )
    if ":" in parts[0]:
        raise DataError("an image name may not name a drive or a URL", found=name)


def _inside(folder: Path, name: str) -> Path | None:
    path = folder / name
    if not path.is_file():
        return None
    real, base = os.path.realpath(path), os.path.realpath(folder)
    if os.path.commonpath([real, base]) != base:
        raise DataError(
            "an image is a link that leads out of the data set's folder",
            where=folder,
            found=name,
            todo="copy the file, or name the folder it lies in under images.at",
        )
    return path
