"""Pairs of images and texts: tiny chest X-rays, reports made of their table, a tiny model."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit import session, tiny_fields
from kit_language import write_pair

from fairtune.config import parse, shipped
from fairtune.config.yaml12 import dumps
from fairtune.training.recipe import Recipe
from fairtune.training.session import Session

TRAIN, VAL, TEST = 42, 24, 16
"""Rows of each split."""

PROMPTS = {
    "abnormal": {
        "templates": ["a chest x ray with {}", "{}"],
        "classes": {"normal": ["normal lungs"], "abnormal": ["disease", "fluid"]},
    },
    "kind": {
        "templates": ["an x ray with {}"],
        "classes": {"clear": "clear lungs", "fluid": "fluid", "other": "another finding"},
    },
    "signs": {
        "templates": ["an x ray with {}"],
        "classes": {
            "fluid": {"present": "fluid", "absent": "no fluid"},
            "large": {"present": "large heart", "absent": "normal heart"},
        },
    },
}
TARGETS = {
    "abnormal": {
        "column": "abnormal",
        "positive": 1,
        "negative": 0,
        "names": ["normal", "abnormal"],
    },
    "kind": {"column": "kind", "classes": ["clear", "fluid", "other"]},
    "signs": {"columns": ["fluid", "large"], "positive": 1, "negative": 0},
}


def write_data(folder: Path, alike: bool = False) -> Path:
    """Write a data set of real X-rays with reports below `folder`; return its spec.

    A report has a number, so that texts differ, sex, age and the findings.

    Args:
        folder: Where to; a data root of its own.
        alike: Reports name the findings alone, so that many are the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = shipped.root("configs") / "datasets" / "nih_cxr_64"
    if not (folder / "nih_cxr_64.zip").exists():
        os.symlink(source / "nih_cxr_64.zip", folder / "nih_cxr_64.zip")
    with (source / "nih_cxr_64.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["view"] == "AP"]
    left = {"train": TRAIN, "val": VAL, "test": TEST}
    kept = []
    for row in rows:
        if left[row["split"]]:
            left[row["split"]] -= 1
            kept.append(row | _said(row, len(kept), alike))
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
    path = folder / "pairs.yaml"
    path.write_text(dumps(_spec()))
    return path


def _said(row: dict[str, str], number: int, alike: bool) -> dict[str, str]:
    finding = row["findings"].lower().replace("|", " and ")
    sex = {"F": "female", "M": "male"}[row["sex"]]
    fluid, large = "Effusion" in row["findings"], "Cardiomegaly" in row["findings"]
    clear = row["findings"] == "No Finding"
    return {
        "report": finding if alike else f"{number} {sex} {row['age']} {finding}",
        "kind": "clear" if clear else "fluid" if fluid else "other",
        "fluid": str(int(fluid)),
        "large": str(int(large)),
    }


def _spec() -> dict[str, Any]:
    return {
        "title": "Chest X-rays with reports for tests",
        "licence": "none",
        "citation": "none",
        "link": "none",
        "layouts": [
            {
                "folders": ".",
                "tables": ["pairs.csv"],
                "images": {"at": "nih_cxr_64.zip", "name": "{image}"},
            }
        ],
        "augment": {"crop": 0.85, "rotate": 10, "brightness": 0.1, "contrast": 0.1},
        "id": "image",
        "patient": "patient_id",
        "text": {"column": "report"},
        "targets": TARGETS,
        "prompts": PROMPTS,
        "attributes": {
            "sex": {"column": "sex", "map": {"F": "F", "M": "M"}},
            "age": {"column": "age", "bins": {"edges": [60], "names": ["<60", "60+"]}},
        },
        "split": {"column": "split"},
    }


class Pairs:
    """The data set and the model on disk, and a session that finds them.

    Args:
        folder: Where they are written.
        alike: As of `write_data`.
        sizes: As of `kit_language.pair_fields`.
    """

    def __init__(self, folder: Path, alike: bool = False, **sizes: Any) -> None:
        self.data, self.model = write_data(folder / "data", alike), write_pair(folder, **sizes)
        self.session = self.another()

    def another(self, **changes: Any) -> Session:
        """Return one more session, which has nothing open."""
        made = session(**changes)
        made.data_roots = [self.data.parent]
        made.held = 8  # usages with and without texts have grounds of their own
        return made

    def fields(self, *members: Any, **changes: Any) -> dict[str, Any]:
        """Return the fields of a recipe of pairs; see `tiny_fields` for `changes`."""
        plain = {
            "usage": "contrastive",
            "adaptation__mask": "image.block:last-1,text.block:last-1,logit_scale",
            "optim__batch_size": 16,
            "data": {
                "dataset": str(self.data),
                "target": changes.pop("target", "abnormal"),
                "attributes": ["sex", "age"],
            },
            "model": {"name": str(self.model), "image_size": 32, "weights": "none"},
        }
        made = tiny_fields(**(plain | changes))
        if members:
            made["mitigations"] = list(members)
        return made

    def recipe(self, *members: Any, **changes: Any) -> Recipe:
        """Return a resolved recipe."""
        made = parse(Recipe, self.fields(*members, **changes))
        return self.session.resolve(made.attributed("sex"))


_MADE: dict[bool, Pairs] = {}


def shared(base: Path, alike: bool = False) -> Pairs:
    """Return the pairs of this session of tests, written below `base` at the first call."""
    if alike not in _MADE:
        _MADE[alike] = Pairs(base / f"pairs-{alike}", alike)
    return _MADE[alike]


MASKS: Sequence[str] = (
    "image.block:last-1",
    "text.block:last-1",
    "logit_scale",
    "image.block:last-1,text.block:last-1,logit_scale",
    "fullft",
)
"""Either tower, neither, both."""
