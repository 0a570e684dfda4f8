"""Tables of predictions with two groups that a model serves differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.mitigation import MITIGATIONS, PostProcessing

NAMES = ("F", "M")


def member(name: str, **fields: Any) -> PostProcessing:
    """Return a post-processing by `sex`."""
    made: Any = MITIGATIONS.parse({name: {"attribute": "sex", **fields}})
    assert isinstance(made, PostProcessing)
    return made


def table(n: int = 400, seed: int = 0, task: Any = "binary", rows: int = 2) -> Predictions:
    """Return seeded predictions; group M has more positives, a shift, and wilder scores.

    Args:
        n: Rows.
        seed: Seed.
        task: Kind of label; three classes, or two targets.
        rows: Rows of a patient.
    """
    rng = np.random.default_rng([seed, 5])
    group = rng.integers(0, 2, n)
    width = {"binary": 1, "multiclass": 3, "multilabel": 2}[task]
    noise = rng.normal(size=(n, width)) * (1 + group)[:, None] + group[:, None]
    if task == "multiclass":
        label = rng.integers(0, 3, n)
        noise[np.arange(n), label] += 1.5
        score = special.softmax(noise, axis=1)
    else:
        label = (rng.random((n, width)) < (0.3 + 0.2 * group)[:, None]).astype(np.int64)
        score = special.expit(noise + 1.5 * label - 1)
    if task == "binary":
        label, score = label[:, 0], score[:, 0]
    sex = Attribute("sex", NAMES, group)
    return Predictions(label, score, {"sex": sex}, np.arange(n) // rows, task=task)


def simple(groups: Sequence[tuple[Sequence[int], Sequence[float]]], **more: Any) -> Predictions:
    """Return a binary table of the labels and scores of each group, every row a patient."""
    label = np.concatenate([np.asarray(labels) for labels, _ in groups])
    score = np.concatenate([np.asarray(scores, dtype=float) for _, scores in groups])
    codes = np.repeat(np.arange(len(groups)), [len(labels) for labels, _ in groups])
    names = NAMES if len(groups) == 2 else tuple(f"g{i}" for i in range(len(groups)))
    return Predictions(label, score, {"sex": Attribute("sex", names, codes)}, **more)
