"""Where the files of a data set lie: its metadata tables, what is joined to them, its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic

from fairtune.config import Config
from fairtune.config.model import carried
from fairtune.data.values import Scalar
from fairtune.errors import ConfigError

FILE, FILENAME = "file", "filename"


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


Words = Annotated[tuple[str, ...], pydantic.BeforeValidator(_listed)]


def _as_file(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


def _kind(value: Any) -> str:
    # Neither tag is a key of a table, so that messages name the field and not the tag.
    npz = "npz" in value if isinstance(value, Mapping) else isinstance(value, NpzFiles)
    return "<npz>" if npz else "<file>"


class MetadataFile(Config):
    """One file of metadata rows.

    Attributes:
        file: Path below the folder of the layout; .csv, .tsv (each also .gz) or .parquet.
        set: Columns to add with one value for all rows of this file.
    """

    file: str
    set: Mapping[str, Scalar] = {}

    @property
    def place(self) -> str:
        """The file, below the folder of the layout."""
        return self.file

    def there(self, folder: Path) -> bool:
        """Tell whether the file lies below `folder`."""
        return (folder / self.file).is_file()


class NpzFiles(Config):
    """Many `.npz` files that are a row of metadata each, as they hold it beside the image.

    The row has a column for each of `keys`, `file` (the path below the folder of the layout) and
    `filename` (its last part). Rows stand in the order of their paths.

    Attributes:
        npz: Files below the folder of the layout; `*` stands for any part of a name, `**` for any
            folders.
        keys: Arrays of one element that are read; others, as the image, are left alone.
        set: Columns to add with one value for all rows of these files.
    """

    npz: str
    keys: Words = pydantic.Field(min_length=1)
    set: Mapping[str, Scalar] = {}

    @pydantic.model_validator(mode="after")
    def _inside(self) -> NpzFiles:
        if not self.npz.strip() or Path(self.npz).is_absolute() or ".." in Path(self.npz).parts:
            problem = ConfigError(
                "files of a layout lie below its folder", found=self.npz, allowed="e.g. '*.npz'"
            )
            raise carried(problem, "npz")
        taken = sorted({FILE, FILENAME} & {*self.keys, *self.set})
        if taken or len(set(self.keys)) < len(self.keys):
            what = "these columns are made of the path" if taken else "a key stands twice"
            raise carried(ConfigError(what, found=taken or self.keys), "keys")
        return self

    @property
    def place(self) -> str:
        """The files, below the folder of the layout."""
        return self.npz

    def there(self, folder: Path) -> bool:
        """Tell whether there is such a file below `folder`."""
        return folder.is_dir() and next(folder.glob(self.npz), None) is not None


Rows = Annotated[
    Annotated[MetadataFile, pydantic.Tag("<file>")] | Annotated[NpzFiles, pydantic.Tag("<npz>")],
    pydantic.Discriminator(_kind),
    pydantic.BeforeValidator(_as_file),
]


class Join(Config):
    """A second table whose columns are added by a key.

    Attributes:
        file: Path below the folder of the layout.
        on: Column in both; unique in `file`.
        columns: Columns to take; all when absent.
    """

    file: str
    on: str
    columns: tuple[str, ...] | None = None


class Images(Config):
    """Where the image files lie.

    Attributes:
        name: File name of a row with columns in braces, e.g. `{image_id}.jpg`.
        at: Folders or .zip files below the folder of the layout, looked through in order;
            those that do not exist are passed over. `.` is the folder itself.
    """

    name: str
    at: Words = (".",)


class Layout(Config):
    """One way in which the files may lie on disk.

    Attributes:
        folders: Candidate folders below a data root; `.` is the root itself.
        tables: Metadata files, whose rows are put one after the other.
        joins: Further tables joined by key, in order.
        images: Where the images are.
        shipped: Also look among the files that come with fairtune.
    """

    folders: Words
    tables: tuple[Rows, ...]
    joins: tuple[Join, ...] = ()
    images: Images
    shipped: bool = False
