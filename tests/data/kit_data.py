"""A data set small enough to be written out."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from fairtune.data import DatasetSpec, Table, load_table

HEADER = "image_id,person,age,sex,ill,split"
ROWS = [
    "a0,p0,30,F,1,train",
    "a1,p0,31,F,0,train",
    "a2,p1,70,M,1,train",
    "a3,p2,59,M,0,train",
    "a4,p3,60,F,1,val",
    "a5,p3,61,F,0,val",
    "a6,p4,80,M,1,test",
    "a7,p5,,unknown,0,test",
]


def png(seed: int, size: tuple[int, int] = (20, 16)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def spec_of(**changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "title": "tiny",
        "licence": "none",
        "citation": "none",
        "link": "https://example.org",
        "layouts": [
            {
                "folders": ".",
                "tables": ["rows.csv"],
                "images": {"at": ["images", "images.zip"], "name": "{image_id}.png"},
            }
        ],
        "id": "image_id",
        "patient": "person",
        "targets": {"ill": {"column": "ill", "positive": 1, "negative": 0}},
        "attributes": {
            "sex": {"column": "sex", "map": {"F": "F", "M": "M"}, "unknown": "unknown"},
            "age": {"column": "age", "bins": {"edges": [60], "names": ["<60", "60+"]}},
        },
        "split": {"column": "split"},
    }
    return spec | changes


def table_of(spec: DatasetSpec, **changes: Any) -> Table:
    given: dict[str, Any] = {"target": "ill", "attributes": ["sex", "age"], "roots": []}
    return load_table(spec, **(given | changes))
