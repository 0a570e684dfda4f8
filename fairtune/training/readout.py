"""The linear readout: the head alone, solved to the optimum instead of trained.

For an empty mask the features never change, so they are computed once and the head is a convex
problem: mean loss + l2/2 |W|^2 over standardised features, by L-BFGS in float64.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special

from fairtune.training.observer import Epoch
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.targets import balanced
from fairtune.usage import Task

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.training.ground import Ground

GRADIENT_TOLERANCE = 1e-6
MAX_ITERATIONS = 2000

Floats = NDArray[np.float64]


def solve(recipe: Recipe, seeds: Seeds, ground: Ground) -> tuple[Epoch, dict[str, Tensor]]:
    """Fit the head on frozen features; return its one epoch and the head's tensors.

    The seeds do not matter: the problem has one solution.
    """
    began = time.perf_counter()
    rows, val_rows = ground.fit_rows(recipe), ground.val_rows(recipe)
    weight, bias, train_loss = fit(
        ground.features(recipe, rows),
        ground.labels(rows),
        ground.task,
        ground.outputs,
        recipe.optim.l2,
        balance=recipe.optim.class_weights == "balanced",
        smoothing=recipe.optim.label_smoothing,
        told=lambda: ground.told("solving the readout"),
    )
    logits = ground.features(recipe, val_rows) @ weight.T + bias
    target = targets(ground.labels(val_rows), ground.task, ground.outputs)
    val_loss = float(mean_loss(logits, target, ground.task)[0]) if len(val_rows) else math.nan
    report = Epoch(
        1,
        1,
        logits.astype(np.float32),
        train_loss,
        val_loss,
        time.perf_counter() - began,
        len(rows),
    )
    head = {
        "head.weight": torch.from_numpy(weight.astype(np.float32)),
        "head.bias": torch.from_numpy(bias.astype(np.float32)),
    }
    return report, head


def fit(
    features: Floats,
    label: NDArray[np.int64],
    task: Task,
    outputs: int,
    l2: float,
    *,
    balance: bool = False,
    smoothing: float = 0.0,
    told: Callable[[], None] = lambda: None,
) -> tuple[Floats, Floats, float]:
    """Return weight `(outputs, dim)`, bias `(outputs,)` and the mean loss at the optimum.

    Args:
        features: `(n, dim)`; standardised inside, and the scaling folded into what is returned.
        label: `(n,)` class index or `(n, targets)` of 0/1.
        task: Kind of label.
        outputs: 1 for binary, else classes or targets.
        l2: Penalty on the weights of the standardised features, above 0.
        balance: Weigh classes by `targets.balanced`.
        smoothing: Share of every label that is spread over the classes.
        told: Called before every look at the features; may raise.
    """
    mean, sd = features.mean(axis=0), features.std(axis=0)
    sd = np.where(sd > 1e-12, sd, 1.0)
    x = (features - mean) / sd
    y = targets(label, task, outputs)
    if smoothing:
        y = y * (1 - smoothing) + smoothing / (outputs if task == "multiclass" else 2)
    class_weight = balanced(label, task, outputs) if balance else None
    shape = (outputs, x.shape[1] + 1)

    def objective(flat: Floats) -> tuple[float, Floats]:
        told()
        theta = flat.reshape(shape)
        logits = x @ theta[:, :-1].T + theta[:, -1]
        loss, d_logits = mean_loss(logits, y, task, class_weight)
        gradient = np.empty(shape)
        gradient[:, :-1] = d_logits.T @ x + l2 * theta[:, :-1]
        gradient[:, -1] = d_logits.sum(axis=0)
        return float(loss + 0.5 * l2 * np.square(theta[:, :-1]).sum()), gradient.ravel()

    found = optimize.minimize(
        objective,
        np.zeros(shape[0] * shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MAX_ITERATIONS, "gtol": GRADIENT_TOLERANCE, "ftol": 0.0},
    )
    theta = found.x.reshape(shape)
    weight = theta[:, :-1] / sd
    bias = theta[:, -1] - weight @ mean
    loss, _ = mean_loss(features @ weight.T + bias, y, task, class_weight)
    return weight, bias, float(loss)


def targets(label: NDArray[np.int64], task: Task, outputs: int) -> Floats:
    """Return labels as `(n, outputs)` of 0/1: one column for a binary task."""
    if task == "multiclass":
        return np.eye(outputs)[label]
    return label.reshape(len(label), outputs).astype(np.float64)


def mean_loss(
    logits: Floats, target: Floats, task: Task, class_weight: Floats | None = None
) -> tuple[float, Floats]:
    """Return the mean loss and its gradient with respect to `logits` `(n, outputs)`.

    The loss of a sample is that of `Classify.loss`, with the same class weights.
    """
    n = len(logits)
    if task == "multiclass":
        log_p = logits - special.logsumexp(logits, axis=1, keepdims=True)
        if class_weight is not None:
            target = class_weight * target
            mass = target.sum(axis=1, keepdims=True)
            return float(-(target * log_p).sum() / n), (mass * np.exp(log_p) - target) / n
        return float(-(target * log_p).sum() / n), (np.exp(log_p) - target) / n
    count = n * logits.shape[1]
    if class_weight is not None:
        one, zero = class_weight[1] * target, class_weight[0] * (1 - target)
        loss = one * np.logaddexp(0.0, -logits) + zero * np.logaddexp(0.0, logits)
        gradient = zero * special.expit(logits) - one * special.expit(-logits)
        return float(loss.sum() / count), gradient / count
    loss = np.logaddexp(0.0, logits) - target * logits
    return float(loss.sum() / count), (special.expit(logits) - target) / count
