"""Energy distance and MMD against double loops, and their mean over many draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit_strata import gradient, scores, strata
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fairtune.mitigation.transport import energy, mmd

TWO = strata([[9, 5, 2], [4, 1, 3]], outside=3)
N = TWO.shape[-1]
BOTH = [energy, mmd]


def distance_apart(x: np.ndarray, y: np.ndarray) -> float:
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))


def looped(x: Tensor, member: Tensor, kernel: Any) -> list[list[float]]:
    """The formula of `energy`, pair by pair."""
    points = x.reshape(len(x), -1).numpy()
    found = []
    for groups in member.numpy():
        rows = [np.flatnonzero(group) for group in groups]
        large = [g for g, row in enumerate(rows) if len(row) > 1]
        total = sum(len(rows[g]) for g in large)
        share = {g: len(rows[g]) / total for g in large}

        def mean(h: int, k: int, rows: Any = rows) -> float:
            pairs = [(i, j) for i in rows[h] for j in rows[k] if i != j]
            return sum(kernel(points[i], points[j]) for i, j in pairs) / len(pairs)

        mixed = sum(share[h] * share[k] * mean(h, k) for h in large for k in large)
        line = [0.0] * len(rows)
        for g in large:
            line[g] = sum(share[h] * mean(h, g) for h in large) - mixed / 2 - mean(g, g) / 2
        found.append(line)
    return found


@pytest.mark.parametrize("d", [None, 1, 3])
def test_energy_is_the_double_loop(d: int | None) -> None:
    x = scores(N, 0, d)
    expected = torch.tensor(looped(x, TWO, distance_apart), dtype=torch.float64)
    assert torch.allclose(energy(x, TWO), expected, rtol=1e-9, atol=1e-12)
    assert expected[1, 1] == 0
    assert expected.abs().sum() > 0.1


@pytest.mark.parametrize("d", [None, 1, 3])
@pytest.mark.parametrize("bandwidth", [0.4, 1.0, 2.5])
def test_mmd_is_the_double_loop(d: int | None, bandwidth: float) -> None:
    x = scores(N, 1, d)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return math.exp(-(distance_apart(a, b) ** 2) / (2 * bandwidth**2))

    expected = -2 * torch.tensor(looped(x, TWO, kernel), dtype=torch.float64)
    assert torch.allclose(mmd(x, TWO, bandwidth), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("distance", "bias"), [(energy, 0.05), (mmd, 0.05)])
def test_groups_of_one_distribution_have_distance_0_on_average(distance: Any, bias: float) -> None:
    # Groups of 3, 5 and 16. As V-statistics, with i = j among the pairs, the mean of the group of
    # 3 would be above `bias`; here the standard error of the mean is below a twentieth of that.
    member = strata([[3, 5, 16]])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(3000, 24, generator=generator, dtype=torch.float64)
    found = torch.cat([distance(x, member) for x in drawn])
    error = found.std(dim=0) / math.sqrt(len(found))
    assert bool((error < bias / 10).all())
    assert bool((found.mean(dim=0).abs() < 4 * error).all())
    assert bool((found.min(dim=0).values < 0).all())


@pytest.mark.parametrize("distance", BOTH)
def test_shifted_groups_are_apart(distance: Any) -> None:
    x, member = scores(60, 3), strata([[30, 30]])
    x[30:] += 3
    assert bool((distance(x, member) > 0.1).all())


@given(st.lists(st.floats(-9, 9), min_size=9, max_size=9), st.floats(-5, 5), st.floats(0.1, 10))
def test_shift_scale_and_order(values: list[float], shift: float, scale: float) -> None:
    x, member = torch.tensor(values, dtype=torch.float64), strata([[4, 3, 2]])
    moved = scale * x + shift
    assert torch.allclose(energy(moved, member), scale * energy(x, member), atol=1e-9)
    assert torch.allclose(mmd(moved, member, scale), mmd(x, member), atol=1e-9)
    order = torch.arange(8, -1, -1)
    for distance in BOTH:
        found = distance(x[order], member[..., order])
        assert torch.allclose(found, distance(x, member), atol=1e-12)


@pytest.mark.parametrize("distance", BOTH)
@pytest.mark.parametrize("d", [None, 3])
def test_gradients_are_differences(distance: Any, d: int | None) -> None:
    x = scores(N, 2, d).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: distance(x, TWO.bool()), x)


@pytest.mark.parametrize("distance", BOTH)
@pytest.mark.parametrize("d", [None, 3])
def test_equal_points_pull_nowhere(distance: Any, d: int | None) -> None:
    x = scores(N, 5, d)
    twin = x.clone()
    twin[9:12] = twin[:3]
    moved = gradient(lambda x: distance(x, TWO), twin)
    assert bool(moved.isfinite().all())
    constant = torch.ones_like(x)
    assert distance(constant, TWO).abs().max() < 1e-12
    assert gradient(lambda x: distance(x, TWO), constant).abs().max() == 0


@pytest.mark.parametrize("distance", BOTH)
def test_what_is_not_there_has_no_distance_and_no_gradient(distance: Any) -> None:
    member = strata([[4, 0, 1], [1, 1, 1], [0, 0, 0]], outside=2)
    x = torch.tensor([1.0, 2, 3, 4, 50, 6, 70, 8, torch.nan, torch.inf])
    assert distance(x, member).tolist() == [[0, 0, 0]] * 3
    assert gradient(lambda x: distance(x, member), x).tolist() == [0.0] * 10


@pytest.mark.parametrize("distance", BOTH)
def test_one_sample_is_in_no_mixture(distance: Any) -> None:
    x = scores(9, 0)
    found = distance(x, strata([[4, 4, 1]]))
    assert torch.allclose(found[:, :2], distance(x[:8], strata([[4, 4]])), atol=1e-15)


@pytest.mark.parametrize("distance", BOTH)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(distance: Any, dtype: torch.dtype) -> None:
    x = scores(N, 2).to(dtype)
    found = distance(x, TWO)
    assert found.dtype == torch.float32
    assert torch.equal(found, distance(x.float(), TWO))


@pytest.mark.parametrize("distance", BOTH)
def test_mixed_precision_changes_nothing(distance: Any) -> None:
    x = scores(N, 2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = distance(x, TWO)
    assert torch.equal(found, distance(x, TWO))


@pytest.mark.parametrize("distance", BOTH)
def test_extreme_scores_stay_finite(distance: Any) -> None:
    x = torch.tensor([-1e18, 1e-30, 0.0, 1e18, 1e18, 1e-30])
    member = strata([[3, 3]])
    assert bool(distance(x, member).isfinite().all())
    assert bool(gradient(lambda x: distance(x, member), x).isfinite().all())


@pytest.mark.parametrize("distance", BOTH)
def test_the_device_is_never_waited_for(distance: Any) -> None:
    with FakeTensorMode():
        x = torch.randn(8, 2, requires_grad=True)
        distance(x, torch.ones(2, 3, 8)).sum().backward()
        assert x.grad is not None
