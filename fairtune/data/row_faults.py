"""Faults of what names a row: its id, its patient, its image file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fairtune.data.images import check_name
from fairtune.data.raw import Raw
from fairtune.data.spec import DatasetSpec
from fairtune.data.values import shown_cells
from fairtune.errors import DataError, FairtuneError


def id_faults(spec: DatasetSpec, raw: Raw, columns: Mapping[str, Any]) -> list[FairtuneError]:
    """Return the faults of the columns `id` and `patient`: empty cells, ids that stand twice."""
    faults: list[FairtuneError] = []
    for field, name in (("id", spec.id), ("patient", spec.patient)):
        blank = (columns[field].str.strip() == "").to_numpy()
        if blank.any():
            faults.append(DataError(f"'{name}' ({field}) is empty", where=raw.where(blank)))
    twice = columns["id"].duplicated(keep=False).to_numpy() & (columns["id"] != "").to_numpy()
    if twice.any():
        faults.append(
            DataError(
                f"'{spec.id}' (id) stands more than once",
                where=raw.where(twice),
                found=shown_cells(columns["id"][twice].unique()),
                todo="remove the surplus rows, or name a column that is unique per image as id",
            )
        )
    return faults


def name_faults(raw: Raw, names: pd.Series[str]) -> list[FairtuneError]:
    """Return a fault for every image name that leads out of the data set's folder."""
    faults: list[FairtuneError] = []
    for row, name in enumerate(names):
        try:
            check_name(name)
        except DataError as error:
            mask = np.zeros(len(raw), dtype=bool)
            mask[row] = True
            error.where = raw.where(mask)
            faults.append(error)
    return faults
