"""The loss that an edit is learned by, term by term, and the bounds of its grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit_scene import dne, small
from torch import Tensor

from fairtune.editing.asking import Asking
from fairtune.editing.grid import Grid, limit
from fairtune.editing.heads import Head, Heads
from fairtune.editing.terms import Part, loss, penalty, task_losses
from fairtune.usage import Task
from fairtune.usage.losses import sample_loss

EMBEDDING = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]])
HEADS = Heads(
    Head(torch.eye(2), torch.zeros(2)), Head(torch.tensor([[1.0, -1.0]]), torch.tensor([0.5]))
)


def part(group: list[int], label: Any = (0, 1, 1), weight: Any = ((1.0,), (2.0,), (0.0,))) -> Part:
    return Part(torch.empty(0), torch.tensor(group), torch.tensor(label), torch.tensor(weight))


def test_the_loss_is_the_sum_of_its_terms() -> None:
    rule = dne(lambda_sa=3.0, utility_weight=0.5)
    found = loss(rule, HEADS, part([0, 1, 0]), "binary", EMBEDDING)
    hidden = -torch.log_softmax(EMBEDDING, dim=1).mean()
    # Margins of the task: 1.5, -1.5, -1.5, of labels 0, 1, 1.
    own = math.log1p(math.exp(1.5))
    assert float(found) == pytest.approx(3 * float(hidden) + 0.5 * (own + 2 * own) / 3)


def test_rows_of_an_unknown_group_count_for_the_task_alone() -> None:
    rule = dne(utility_weight=0.5)
    found = loss(rule, HEADS, part([-1, 1, -1]), "binary", EMBEDDING)
    hidden = -torch.log_softmax(EMBEDDING[1:2], dim=1).mean()
    own = math.log1p(math.exp(1.5))
    assert float(found) == pytest.approx(float(hidden) + 0.5 * own)
    strangers = loss(rule, HEADS, part([-1, -1, -1]), "binary", EMBEDDING)
    assert float(strangers) == pytest.approx(0.5 * own)


@pytest.mark.parametrize(
    ("task", "label", "outputs"),
    [
        ("binary", [0, 1, 1, 0], 1),
        ("multiclass", [0, 2, 1, 0], 3),
        ("multilabel", [[0, 1], [1, 1], [0, 0], [1, 0]], 2),
    ],
)
def test_the_task_is_measured_as_it_is_trained(task: Task, label: Any, outputs: int) -> None:
    score, given_ = torch.randn(4, outputs), torch.tensor(label)
    found = task_losses(score, given_, task).mean(dim=1)
    torch.testing.assert_close(found, sample_loss(score, given_, task))


@given(st.integers(1, 3), st.integers(1, 9), st.floats(0, 4), st.floats(0, 2))
def test_the_size_of_an_edit(channels: int, side: int, value: float, weight: float) -> None:
    full = torch.full((channels, side, side), value, dtype=torch.float64)
    count = channels * side**2
    square = penalty(dne(lambda_reg=weight, regulariser="rms2"), full)
    norm = penalty(dne(lambda_reg=weight, regulariser="l2"), full)
    assert float(square) == pytest.approx(weight * value**2)
    assert float(norm) == pytest.approx(weight * value * math.sqrt(count))


@pytest.mark.parametrize("regulariser", ["rms2", "l2"])
def test_the_size_of_no_edit_has_the_gradient_zero(regulariser: str) -> None:
    at = torch.zeros(1, 4, 4, requires_grad=True)
    penalty(dne(regulariser=regulariser), at).backward()
    assert at.grad is not None
    assert at.grad.abs().max() == 0


@pytest.mark.parametrize("linf", range(1, 256))
def test_a_bound_is_the_largest_float_that_keeps_it(linf: int) -> None:
    bound = np.float32(limit(linf, clamp=False))
    assert float(bound) == limit(linf, clamp=True)
    assert float(bound) * 255 <= linf < float(np.nextafter(bound, np.float32(2))) * 255


def test_without_a_bound_clamping_bounds_what_acts() -> None:
    assert limit(0, clamp=False) == math.inf
    assert limit(0, clamp=True) == 1.0


@given(st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4), st.integers(0, 255))
def test_the_nearest_point_within_the_bounds(values: list[float], linf: int) -> None:
    grid = Grid(1, 2, 4, limit(linf, clamp=False))
    point = torch.tensor(values)
    near = grid.bounded(point)
    assert torch.equal(grid.bounded(near), near)
    inside = point.abs() <= grid.limit
    assert torch.equal(near[inside], point[inside])
    assert torch.equal(near[~inside].abs(), torch.full_like(near[~inside], grid.limit))
    assert torch.equal(near.sign()[near != 0], point.sign()[near != 0])


def asking(allowed: int = 9, **fields: Any) -> tuple[Asking, Tensor]:
    held = small(rows=6, side=4)
    grid = Grid(1, 2, 4)
    heads = Heads(Head(torch.randn(2, 6), torch.zeros(2)))
    rows = part([0, 1, 0, 1, 0, 1], [0] * 6, [[1.0]] * 6)
    image = held.scene.image(np.arange(6))
    rows = Part(image, rows.group, rows.label, rows.weight)
    return Asking(dne(**fields), held.scene, grid, heads, rows, allowed), torch.zeros(4)


def test_a_gradient_is_that_of_the_values() -> None:
    asked, _ = asking(99, clamp=False, regulariser="l2", lambda_reg=0.1)
    at = torch.tensor([0.1, -0.2, 0.05, 0.0])
    found = asked.gradient(at)
    assert asked.loss == pytest.approx(asked.value(at))
    for i, step in enumerate(torch.eye(4) * 1e-2):
        slope = (asked.value(at + step) - asked.value(at - step)) / 2e-2
        assert float(found[i]) == pytest.approx(slope, abs=2e-3)
    assert not at.requires_grad
    assert asked.queries == 10


def test_a_step_that_asks_more_than_it_declares_is_a_fault() -> None:
    asked, at = asking(2)
    asked.value(at)
    asked.gradient(at)
    with pytest.raises(RuntimeError, match="more than the 2 queries"):
        asked.value(at)
    assert asked.queries == 2
