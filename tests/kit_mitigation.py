"""Runs with mitigations on the tiny study matter, and contexts written by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from kit import tiny_recipe
from torch import Tensor, nn

from fairtune.data.batch import Batch
from fairtune.mitigation import MITIGATIONS, SLOTS
from fairtune.mitigation.context import Context
from fairtune.training.lane import Lane
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session
from fairtune.usage import Output

TRAINING = [name for name in MITIGATIONS if MITIGATIONS.get(name).trains]  # type: ignore[attr-defined]
"""Names of the mitigations that act on training."""


def recipe_with(
    held: Session, *members: Any, rule: str = "block:last-1", **changes: Any
) -> Recipe:
    made = tiny_recipe(adaptation={"mask": rule}, mitigations=list(members), **changes)
    return held.resolve(made.attributed("sex"))


def lane_with(
    held: Session,
    *members: Any,
    seeds: Seeds | None = None,
    rule: str = "block:last-1",
    **changes: Any,
) -> Lane:
    plain = {"optim__batch_size": 16, **changes}
    recipe = recipe_with(held, *members, rule=rule, **plain)
    made = Lane(recipe, seeds or Seeds(), held.ground(recipe))
    for first in made.mitigating.identify:
        # In place of the first fit: some rows are right, some wrong.
        shape = len(made.ground.fit_rows(recipe)), made.ground.outputs
        first.take(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    return made


def steps(one: Lane, count: int) -> list[Tensor]:
    batches = itertools.cycle(one.loader.epoch(order=one._order()))
    return [one.step(next(batches)) for _ in range(count)]


def context(
    labels: Sequence[int],
    codes: Sequence[int],
    *,
    names: Sequence[str] = ("a", "b"),
    dim: int = 2,
    epochs: int = 4,
    **changes: Any,
) -> Context:
    """Return a binary context of rows 0..n-1 with one attribute `att`."""
    fields: dict[str, Any] = {
        "label": np.array(labels),
        "group": np.array(codes)[:, None],
        "row": np.arange(len(labels)),
        "pack_rows": len(labels),
        "attributes": {"att": tuple(names)},
        "task": "binary",
        "outputs": 1,
        "dim": dim,
        "epochs": epochs,
        "head": nn.Linear(dim, 1),
        "head_lr": 1e-3,
        "seed": 0,
        "device": torch.device("cpu"),
        "free": frozenset(SLOTS),
    }
    return Context(**{**fields, **changes})


def batch_of(held: Context, rows: Sequence[int]) -> Batch:
    at = np.array(rows)
    return Batch(
        row=torch.from_numpy(at),
        image=torch.zeros(len(at), 1),
        label=torch.from_numpy(held.label[at]),
        group=torch.from_numpy(held.group[at]),
        weight=torch.ones(len(at)),
    )


def output(loss: Any, score: Any = None, embedding: Any = None) -> Output:
    made = torch.as_tensor(loss, dtype=torch.float32)
    zeros = torch.zeros(len(made), 1)
    return Output(
        made,
        zeros if score is None else torch.as_tensor(score, dtype=torch.float32).reshape(-1, 1),
        torch.zeros(len(made), 2) if embedding is None else embedding,
    )
