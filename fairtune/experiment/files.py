"""How the files of a run's folder are written."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from fairtune.adaptation.placement import DIRECT
from fairtune.training.ground import Ground
from fairtune.training.job import RunResult
from fairtune.training.recipe import Recipe


def mask_text(recipe: Recipe, ground: Ground) -> str:
    """Return the masked units, one a line, with their method where it is not `direct`."""
    mask = ground.mask(recipe)
    methods = {
        unit: placed.name
        for placed in recipe.adaptation.method.placements(mask.units, ground.units)
        for unit in placed.units
        if placed.name != DIRECT
    }
    return "\n".join(f"{unit} {methods.get(unit, '')}".rstrip() for unit in mask.units) + "\n"


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table of a run."""
    # Through bytes, like every file of a run: the libraries' own writers hide that a disk is full.
    path.write_bytes(frame.to_parquet(index=False))


def epochs_frame(result: RunResult) -> pd.DataFrame:
    """Return one row per epoch: its losses, seconds and images."""
    return pd.DataFrame(
        {
            "epoch": [e.number for e in result.epochs],
            "train_loss": [e.train_loss for e in result.epochs],
            "val_loss": [e.val_loss for e in result.epochs],
            "seconds": [e.seconds for e in result.epochs],
            "images": [e.images for e in result.epochs],
        }
    )


def write_json(path: Path, data: object) -> None:
    """Write `data` as indented JSON; NaN is refused."""
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
