"""Tables of predictions for the tests of this folder."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.rules import GroupMinimum

LAX = GroupMinimum(1, 1, 1)


def table(
    n: int = 400,
    groups: int = 3,
    *,
    seed: int = 0,
    ties: bool = False,
    signal: float = 1.0,
    per_patient: int = 1,
    unknown: float = 0.0,
) -> Predictions:
    """A binary table; group g exists in full and scores are probabilities."""
    rng = np.random.default_rng(seed)
    patients = -(-n // per_patient)
    patient = np.repeat(np.arange(patients), per_patient)[:n]
    code = rng.integers(0, groups, patients)
    code[: 2 * groups] = np.tile(np.arange(groups), 2)[:patients]
    label = (rng.random(patients) < 0.4).astype(int)
    label[: 2 * groups] = np.repeat([0, 1], groups)[:patients]
    code, label = code[patient], label[patient]
    score = 1 / (1 + np.exp(-(signal * (label - 0.5) + rng.standard_normal(n))))
    if ties:
        score = np.round(score, 1)
    code = np.where(rng.random(n) < unknown, -1, code)
    names = tuple(f"g{i}" for i in range(groups))
    sex = Attribute("sex", ("F", "M"), rng.integers(0, 2, patients)[patient])
    return Predictions(label, score, {"age": Attribute("age", names, code), "sex": sex}, patient)


@st.composite
def tables(draw: st.DrawFn) -> Predictions:
    """Small tables with ties in which every group has both classes."""
    groups = draw(st.integers(2, 4))
    n = draw(st.integers(2 * groups, 60))
    levels = draw(st.integers(1, 12))
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    code, label = rng.integers(0, groups, n), rng.integers(0, 2, n)
    code[: 2 * groups] = np.tile(np.arange(groups), 2)
    label[: 2 * groups] = np.repeat([0, 1], groups)
    score = rng.integers(0, levels + 1, n) / levels
    names = tuple(f"g{i}" for i in range(groups))
    return Predictions(label, score, {"age": Attribute("age", names, code)})


def groups_of(p: Predictions, name: str = "age") -> list[np.ndarray]:
    codes = p.attribute(name).codes
    return [np.flatnonzero(codes == g) for g in range(p.attribute(name).size)]
