"""The head that is stopped early, against torch's gradients and its own rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from fairtune.experiment.early import LEAST, MOST, PATIENCE, fit_early
from fairtune.usage import Task

N, DIM = 240, 40


def drawn(task: Task, outputs: int, noise: float = 6.0, seed: int = 0):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, DIM)) * np.geomspace(0.5, 2, DIM) * (np.arange(DIM) < DIM - 1) + 3
    logits = (x - 3) @ rng.normal(size=(DIM, outputs)) + noise * rng.normal(size=(N, outputs))
    label = logits.argmax(axis=1) if task == "multiclass" else (logits > 0).astype(int)
    patient = np.repeat(np.arange(N // 3), 3)
    return x, label[:, 0] if task == "binary" else label, patient


def loss(logits: torch.Tensor, label: torch.Tensor, task: Task) -> torch.Tensor:
    if task == "multiclass":
        return functional.cross_entropy(logits, label)
    wanted = label.double().reshape(logits.shape)
    return functional.binary_cross_entropy_with_logits(logits, wanted)


@pytest.mark.parametrize(
    ("task", "outputs"), [("binary", 1), ("multiclass", 3), ("multilabel", 2)]
)
def test_it_is_gradient_descent_kept_where_held_out_patients_are_served_best(
    task: Task, outputs: int
) -> None:
    x, label, patient = drawn(task, outputs)
    found = fit_early(x, label, task, outputs, patient)
    order = np.random.default_rng(0).permutation(N // 3)[: round(0.2 * N / 3)]
    held = np.isin(patient, order)
    assert 0 < held.sum() < N
    mean, sd = x[~held].mean(axis=0), x[~held].std(axis=0)
    sd[sd < 1e-12] = 1.0
    z = torch.from_numpy((x - mean) / sd)
    y = torch.from_numpy(label)
    weight = torch.zeros(outputs, DIM, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    own = np.column_stack([z[~held].numpy(), np.ones((~held).sum())])
    curvature = np.linalg.norm(own, 2) ** 2 / len(own)
    curvature *= 0.5 if task == "multiclass" else 0.25 / outputs
    losses, points = [], []
    for _ in range(found.steps + PATIENCE + 1):
        points.append((weight.detach().clone().numpy(), bias.detach().clone().numpy()))
        losses.append(float(loss(z[held] @ weight.T + bias, y[held], task).detach()))
        value = loss(z[~held] @ weight.T + bias, y[~held], task)
        for tensor, gradient in zip((weight, bias), torch.autograd.grad(value, (weight, bias))):
            tensor.data -= gradient / curvature
    assert 0 < found.steps < MOST
    assert min(losses) == pytest.approx(losses[found.steps], abs=LEAST)
    assert losses[found.steps] < min(losses[: found.steps])
    assert losses[-1] > losses[found.steps] + 1e-4, "these patients show that it goes too far"
    w, b = points[found.steps]
    assert found.weight == pytest.approx(w / sd, abs=1e-6)
    assert found.bias == pytest.approx(b - (w / sd) @ mean, abs=1e-6)


def test_labels_of_chance_stop_it_at_once() -> None:
    x, _, patient = drawn("binary", 1)
    label = np.random.default_rng(5).integers(0, 2, N)
    assert fit_early(x, label, "binary", 1, patient).steps < 20


def test_two_patients_are_enough_and_told_may_stop_it() -> None:
    x, label, _ = drawn("binary", 1)
    fit_early(x, label, "binary", 1, np.arange(N) % 2)

    def leave() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_early(x, label, "binary", 1, np.arange(N) % 2, told=leave)
