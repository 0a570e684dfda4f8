"""Class weights against sklearn, softened labels and the weighted loss against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from torch.nn import functional

from fairtune.training.recipe_parts import OptimPart
from fairtune.training.targets import Targets, soft
from fairtune.usage import Output
from fairtune.usage.losses import sample_loss
from fairtune.usage.readout import balanced

N = 40
TASKS = [("binary", 1), ("multiclass", 4), ("multilabel", 3)]


def labels(task: str, outputs: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if task == "multiclass":
        return rng.choice(outputs, N, p=[0.6, 0.2, 0.15, 0.05])
    drawn = (rng.random((N, outputs)) < 0.3).astype(np.int64)
    return drawn[:, 0] if task == "binary" else drawn


def test_multiclass_weights_are_sklearns() -> None:
    label = labels("multiclass", 4)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=label)
    assert balanced(label, "multiclass", 4) == pytest.approx(expected)
    assert balanced(label, "multiclass", 4)[label].sum() == pytest.approx(N)


def test_binary_weights_are_sklearns() -> None:
    label = labels("binary", 1)
    expected = compute_class_weight("balanced", classes=np.arange(2), y=label)
    assert balanced(label, "binary", 1)[:, 0] == pytest.approx(expected)


def test_multilabel_weights_are_sklearns_by_target() -> None:
    label = labels("multilabel", 3)
    found = balanced(label, "multilabel", 3)
    for j in range(3):
        expected = compute_class_weight("balanced", classes=np.arange(2), y=label[:, j])
        assert found[:, j] == pytest.approx(expected)


def test_a_class_without_rows_has_no_weight() -> None:
    assert balanced(np.array([0, 0, 2]), "multiclass", 3) == pytest.approx([0.75, 0, 1.5])
    one_sided = np.array([[0, 1], [0, 0]])
    assert balanced(one_sided, "multilabel", 2) == pytest.approx(np.array([[1, 1], [0, 1]]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_multiclass_loss_is_torchs(weighted: bool, smoothing: float) -> None:
    label, score = torch.from_numpy(labels("multiclass", 4)), torch.randn(N, 4)
    weight = torch.tensor([0.3, 1.0, 2.0, 5.0]) if weighted else None
    found = sample_loss(score, soft(label, "multiclass", 4, smoothing), "multiclass", weight)
    expected = functional.cross_entropy(
        score, label, weight, reduction="none", label_smoothing=smoothing
    )
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_weighted_binary_loss_is_torchs(smoothing: float, outputs: int) -> None:
    task: Any = "binary" if outputs == 1 else "multilabel"
    label, score = torch.from_numpy(labels(task, outputs)), torch.randn(N, outputs)
    weight = torch.tensor([[0.6], [2.5]]) * torch.linspace(1, 2, outputs)
    target = soft(label, task, outputs, smoothing)
    assert target.unique().tolist() == pytest.approx([smoothing / 2, 1 - smoothing / 2])
    found = sample_loss(score, target, task, weight)
    # torch weighs positives alone, and then both alike.
    expected = functional.binary_cross_entropy_with_logits(
        score, target, weight[0], pos_weight=weight[1] / weight[0], reduction="none"
    )
    assert torch.allclose(found, expected.mean(dim=1), atol=1e-5)


def test_smoothing_two_classes_is_smoothing_a_binary_label() -> None:
    label, logit = torch.from_numpy(labels("binary", 1)), torch.randn(N, 1)
    pair = torch.cat([torch.zeros(N, 1), logit], dim=1)
    one = sample_loss(logit, soft(label, "binary", 1, 0.2), "binary")
    two = sample_loss(pair, soft(label, "multiclass", 2, 0.2), "multiclass")
    assert torch.allclose(one, two, atol=1e-5)


@pytest.mark.parametrize(("task", "outputs"), TASKS)
def test_shares_of_hard_labels_give_the_hard_loss(task: Any, outputs: int) -> None:
    label, score = torch.from_numpy(labels(task, outputs)), torch.randn(N, outputs)
    share = soft(label, task, outputs)
    assert share.shape == (N, outputs)
    assert torch.equal(soft(share, task, outputs), share)
    hard = sample_loss(score, label, task)
    assert torch.allclose(sample_loss(score, share, task), hard, atol=1e-6)


@pytest.mark.parametrize(("task", "outputs"), TASKS)
def test_the_mean_weighted_loss_is_that_of_weighted_samples(task: Any, outputs: int) -> None:
    label, score = labels(task, outputs), torch.randn(N, outputs)
    device = torch.device("cpu")
    optim = OptimPart(class_weights="balanced")
    made = Targets.of(optim, label, task, outputs, device)
    given = torch.from_numpy(label)
    plain = sample_loss(score, given, task)
    batch: Any = type("B", (), {"label": given})
    found = made.loss(Output(plain, score, score), batch)
    if task == "multilabel":
        parts = [
            functional.binary_cross_entropy_with_logits(
                score[:, j], given[:, j].float(), reduction="none"
            )
            * torch.from_numpy(compute_sample_weight("balanced", label[:, j]))
            for j in range(outputs)
        ]
        expected = torch.stack(parts).mean(dim=0).float()
    else:
        expected = plain * torch.from_numpy(compute_sample_weight("balanced", label)).float()
    assert torch.allclose(found, expected, atol=1e-5)


def test_nothing_asked_for_leaves_the_loss_as_it_is() -> None:
    made = Targets.of(OptimPart(), labels("binary", 1), "binary", 1, torch.device("cpu"))
    out = Output(torch.rand(3), torch.rand(3, 1), torch.rand(3, 2))
    batch: Any = None
    assert made.loss(out, batch) is out.loss
