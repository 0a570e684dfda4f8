"""Exact transport against POT, an assignment solver, replicated samples and closed forms."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit_strata import RAGGED, gradient, scores, sides, strata
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fairtune.mitigation.transport import w2, w2_points

TWO = strata([[9, 5, 1], [2, 0, 12]], outside=3)
N = TWO.shape[-1]
numbers = st.integers(-50, 50)


@pytest.fixture(scope="module")
def pot() -> Any:
    import ot

    return ot


def replicated(x: np.ndarray, y: np.ndarray) -> float:
    """Half the mean square between sorted samples, each repeated to the same number."""
    size = math.lcm(len(x), len(y))
    left, right = (np.sort(np.repeat(v, size // len(v))) for v in (x, y))
    return float(np.mean((left - right) ** 2) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_value_and_gradient_are_pots(pot: Any, seed: int) -> None:
    x = scores(N, seed)
    for p, g in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]:

        def theirs(x: Tensor, p: int = p, g: int = g) -> Tensor:
            everybody, group = sides(x, TWO, p, g)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*use of .x\\.T. on tensors")
                return pot.wasserstein_1d(everybody[:, None], group[:, None], p=2) / 2

        def ours(x: Tensor, p: int = p, g: int = g) -> Tensor:
            return w2(x, TWO)[p, g]

        assert ours(x).item() == pytest.approx(theirs(x).item(), rel=1e-9)
        assert torch.allclose(gradient(ours, x), gradient(theirs, x), rtol=1e-9, atol=1e-12)


@given(st.lists(numbers, min_size=1, max_size=9), st.lists(numbers, min_size=1, max_size=9))
def test_tied_and_ragged_samples_are_those_repeated_to_one_size(
    a: list[int], b: list[int]
) -> None:
    found = w2(torch.tensor(a + b, dtype=torch.float64), strata([[len(a), len(b)]]))
    for g, group in enumerate((a, b)):
        expected = replicated(np.array(a + b, float), np.array(group, float))
        assert found[0, g].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(st.lists(st.floats(-9, 9), min_size=8, max_size=8), st.floats(-5, 5), st.floats(0.1, 10))
def test_shift_scale_and_order(values: list[float], shift: float, scale: float) -> None:
    x, member = torch.tensor(values, dtype=torch.float64), strata([[5, 3]])
    found = w2(x, member)
    assert bool((found >= 0).all())
    assert torch.allclose(w2(scale * x + shift, member), scale**2 * found, atol=1e-9)
    order = torch.arange(7, -1, -1)
    assert torch.allclose(w2(x[order], member[..., order]), found, atol=1e-12)


def test_two_points_far_apart() -> None:
    # Half of the mass of {0, c} moves by c.
    for c in (0.5, 3.0, 1e4):
        found = w2(torch.tensor([0, c]), strata([[1, 1]]))
        assert found.tolist() == [pytest.approx([c**2 / 4, c**2 / 4])]


def test_a_translated_majority_gives_half_the_square_in_the_limit() -> None:
    # One sample at 0 and m at c: m / (m + 1) of the mass moves by c.
    m, c = 99, 2.0
    found = w2(torch.tensor([0.0] + [c] * m), strata([[1, m]]))
    assert found[0, 0].item() == pytest.approx(c**2 / 2 * m / (m + 1))
    assert found[0, 1].item() == pytest.approx(c**2 / 2 / (m + 1))


def test_a_group_that_is_everybody_has_no_distance() -> None:
    x = scores(12, 0)
    member = strata([[12, 0]])
    assert w2(x, member).tolist() == [[0.0, 0.0]]
    assert gradient(lambda x: w2(x, member), x).abs().max() == 0


def test_a_problem_is_the_same_alone_and_beside_others() -> None:
    x = scores(N, 3)
    alone = w2(x[:15], strata([[9, 5, 1]]))
    assert torch.allclose(w2(x, TWO)[:1], alone, rtol=1e-12)


@pytest.mark.parametrize("distance", [w2, w2_points])
def test_gradients_are_differences(distance: Any) -> None:
    x = scores(N, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: distance(x, TWO.bool()), x)


@pytest.mark.parametrize("distance", [w2, w2_points])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(distance: Any, dtype: torch.dtype) -> None:
    x = scores(N, 2).to(dtype)
    found = distance(x, TWO)
    assert found.dtype == torch.float32
    assert torch.equal(found, distance(x.float(), TWO))
    assert gradient(lambda x: distance(x, TWO), x).dtype == dtype


@pytest.mark.parametrize("distance", [w2, w2_points])
def test_what_is_not_there_has_no_distance_and_no_gradient(distance: Any) -> None:
    member = strata([[4, 0], [0, 0]], outside=2)
    x = torch.tensor([1.0, 2, 3, 4, torch.nan, torch.inf])
    assert distance(x, member).tolist() == [[0, 0], [0, 0]]
    assert gradient(lambda x: distance(x, member), x).tolist() == [0.0] * 6


@pytest.mark.parametrize("distance", [w2, w2_points])
def test_constant_scores_have_no_distance(distance: Any) -> None:
    member = strata([list(RAGGED)])
    x = torch.full((sum(RAGGED),), 3.7)
    assert distance(x, member).tolist() == [[0, 0, 0]]
    assert gradient(lambda x: distance(x, member), x).abs().max() == 0


def test_extreme_scores_are_exact() -> None:
    x = torch.tensor([-1e18, 1e-30, 1e18, 1e-30])
    member = strata([[2, 2, 0]])
    assert w2(x, member)[0, :2].tolist() == pytest.approx([2.5e35, 2.5e35])
    assert bool(gradient(lambda x: w2(x, member), x).isfinite().all())
    # The square of this is above the range: infinite, and an empty group beside it is still 0.
    assert w2(x * 1e10, member).tolist() == [[torch.inf, torch.inf, 0.0]]


def test_an_offset_costs_no_more_than_the_precision_of_the_scores() -> None:
    x, member = (scores(59, 0) * 64).round() / 64, strata([list(RAGGED)])
    assert torch.allclose(w2((x + 4096).float(), member), w2(x, member).float(), rtol=1e-5)


def test_w2_takes_a_column_and_refuses_vectors() -> None:
    x = scores(N, 0)
    assert torch.equal(w2(x[:, None], TWO), w2(x, TWO))
    with pytest.raises(ValueError, match="found 2: use w2_points"):
        w2(scores(N, 0, d=2), TWO)


def test_w2_never_waits_for_the_device() -> None:
    with FakeTensorMode():
        x = torch.randn(8, requires_grad=True)
        member = torch.ones(2, 3, 8)
        w2(x, member).sum().backward()
        assert x.grad is not None
        # What would wait is seen here.
        with pytest.raises(Exception, match="_local_scalar_dense"):
            bool(w2(x, member).max() > 0)


def test_points_on_a_line_have_the_distance_of_numbers() -> None:
    x = scores(N, 4)
    assert torch.allclose(w2_points(x, TWO), w2(x, TWO), rtol=1e-9)
    line = x[:, None] * torch.tensor([0.6, 0.8], dtype=torch.float64)
    assert torch.allclose(w2_points(line, TWO), w2(x, TWO), rtol=1e-9)


def test_vectors_are_assigned_at_the_least_cost() -> None:
    x, member = scores(24, 5, d=3), strata([[16, 8]])
    everybody, group = x.numpy(), x.numpy()[16:]
    cost = ((everybody[:, None] - np.repeat(group, 3, axis=0)[None]) ** 2).sum(axis=-1)
    expected = cost[linear_sum_assignment(cost)].mean() / 2
    assert w2_points(x, member)[0, 1].item() == pytest.approx(expected, rel=1e-9)


def test_the_gradient_of_vectors_is_differences() -> None:
    x = scores(14, 6, d=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: w2_points(x, strata([[5, 3], [0, 4]], 2)), x)
