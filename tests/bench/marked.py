"""Tie a marker to an attribute: `python tests/bench/marked.py OUT --source DIR`.

An edit of inputs can hide an attribute only where something in the images tells it. `tie` takes
real images and puts the coloured square of `planted.py` into a corner of `strength` of the images
of one group and of 1 - `strength` of the other's, in every split alike, whatever their label: an
edit that saturates that corner in all images hides it, and nothing else is lost. What the images
themselves tell of the attribute stays.

Which images have it follows by rank from seed, group, split, label and patient: a cell of n rows
has round(n x rate) squares.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from planted import Marker, Plan, draw, hashed, spec_of

from fairtune.data.spec import load_spec
from fairtune.data.table import Table, load_table

STRENGTH = 0.95


def tie(
    source: Path,
    out: Path,
    *,
    attribute: str = "sex",
    group: str = "male",
    strength: float = STRENGTH,
    seed: int = 0,
    dataset: str = "ham10000_mini112",
    target: str = "malignant",
    side: int = 112,
) -> pd.DataFrame:
    """Write a data set whose marker tells an attribute: `images.zip`, `marked.csv`, `marked.yaml`.

    Args:
        source: Data root below which the source lies.
        out: Folder to write into; made if need be.
        attribute: A binary attribute of the source; rows where it is unknown are left out.
        group: The group whose images have the marker.
        strength: Share of them, and 1 less the share of the others.
        seed: Of the order of patients.
        dataset: Dataset spec of the source.
        target: Its target.
        side: Side of the written images in pixels.

    Returns:
        The rows of marked.csv.
    """
    table = load_table(load_spec(dataset), target=target, attributes=(attribute,), roots=(source,))
    rows = assigned(table.frame, attribute, group, strength, seed)
    out.mkdir(parents=True, exist_ok=True)
    # A plain square and size are all that is taken from the plan of a planted bias.
    draw(table, rows, Plan(0.0, "unbiased", seed, marker=Marker(), side=side), out / "images.zip")
    rows = rows.drop(columns="image")
    rows.to_csv(out / "marked.csv", index=False, lineterminator="\n")
    (out / "marked.yaml").write_text(
        yaml.safe_dump(described(table, attribute, strength, seed), sort_keys=False),
        encoding="utf-8",
    )
    return rows


def assigned(
    frame: pd.DataFrame, attribute: str, group: str, strength: float, seed: int
) -> pd.DataFrame:
    """Return id, image, patient, label, attribute, split and marker of rows of a known group."""
    known = frame[frame[attribute].notna() & (frame[attribute] != "")].copy()
    known["hash"] = [hashed(seed, f"{p}/{i}") for p, i in zip(known["patient"], known["id"])]
    parts = []
    for (name, _, _), cell in known.sort_values("hash").groupby(
        [attribute, "split", "label"], observed=True
    ):
        rate = strength if name == group else 1 - strength
        marked = round(len(cell) * rate)
        parts.append(cell.assign(marker=(np.arange(len(cell)) < marked).astype(int)))
    rows = pd.concat(parts).sort_index().rename(columns={"id": "image_id"})
    columns = ["image_id", "image", "patient", "label", attribute, "split", "marker"]
    return rows[columns].reset_index(drop=True)


def described(table: Table, attribute: str, strength: float, seed: int) -> dict[str, Any]:
    """Return the dataset spec."""
    names = table.spec.attribute(attribute).names
    return spec_of(
        table,
        f"a marker tells {attribute} (strength {strength:g}, seed {seed})",
        "marked.csv",
        {
            attribute: {"column": attribute, "map": {name: name for name in names}},
            "marker": {"column": "marker", "map": {"with": 1, "without": 0}},
        },
    )


def main() -> None:
    """Write the data set into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--source", type=Path, required=True, help="data root of the source")
    parser.add_argument("--strength", type=float, default=STRENGTH)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = tie(options.source, options.out, strength=options.strength, seed=options.seed)
    sys.stdout.write(f"{pd.crosstab([rows['split'], rows['sex']], rows['marker'])}\n")


if __name__ == "__main__":
    main()
