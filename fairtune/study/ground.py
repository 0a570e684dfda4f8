"""What a study asks of its data and model before it starts: rows, folds, levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fairtune.config import Choice
from fairtune.errors import FairtuneError, raise_all
from fairtune.evaluation.predictions import Predictions
from fairtune.study.parts import folds_of
from fairtune.study.plan import Plan
from fairtune.study.schema import StudyFile
from fairtune.training.recipe import Recipe

if TYPE_CHECKING:
    from fairtune.training.session import Session


def unit_digests(study: StudyFile, base: Recipe, session: Session) -> Mapping[int, str]:
    """Return the digest of the model's units at the image size of every level but the last.

    Raises:
        ModelError: A size that the model does not take; all of them at once.
    """
    fidelity = study.fidelity
    if not fidelity.image_size:
        return {}
    found: dict[int, str] = {}
    problems: list[FairtuneError] = []
    for i, size in enumerate(fidelity.image_size[:-1]):
        try:
            found[size] = session.units(fidelity.at(base, i + 1)).hash
        except FairtuneError as error:
            error.where = study.source.where("fidelity", "image_size", i)
            problems.append(error)
    raise_all(str(study.source.where()), problems)
    return found


def check_rows(plan: Plan, session: Session) -> None:
    """Draw the rows of every fold and level.

    Raises:
        DataError: Too few patients for the folds, or a fraction that leaves a class, a group or
            less than one batch.
    """
    batch = plan.dimensions().get("optim.batch_size")
    largest = plan.base.optim.batch_size
    if batch is not None:
        sizes = batch.options if isinstance(batch, Choice) else (batch.high,)
        largest = max(int(size) for size in sizes)
    every = plan.base.adaptation.model_copy(update={"mask": tuple(plan.units.names)})
    for level in plan.levels(plan.base):
        for recipe in folds_of(level, plan.study.judge):
            trained = recipe.model_copy(
                update={
                    "adaptation": every,
                    "optim": recipe.optim.model_copy(update={"batch_size": largest}),
                }
            )
            session.ground(trained).fit_rows(trained)


def validation_table(plan: Plan, session: Session) -> Predictions:
    """Return the rows that a trial is validated on, of all its folds, with scores that rise."""
    ground = session.ground(plan.base)
    folds = [ground.val_rows(recipe) for recipe in folds_of(plan.base, plan.study.judge)]
    rows = np.concatenate(folds)
    model = np.repeat(np.arange(len(folds)), [len(fold) for fold in folds])
    order = np.argsort(rows, kind="stable")
    rows, model = rows[order], model[order]
    shape = (len(rows),) if ground.outputs == 1 else (len(rows), ground.outputs)
    spread = np.linspace(0.1, 0.9, len(rows))
    score = np.broadcast_to(spread.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()
    if ground.task == "multiclass":
        score /= score.sum(axis=1, keepdims=True)
    return ground.pack.predictions(rows, score, model=model)
