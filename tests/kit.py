"""The tiny study matter of all tests: real chest X-rays that come with fairtune, a tiny ViT."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from fairtune.config import parse, settings
from fairtune.training.recipe import Recipe
from fairtune.training.session import Session

AP = {"view": "AP"}
"""A part of the data that is quick to train on."""


def tiny_fields(**changes: Any) -> dict[str, Any]:
    """Return the fields of `tiny_recipe` as a study file has them.

    Args:
        changes: A field by its dotted path with `__` for the dot, e.g. `optim__lr=1e-3`; a whole
            part by its name.
    """
    fields: dict[str, Any] = {
        "data": {
            "dataset": "nih-cxr-64",
            "target": "abnormal",
            "attributes": ["sex", "age"],
            "where": AP,
        },
        "model": {"name": "test_vit", "image_size": 32, "weights": "none"},
        "adaptation": {"mask": "norm:all"},
        "optim": {"lr": 1e-3, "epochs": 2, "batch_size": 64},
        "fit": {"precision": "fp32"},
    }
    for path, value in changes.items():
        part, _, name = path.partition("__")
        if name:
            fields.setdefault(part, {})[name] = value
        else:
            fields[part] = value
    return fields


def tiny_recipe(**changes: Any) -> Recipe:
    """Return a recipe that trains in well under a second; see `tiny_fields`."""
    return parse(Recipe, tiny_fields(**changes))


def session(out: Path | None = None, **changes: Any) -> Session:
    """Return a session on the CPU with the cache that all tests share.

    Args:
        out: Results folder, by default the test's own.
        changes: Other settings.
    """
    own = {} if out is None else {"out": out}
    return Session(dataclasses.replace(settings(), **{"device": "cpu", **own, **changes}))
