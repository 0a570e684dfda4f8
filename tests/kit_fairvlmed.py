"""A small set in the exact layout of Harvard-FairVLMed, made up: its data may not be shipped."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

COUNTS = {"Training": 24, "Validation": 12, "Test": 12}
# Neither the order of the data card nor that of the released code's columns 0 and 2.
COLUMNS = (
    "use", "gpt4_summary", "glaucoma", "note", "filename", "age", "gender", "race", "ethnicity",
    "language", "maritalstatus",
)  # fmt: skip
USES = {"Training": "training", "Validation": "validation", "Test": "test"}
LONG = "The optic nerve head shows thinning of the rim and the field a loss from above. " * 4


def fairvlmed(
    root: Path,
    counts: Mapping[str, int] = COUNTS,
    size: tuple[int, int] = (83, 64),
    scale: float = 255.0,
) -> Path:
    """Write the set to `root / "FairVLMed"` and return that folder.

    Glaucoma shows as a brighter disc, so that a model has something to learn. Every fourth row has
    unknown attributes; the first summary is longer than 180 characters and the third is empty.

    Args:
        root: A data root.
        counts: Files by folder.
        size: Height and width of the images; the real ones have (664, 512).
        scale: Brightest value.
    """
    folder = root / "FairVLMed"
    rows = []
    number = 0
    for part, count in counts.items():
        (folder / part).mkdir(parents=True)
        for _ in range(count):
            number += 1
            name = f"data_{number:05d}.npz"
            facts = _facts(number)
            np.savez(folder / part / name, **_arrays(facts, number, size, scale))
            rows.append(_row(facts, number, name, USES[part]))
    for file, columns in (
        ("data_summary.csv", COLUMNS),
        ("original_notes.csv", ("filename", "note")),
        ("gpt-4_summarized_notes.csv", ("filename", "note", "gpt4_summary")),
    ):
        with (folder / file).open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, columns, extrasaction="ignore")
            writer.writeheader()
            # The table is not sorted as the files are.
            writer.writerows(reversed(rows))
    return folder


def _facts(number: int) -> dict[str, int]:
    known = number % 4 != 0
    return {
        "age": 30 + number * 7 % 60,
        "gender": number // 2 % 2,
        "race": number % 3,
        "ethnicity": number % 5 % 2 if known else -1,
        "language": number % 3 if known else -1,
        "maritalstatus": number % 6 - 1,
        "glaucoma": number % 2,
    }


def _arrays(
    facts: Mapping[str, int], number: int, size: tuple[int, int], scale: float
) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    pixels = rng.uniform(0.1, 0.4, size)
    across = np.hypot(*np.ogrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j])
    pixels[across < 0.4] += 0.5 if facts["glaucoma"] else 0.2
    arrays = {name: np.array(value) for name, value in facts.items()}
    return {
        **arrays,
        # One element, as some files have it.
        "age": np.array([float(facts["age"])]),
        "slo_fundus": (pixels * scale).astype(np.float32),
        "md": np.array(-8.0 if facts["glaucoma"] else -0.5),
        "tds": rng.normal(size=52),
        "note": np.array(f"made-up note {number}"),
        "note_extra": np.array(f"age {facts['age']}: made-up note {number}"),
    }


def _row(facts: Mapping[str, int], number: int, name: str, use: str) -> dict[str, Any]:
    ill = bool(facts["glaucoma"])
    summary = f"Patient {number} has {'a cupped disc, glaucoma' if ill else 'a full field'}."
    return {
        **facts,
        "filename": name,
        "use": use,
        "glaucoma": "yes" if ill else "no",
        "note": f"made-up note {number}",
        "gpt4_summary": {1: LONG, 3: ""}.get(number, summary),
    }
