"""Plant a bias whose size is known: `python tests/bench/planted.py OUT --source DIR`.

A mitigation can be seen to mitigate only where it is known what there is to mitigate. `plant`
takes real images and puts a coloured square, as a sticker would be, into a corner of some of them.
Patients are divided at random into two groups. In the group `marked` half of the images of the
test have the square, whatever their label. In training, and in the validation of the arm
`biased`, its positives have it with probability (1 + strength) / 2, its negatives with
(1 - strength) / 2. A model that learns the square reads it in place of the lesion, and is
wrong about that group alone; its validation says so in the arm `unbiased` only.

- The groups differ in nothing but the square: a random half, not an attribute of people, so that
  at strength 0 the gap is one of chance. Both have equally many positives and negatives in every
  split, so the label says nothing of the group.
- The group `plain` never has the square. If half of its images had it, a model that reads the
  square would be wrong about both groups alike, and there would be no gap: nothing in the images
  tells a random half from the other. `elsewhere="half"` makes that control.
- Assignment is by rank, not by draw: a cell of n rows has round(n x rate) squares. Ranks follow
  from seed and patient alone, so the marked images of a smaller strength are (of the positives)
  among those of a larger one, training and test are the same in both arms, and the test is the
  same at every strength.
- One image of each patient. The base rate, 40 % at the default sizes, is not the natural one.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from fairtune.data.decode import Decoder, Pixels
from fairtune.data.spec import load_spec
from fairtune.data.split import PARTS
from fairtune.data.table import Table, load_table

Arm = Literal["biased", "unbiased"]
Elsewhere = Literal["never", "half"]
ARMS: tuple[Arm, ...] = ("biased", "unbiased")
GROUPS = ("marked", "plain")

SIZES = {"train": (360, 540), "val": (180, 272), "test": (288, 432)}
"""Positives and negatives of each split, both groups together: HAM10000 has 835 positives."""

SIDE = 112
"""Side of the images that are written, in pixels."""

STAMP = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Marker:
    """A filled square near the lower left corner.

    Attributes:
        side: Its side as a share of the image's; the area is the square of that.
        margin: Its distance from both edges as a share of the image's side.
        colour: Red, green and blue.
    """

    side: float = 0.2
    margin: float = 0.0
    colour: tuple[int, int, int] = (20, 110, 200)

    def on(self, pixels: Pixels) -> Pixels:
        """Return a copy of `(side, side, 3)` pixels with the square."""
        size = len(pixels)
        side, margin = round(self.side * size), round(self.margin * size)
        out = pixels.copy()
        out[size - margin - side : size - margin, margin : margin + side] = self.colour
        return out


@dataclass(frozen=True)
class Plan:
    """How a bias is planted; see the module.

    Attributes:
        strength: 0 (the marker says nothing) to 1 (in training it is the label, in its group).
        arm: Whether validation has the bias of training, or none.
        seed: Which patients, which split, which group, which marker.
        elsewhere: Whether the group `plain` has the marker never, or in half of its images.
        sizes: Positives and negatives of each split, both even.
        marker: What is drawn.
        side: Side of the written images.
    """

    strength: float
    arm: Arm
    seed: int
    elsewhere: Elsewhere = "never"
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=lambda: SIZES)
    marker: Marker = Marker()
    side: int = SIDE

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1 or self.arm not in ARMS:
            raise ValueError(f"no such bias: strength {self.strength}, arm {self.arm}")
        if tuple(self.sizes) != PARTS or any(n % 2 for pair in self.sizes.values() for n in pair):
            raise ValueError(f"sizes are even and of {PARTS}, not {dict(self.sizes)}")

    def rate(self, split: str, group: str, label: int) -> float:
        """Return the share of a cell that has the marker."""
        if group == "plain":
            return 0.5 if self.elsewhere == "half" else 0.0
        biased = split == "train" or (split == "val" and self.arm == "biased")
        tilt = self.strength if biased else 0.0
        return (1 + tilt if label else 1 - tilt) / 2


def plant(
    source: Path,
    out: Path,
    *,
    strength: float,
    arm: Arm,
    seed: int,
    dataset: str = "ham10000",
    target: str = "malignant",
    **more: Any,
) -> pd.DataFrame:
    """Write a data set with a planted bias: `images.zip`, `planted.csv` and `planted.yaml`.

    Equal arguments give equal bytes (with the same Pillow).

    Args:
        source: Data root below which the source lies.
        out: Folder to write into; made if need be.
        strength: 0 to 1.
        arm: Of validation: `biased` as training is, or `unbiased`.
        seed: Everything that is drawn follows from it and the patients' ids.
        dataset: Dataset spec of the source.
        target: Its binary target.
        more: Further fields of `Plan`.

    Returns:
        The rows of planted.csv.

    Raises:
        ValueError: The source has too few patients, or there is no such bias.
    """
    plan = Plan(strength, arm, seed, **more)
    table = load_table(load_spec(dataset), target=target, attributes=(), roots=(source,))
    rows = assigned(table.frame, plan)
    out.mkdir(parents=True, exist_ok=True)
    draw(table, rows, plan, out / "images.zip")
    rows = rows.drop(columns="image")
    rows.to_csv(out / "planted.csv", index=False, lineterminator="\n")
    (out / "planted.yaml").write_text(
        yaml.safe_dump(described(table, plan), sort_keys=False, allow_unicode=True),
        encoding="utf-8",
    )
    return rows


def assigned(frame: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return one row per drawn patient: `image_id, image, patient, label, group, marker, split`.

    Patients of a class stand in the order of a hash; slices of it are the splits, its even and odd
    places the groups, and in each cell the first have the marker.
    """
    one = frame[["id", "image", "patient", "label"]].copy()
    one["hash"] = [hashed(plan.seed, f"{p}/{i}") for p, i in zip(one["patient"], one["id"])]
    one = one.sort_values("hash").drop_duplicates("patient")
    one["hash"] = [hashed(plan.seed, patient) for patient in one["patient"]]
    one = one.sort_values("hash")
    parts = []
    for label in (1, 0):
        members, start = one[one["label"] == label], 0
        for split in PARTS:
            n = plan.sizes[split][1 - label]
            held = members.iloc[start : start + n]
            if len(held) < n:
                raise ValueError(f"{len(members)} patients with label {label} are too few")
            start += n
            for offset, group in enumerate(GROUPS):
                cell = held.iloc[offset::2]
                marked = round(len(cell) * plan.rate(split, group, label))
                marker = (np.arange(len(cell)) < marked).astype(int)
                parts.append(cell.assign(group=group, marker=marker, split=split))
    rows = pd.concat(parts).sort_index().rename(columns={"id": "image_id"})
    return rows.drop(columns="hash").reset_index(drop=True)


def hashed(seed: int, text: str) -> str:
    """Return what orders patients and images."""
    return hashlib.sha256(f"planted:{seed}:{text}".encode()).hexdigest()


def draw(table: Table, rows: pd.DataFrame, plan: Plan, file: Path) -> None:
    """Write the images of `rows`, `{image_id}.jpg`, nothing in the archive depending on time."""
    decode = Decoder(table.spec.reader, table.spec.resize, plan.side, 3)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, image, marker in zip(rows["image_id"], rows["image"], rows["marker"]):
            pixels, _ = decode(table.files, image)
            held = io.BytesIO()
            shown = Image.fromarray(plan.marker.on(pixels) if marker else pixels)
            shown.save(held, "JPEG", quality=95, subsampling=0)
            info = zipfile.ZipInfo(f"{name}.jpg", STAMP)
            info.create_system = 3
            archive.writestr(info, held.getvalue())


def described(table: Table, plan: Plan) -> dict[str, Any]:
    """Return the dataset spec."""
    how = f"strength {plan.strength:g}, {plan.arm} validation, seed {plan.seed}"
    return spec_of(
        table,
        "one image of each drawn patient, base rates not natural, a marker painted into some "
        f"images ({how})",
        "planted.csv",
        {
            "group": {"column": "group", "map": {name: name for name in GROUPS}},
            "marker": {"column": "marker", "map": {"with": 1, "without": 0}},
        },
    )


def spec_of(
    table: Table, changed: str, file: str, attributes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the dataset spec of a changed copy: images in `images.zip`, rows in `file`.

    Args:
        table: What was copied.
        changed: What was changed, in words.
        file: The table of the copy.
        attributes: Its attributes.
    """
    spec = table.spec
    written = spec.to_json()
    kept = ("licence", "citation", "link", "acknowledgement", "flip", "augment")
    return {
        "title": f"{spec.title}; changed: {changed}",
        **{name: written[name] for name in kept if written.get(name) is not None},
        "layouts": [
            {
                "folders": ["."],
                "tables": [file],
                "images": {"at": "images.zip", "name": "{image_id}.jpg"},
            }
        ],
        "id": "image_id",
        "patient": "patient",
        "patient_ids": spec.id_space,
        "targets": {
            table.target: {
                "column": "label",
                "positive": 1,
                "negative": 0,
                "names": list(table.classes),
            }
        },
        "attributes": {name: dict(rule) for name, rule in attributes.items()},
        "split": {"column": "split"},
    }


def main() -> None:
    """Plant both arms below a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the arms")
    parser.add_argument("--source", type=Path, required=True, help="data root of the source")
    parser.add_argument("--strength", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dataset", default="ham10000")
    parser.add_argument("--target", default="malignant")
    options = parser.parse_args()
    for arm in ARMS:
        rows = plant(
            options.source,
            options.out / arm,
            strength=options.strength,
            arm=arm,
            seed=options.seed,
            dataset=options.dataset,
            target=options.target,
        )
        counts = pd.crosstab([rows["split"], rows["group"]], [rows["label"], rows["marker"]])
        sys.stdout.write(f"{arm}\n{counts}\n")


if __name__ == "__main__":
    main()
