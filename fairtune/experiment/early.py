"""A linear head that is trained by gradient steps and stopped early: a control, not a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairtune.data.values import IntArray
from fairtune.usage import Task
from fairtune.usage.readout import mean_loss, targets

Floats = NDArray[np.float64]

SHARE = 0.2
"""Of the training patients, held out to say when to stop."""
MOST, PATIENCE = 2000, 100
LEAST = 1e-7
"""By so much a loss is lower, or rounding says so."""


@dataclass(frozen=True, eq=False)
class Early:
    """A head with its stop.

    Attributes:
        weight: `(outputs, dim)`.
        bias: `(outputs,)`.
        steps: Steps after which the loss on the patients held out was lowest.
    """

    weight: Floats
    bias: Floats
    steps: int


def fit_early(
    features: Floats,
    label: IntArray,
    task: Task,
    outputs: int,
    patient: IntArray,
    *,
    seed: int = 0,
    told: Callable[[], None] = lambda: None,
) -> Early:
    """Return the head after the step with the lowest loss on held-out training patients.

    Plain gradient descent on the mean loss, from 0, on all rows of the other patients at once,
    over features standardised by them; the step is 1 / L with L the bound of the curvature. It
    ends after 2,000 steps, or 100 without a lower loss; nothing is fitted again on all patients.

    Args:
        features: `(n, dim)`.
        label: `(n,)` class codes, or `(n, targets)` of 0/1.
        task: Kind of label.
        outputs: Columns of the score.
        patient: `(n,)` codes of patients.
        seed: Says which patients are held out.
        told: Called before every step; may raise.
    """
    held = _held_out(patient, seed)
    mean, sd = features[~held].mean(axis=0), features[~held].std(axis=0)
    sd = np.where(sd > 1e-12, sd, 1.0)
    x = np.column_stack([(features - mean) / sd, np.ones(len(features))])
    y = targets(label, task, outputs)
    rate = 1 / _curvature(x[~held], task, outputs)
    theta, best, at, lowest = np.zeros((outputs, x.shape[1])), None, 0, np.inf
    for step in range(MOST + 1):
        told()
        loss = mean_loss(x[held] @ theta.T, y[held], task)[0]
        if loss < lowest - LEAST:
            best, at, lowest = theta, step, loss
        if step - at >= PATIENCE:
            break
        gradient = mean_loss(x[~held] @ theta.T, y[~held], task)[1].T @ x[~held]
        theta = theta - rate * gradient
    assert best is not None
    weight = best[:, :-1] / sd
    return Early(weight, best[:, -1] - weight @ mean, at)


def _held_out(patient: IntArray, seed: int) -> NDArray[np.bool_]:
    everyone = np.unique(patient)
    count = min(max(1, round(SHARE * len(everyone))), len(everyone) - 1)
    chosen = np.random.default_rng(seed).permutation(everyone)[:count]
    return np.isin(patient, chosen)


def _curvature(x: Floats, task: Task, outputs: int) -> float:
    """Return a bound of the largest eigenvalue of the loss's second derivative."""
    largest = float(np.linalg.eigvalsh(x.T @ x / len(x))[-1])
    return largest * (0.5 if task == "multiclass" else 0.25 / outputs)
