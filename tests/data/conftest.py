"""A fixture that writes the tiny data set of `kit_data`, changed as a test asks."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit_data import HEADER, ROWS, png, spec_of

from fairtune.data import DatasetSpec, load_spec

Make = Callable[..., DatasetSpec]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write the tiny data set, changed as asked, and return its spec."""

    def write(
        rows: list[str] | None = None, header: str = HEADER, archive: bool = False, **changes: Any
    ) -> DatasetSpec:
        rows = ROWS if rows is None else rows
        (tmp_path / "rows.csv").write_text("\n".join([header, *rows]) + "\n")
        names = [f"a{i}.png" for i in range(len(ROWS))]
        if archive:
            with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
                for i, name in enumerate(names):
                    file.writestr(name, png(i))
        else:
            (tmp_path / "images").mkdir(exist_ok=True)
            for i, name in enumerate(names):
                (tmp_path / "images" / name).write_bytes(png(i))
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(spec_of(**changes), sort_keys=False))
        return load_spec(str(path))

    return write
