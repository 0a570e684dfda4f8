"""A linear head solved to its optimum on frozen features, a convex problem.

Mean loss + l2/2 |W|^2 over standardised features, by L-BFGS in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fairtune.usage import Task

GRADIENT_TOLERANCE = 1e-6
MAX_ITERATIONS = 2000

Floats = NDArray[np.float64]


def fit(
    features: Floats,
    label: NDArray[np.int64],
    task: Task,
    outputs: int,
    l2: float,
    *,
    balance: bool = False,
    smoothing: float = 0.0,
    sample_weight: Floats | None = None,
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
        sample_weight: `(n,)` weights with mean 1; None for ones.
        told: Called before every look at the features; may raise.
    """
    mean, sd = features.mean(axis=0), features.std(axis=0)
    sd = np.where(sd > 1e-12, sd, 1.0)
    x = (features - mean) / sd
    y = softened(label, task, outputs, smoothing)
    class_weight = balanced(label, task, outputs) if balance else None
    shape = (outputs, x.shape[1] + 1)

    def objective(flat: Floats) -> tuple[float, Floats]:
        told()
        theta = flat.reshape(shape)
        logits = x @ theta[:, :-1].T + theta[:, -1]
        loss, d_logits = mean_loss(logits, y, task, class_weight, sample_weight)
        gradient = np.empty(shape)
        gradient[:, :-1] = d_logits.T @ x + l2 * theta[:, :-1]
        gradient[:, -1] = d_logits.sum(axis=0)
        return float(loss + 0.5 * l2 * np.square(theta[:, :-1]).sum()), gradient.ravel()

    from scipy import optimize

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
    loss, _ = mean_loss(features @ weight.T + bias, y, task, class_weight, sample_weight)
    return weight, bias, float(loss)


def targets(label: NDArray[np.int64], task: Task, outputs: int) -> Floats:
    """Return labels as `(n, outputs)` of 0/1: one column for a binary task."""
    if task == "multiclass":
        return np.eye(outputs)[label]
    return label.reshape(len(label), outputs).astype(np.float64)


def softened(label: NDArray[np.int64], task: Task, outputs: int, smoothing: float) -> Floats:
    """Return `targets` with the share `smoothing` of each spread over the classes."""
    y = targets(label, task, outputs)
    if smoothing:
        y = y * (1 - smoothing) + smoothing / (outputs if task == "multiclass" else 2)
    return y


def mean_loss(
    logits: Floats,
    target: Floats,
    task: Task,
    class_weight: Floats | None = None,
    sample_weight: Floats | None = None,
) -> tuple[float, Floats]:
    """Return the mean loss and its gradient with respect to `logits` `(n, outputs)`.

    The loss of a sample is that of `losses.sample_loss`, with the same class weights, times its
    weight.
    """
    from scipy import special

    n = len(logits)
    weight = np.ones((n, 1)) if sample_weight is None else sample_weight[:, None]
    if task == "multiclass":
        log_p = logits - special.logsumexp(logits, axis=1, keepdims=True)
        mass = weight
        if class_weight is not None:
            target = class_weight * target
            mass = weight * target.sum(axis=1, keepdims=True)
        target = weight * target
        return float(-(target * log_p).sum() / n), (mass * np.exp(log_p) - target) / n
    count = n * logits.shape[1]
    if class_weight is not None:
        one, zero = weight * class_weight[1] * target, weight * class_weight[0] * (1 - target)
        loss = one * np.logaddexp(0.0, -logits) + zero * np.logaddexp(0.0, logits)
        gradient = zero * special.expit(logits) - one * special.expit(-logits)
        return float(loss.sum() / count), gradient / count
    loss = weight * (np.logaddexp(0.0, logits) - target * logits)
    return float(loss.sum() / count), weight * (special.expit(logits) - target) / count


def balanced(label: NDArray[np.integer], task: Task, outputs: int) -> Floats:
    """Return class weights n / (classes present * n of the class); a class without rows has 0.

    The weights of the rows they were counted in add up to the number of rows.

    Args:
        label: `(n,)` class index, or `(n, targets)` of 0/1.
        task: Kind of label.
        outputs: 1 for binary, else classes or targets.

    Returns:
        `(classes,)` for a multiclass task, else `(2, outputs)`: the weight of 0 and of 1.
    """
    if task == "multiclass":
        counts = np.bincount(label, minlength=outputs)[:, None]
    else:
        ones = label.reshape(len(label), outputs).sum(axis=0)
        counts = np.stack([len(label) - ones, ones])
    share = (counts > 0).sum(axis=0) * counts
    weight: Floats = np.zeros(counts.shape)
    np.divide(len(label), share, out=weight, where=counts > 0)
    return weight[:, 0] if task == "multiclass" else weight
