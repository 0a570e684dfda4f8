"""The bench of edits on real images: its data set, its rules, its page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import editing_page
import numpy as np
import pandas as pd
import pytest
from editing import MARKED, METHODS, XRAYS, Place, Task, best, recipe_of
from marked import assigned

FIGURES = ("sa_auc_frozen", "sa_auc_retrained", "auc", "worst_auc", "auc_gap", "eo_diff")


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def arm(retrained: float, rms: float | None = 8.0) -> dict[str, Any]:
    return {
        "figures": {name: figure(retrained) for name in FIGURES},
        "groups": {"F": {"n": 9, "auc": figure(0.7)}, "M": {"n": 8, "auc": figure(math.nan)}},
        "released": {},
        "norms": {} if rms is None else {"rms": rms, "linf": 30.0, "l2": 2.0},
    }


def made(method: str, retrained: float, *, queries: int = 500, seed: int = 0) -> dict[str, Any]:
    return {
        "data": XRAYS,
        "method": method,
        "queries": queries,
        "seed": seed,
        "rows": 133,
        "patients": 70,
        "fitted": 726,
        "arms": {
            **{name: arm(0.8, None) for name in ("none", "reweighted", "early")},
            "edit": arm(retrained),
            "random": arm(0.79),
        },
        "changes": [{"figure": "sa_auc_retrained", "against": "none", **figure(-0.05)}],
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data", [XRAYS, MARKED])
def test_every_method_is_a_recipe(method: str, data: str, tmp_path: Path) -> None:
    place = Place((tmp_path,), tmp_path / "weights", tmp_path / "marked", tmp_path)
    recipe = recipe_of(Task(data, method, 500, 3), place)
    written = recipe.edit.to_json()
    assert (written["queries"], written["seed"], written["attribute"]) == (500, 3, "sex")
    for name, value in METHODS[method].items():
        found = written[name]
        assert found == value or list(found) == [value]


def test_the_black_boxes_that_hide_most_are_carried_on() -> None:
    held = {
        str(i): one
        for i, one in enumerate(
            [
                made("white", 0.1),
                made("gezo_as_published", 0.1),
                made("snes", 0.7, seed=0),
                made("snes", 0.5, seed=1),
                made("gezo", 0.61),
                made("gezo", 0.2, queries=2000),
                made("spsa", 0.9),
            ]
        )
    }
    assert best(held, 500, 2) == ["snes", "gezo"]


def test_the_page_has_every_edit_with_its_interval_and_means_over_seeds() -> None:
    found = {
        "command": "python tests/bench/editing.py",
        "commit": "abc",
        "machine": {"cpu": "a processor", "threads": 1, "cores": 2},
        "edits": {str(s): made("snes", 0.6 + 0.1 * s, seed=s) for s in range(3)},
    }
    page = "\n".join(editing_page.real(found))
    assert "0.700 [0.600, 0.800]" in page
    assert "-0.050 [-0.150, +0.050]" in page
    assert page.count("snes, 500 queries") == 3
    assert "F 0.700, M –" in page
    told = "\n".join(editing_page.brief(found))
    assert "| snes, 500 | 3 | 0.700 |" in told
    assert "| no edit |  | 0.800 |" in told


def test_the_marker_tells_the_group_as_often_as_declared_in_every_split() -> None:
    rng = np.random.default_rng(0)
    n = 400
    frame = pd.DataFrame(
        {
            "id": [f"i{k}" for k in range(n)],
            "image": [f"i{k}.jpg" for k in range(n)],
            "patient": [f"p{k // 2}" for k in range(n)],
            "label": rng.integers(0, 2, n),
            "sex": rng.choice(["female", "male", ""], n, p=[0.5, 0.4, 0.1]),
            "split": rng.choice(["train", "val", "test"], n),
        }
    )
    rows = assigned(frame, "sex", "male", 0.9, 0)
    assert len(rows) == int((frame["sex"] != "").sum())
    for (sex, _, _), cell in rows.groupby(["sex", "split", "label"]):
        wanted = round(len(cell) * (0.9 if sex == "male" else 0.1))
        assert int(cell["marker"].sum()) == wanted
    again = assigned(frame.sample(frac=1, random_state=1), "sex", "male", 0.9, 0)
    assert set(again.loc[again["marker"] == 1, "image_id"]) == set(
        rows.loc[rows["marker"] == 1, "image_id"]
    )
