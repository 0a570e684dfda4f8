"""A small data set of images with texts and prompts, for the tiny model of `kit_language`."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
from kit_language import SIDE, write_pair
from PIL import Image

from fairtune.config.yaml12 import dumps

PARTS = {"train": 48, "val": 48, "test": 32}
PROMPTS: dict[str, Any] = {
    "ill": {
        "templates": ["a photo of {}", "an x ray of {}"],
        "classes": {"not ill": ["clear lungs"], "ill": ["fluid", "a large heart"]},
    }
}


def spec_fields(**changes: Any) -> dict[str, Any]:
    """Return the dataset spec as values; a top key replaces, `None` removes it."""
    made: dict[str, Any] = {
        "title": "Images with texts for tests",
        "licence": "none",
        "citation": "none",
        "link": "https://example.org",
        "layouts": [
            {
                "folders": ".",
                "tables": ["rows.csv"],
                "images": {"at": ["images"], "name": "{image}.png"},
            }
        ],
        "id": "image",
        "patient": "image",
        "text": {"column": "note", "missing": "drop"},
        "prompts": PROMPTS,
        "targets": {"ill": {"column": "ill", "positive": 1, "negative": 0}},
        "attributes": {"sex": {"column": "sex", "map": {"F": "F", "M": "M"}}},
        "split": {"column": "split"},
    }
    made |= copy.deepcopy(changes)
    return {key: value for key, value in made.items() if value is not None}


def write_data(folder: Path, *, bare: int = 0, seed: int = 0, **changes: Any) -> Path:
    """Write images, table and dataset spec below `folder`; return the spec's path.

    Ill patients have brighter images, and texts that say so.

    Args:
        folder: Where they go.
        bare: Training rows without a text.
        seed: Of the images.
        changes: See `spec_fields`.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng, lines = np.random.default_rng(seed), ["image,note,ill,sex,split"]
    for part, count in PARTS.items():
        for number in range(count):
            ill, name = number % 2, f"{part}{seed}-{number}"
            note = "fluid , large heart" if ill else "clear lungs , normal heart"
            note = "" if part == "train" and number < bare else f'"{note} , finding {number}"'
            lines.append(f"{name},{note},{ill},{'FM'[number // 2 % 2]},{part}")
            pixels = rng.normal(110 + 30 * ill, 40, (SIDE, SIDE, 3)).clip(0, 255)
            out = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(out, "PNG")
            (folder / "images" / f"{name}.png").write_bytes(out.getvalue())
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    path = folder / "pairs.yaml"
    path.write_text(dumps(spec_fields(**changes)))
    return path


def recipe_fields(folder: Path, usage: Any = "zero_shot", **changes: Any) -> dict[str, Any]:
    """Return the fields of a recipe on data and model below `folder`, written where absent.

    Args:
        folder: Holds, or gets, `data/` and `model/`.
        usage: The usage.
        changes: A part of the recipe by name; what it does not name stays.
    """
    data, model = folder / "data" / "pairs.yaml", folder / "model" / "tiny_pair.yaml"
    if not data.is_file():
        write_data(data.parent)
    if not model.is_file():
        write_pair(model.parent)
    made: dict[str, Any] = {
        "data": {"dataset": str(data), "target": "ill", "attributes": ["sex"]},
        "model": {"name": str(model), "image_size": SIDE, "weights": "none"},
        "usage": usage,
        "optim": {"epochs": 2, "batch_size": 16},
        "fit": {"precision": "fp32"},
    }
    for part, fields in changes.items():
        held = made.get(part)
        made[part] = {**held, **fields} if isinstance(held, dict) else fields
    return made


def study_fields(folder: Path, usage: Any = "contrastive", **changes: Any) -> dict[str, Any]:
    """Return a study file on them as values; a top key replaces, `None` removes it."""
    made: dict[str, Any] = {
        "name": "pairs",
        "recipe": recipe_fields(folder, usage),
        "space": {
            "optim.lr": {"float": [1e-4, 1e-2], "log": True},
            "adaptation.mask": {"one_of": ["image.block:last-1", "text.block:last-1"]},
        },
        "objectives": ["worst_auc@sex"],
        "validation": {"min_group": {"n": 5, "positives": 2, "negatives": 2}},
        "budget": {"trials": 3},
        "sampler": "random",
        "pruner": "none",
        "confirm": {"top": 1, "seeds": 2},
    }
    made |= copy.deepcopy(changes)
    return {key: value for key, value in made.items() if value is not None}
