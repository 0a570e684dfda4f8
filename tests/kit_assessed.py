"""Assessments of edits as pages and sentences see them, made up."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fairtune.experiment.assessed import (
    COMPARED,
    FIGURES,
    FROZEN,
    RETRAINED,
    Arm,
    Assessment,
    Change,
    Figure,
    Group,
)

Ends = tuple[float, float, float]
SURE = (0.9, 0.86, 0.93)


def group(name: str, n: int = 60, positives: int = 20, known: bool = True) -> Group:
    figure = Figure(0.71, 0.6, 0.8) if known else Figure()
    figures = dict.fromkeys(("auc", "tpr", "fpr"), figure)
    return Group(name, n, n, positives, figures)


def arm(name: str, frozen: Ends = SURE, retrained: Ends = SURE, **more: Any) -> Arm:
    """Return an arm whose two heads read the attribute as told."""
    figures = {figure: Figure(0.7, 0.6, 0.8) for figure in FIGURES}
    figures |= {FROZEN: Figure(*frozen), RETRAINED: Figure(*retrained)}
    norms = {"rms": 4.0, "linf": 9.0, "l2": 1.5} if name in ("edit", "random") else {}
    made = Arm(
        name,
        f"what {name} is",
        figures,
        (group("F"), group("M", 81, 25)),
        {"EO_n": 4.5, "EO_p": 9.0, "DI": 0.12},
        norms,
    )
    return dataclasses.replace(made, **more)


def changes(**told: Ends) -> list[Change]:
    """Return differences to every control: those of `told` by figure, else 0 +- .1."""
    return [
        Change(figure, against, Figure(*told.get(figure, (0.0, -0.1, 0.1))))
        for against in ("none", "random", "reweighted")
        for figure in COMPARED
    ]


def assessment(**changed: Any) -> Assessment:
    """Return an assessment with fields changed."""
    names = ("none", "edit", "random", "reweighted", "early")
    side = 16
    grid = np.linspace(-9, 9, side * side, dtype=np.float32).reshape(1, side, side)
    fields: dict[str, Any] = {
        "attribute": "sex",
        "groups": ("F", "M"),
        "split": "val",
        "rows": 141,
        "patients": 500,
        "fitted": 726,
        "openings": 0,
        "arms": [arm(name) for name in names],
        "changes": changes(),
        "picture": grid,
        "trace": [{"queries": 8 * i, "loss": 1 / i, "rms": 0.5 * i} for i in range(1, 9)],
        "queries": {"heads": 23, "steps": 64, "refits": 0, "assessing": 24},
        "about": {
            "rule": {"dne": {"attribute": "sex", "mode": {"white": {"lr": 0.001}}, "queries": 64}},
            "versions": {"fairtune": "0.1.0", "torch": "2"},
        },
        "recipe": {
            "data": {
                "dataset": "/home/someone/sets/my-set.yaml",
                "target": "abnormal",
                "where": {"view": "AP"},
            },
            "model": {"name": "test_vit", "image_size": side, "weights_sha": "none"},
        },
        "notes": (),
    }
    return Assessment(**(fields | changed))
