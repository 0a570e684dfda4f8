"""Where a data set lies: the roots given, then the files that come with fairtune."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairtune.config import settings
from fairtune.config import shipped as shipped_files
from fairtune.data.layout import Layout
from fairtune.data.spec import DatasetSpec
from fairtune.errors import DataError


@dataclass(frozen=True)
class Found:
    """A layout and the folder in which its tables are.

    Attributes:
        layout: The layout whose tables are all there.
        folder: The folder they lie in.
    """

    layout: Layout
    folder: Path


def data_roots(given: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Return the folders to search: `given` (`--data-root`), then `FAIRTUNE_DATA`."""
    return (*(path.expanduser() for path in given), *settings().data)


def find(spec: DatasetSpec, roots: Sequence[Path]) -> Found:
    """Return where `spec`'s files lie.

    Roots are searched in order, then the folder of the spec's own file, then what is shipped.

    Raises:
        DataError: Nowhere; the message names every folder looked at and what it lacked.
    """
    looked: list[str] = []
    for layout, folder in _candidates(spec, roots):
        lacking = [table.place for table in layout.tables if not table.there(folder)]
        if not lacking:
            return Found(layout, folder)
        line = f"{folder} ({'no such folder' if not folder.is_dir() else f'no {lacking[0]}'})"
        looked += [line] if line not in looked else []
    raise DataError(
        f"the files of dataset '{spec.name}' were not found",
        found="looked at " + "; ".join(looked) if looked else "no folder to look at",
        todo=f"get it from {spec.link} and name its parent folder with --data-root or "
        "FAIRTUNE_DATA",
    )


def _candidates(spec: DatasetSpec, roots: Sequence[Path]) -> Iterator[tuple[Layout, Path]]:
    places = [*roots, *([spec.home] if spec.home is not None else [])]
    for root in places:
        for layout in spec.layouts:
            for folder in layout.folders:
                yield layout, (root if folder == "." else root / folder)
    for layout in spec.layouts:
        if layout.shipped:
            for folder in layout.folders:
                yield layout, shipped_files.root("configs") / "datasets" / folder
