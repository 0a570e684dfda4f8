"""The Sinkhorn divergence against plain converged iterations, geomloss and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_strata import RAGGED, gradient, scores, sides, strata
from torch import Tensor

from fairtune.mitigation.transport import sinkhorn, w2
from fairtune.mitigation.transport.dual import solved

ONE = strata([list(RAGGED)])
N = ONE.shape[-1]
TWO = strata([[9, 5, 1], [2, 0, 12]], outside=3)


@pytest.fixture(scope="module")
def geomloss() -> Any:
    import geomloss

    return geomloss


def scaled(kernel: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The plan with the sums a and b, by Sinkhorn's own iterations until the sums are right."""
    u, v = np.ones_like(a), np.ones_like(b)
    for step in range(300_000):
        if np.array_equal(kernel, kernel.T):
            u = v = np.sqrt(v * a / (kernel @ v))
        else:
            u = a / (kernel @ v)
            v = b / (kernel.T @ u)
        if step % 50 == 0 and np.abs(u * (kernel @ v) - a).sum() < 1e-9:
            return u[:, None] * kernel * v
    raise AssertionError("the reference does not converge")


def plainly(x: Tensor, y: Tensor, blur: float) -> Tensor:
    """OT_eps of two samples, with the gradient of the cost."""
    cost = (x.reshape(len(x), 1, -1) - y.reshape(1, len(y), -1)).square().sum(dim=-1) / 2
    a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    plan = torch.from_numpy(scaled(np.exp(-cost.detach().numpy() / blur**2), a, b))
    kl = torch.xlogy(plan, plan * len(x) * len(y)).sum()
    return (plan * cost).sum() + blur**2 * kl


def divergence(x: Tensor, y: Tensor, blur: float) -> Tensor:
    return plainly(x, y, blur) - plainly(x, x, blur) / 2 - plainly(y, y, blur) / 2


def value(x: Tensor, member: Tensor, blur: float) -> Tensor:
    found, unsolved = sinkhorn(x, member, blur)
    assert unsolved.item() == 0
    return found


@pytest.mark.parametrize(("blur", "seed"), [(0.1, 0), (0.3, 1), (0.3, 2), (1.0, 3)])
@pytest.mark.parametrize("d", [None, 2])
def test_value_and_gradient_are_those_of_plain_iterations(
    blur: float, seed: int, d: int | None
) -> None:
    x = scores(N, seed, d)
    for g in range(3):

        def theirs(x: Tensor, g: int = g) -> Tensor:
            return divergence(*sides(x, ONE, 0, g), blur)

        def ours(x: Tensor, g: int = g) -> Tensor:
            return value(x, ONE, blur)[0, g]

        expected, moved = theirs(x), gradient(theirs, x)
        assert ours(x).item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-9)
        assert (gradient(ours, x) - moved).norm() < 1e-3 * moved.norm()


# Its number of iterations follows from `scaling` alone: with .95 it is up to 3 % short at blur .1.
@pytest.mark.parametrize(
    ("blur", "scaling", "seed"),
    [*((1.0, 0.95, seed) for seed in range(4)), (0.3, 0.99, 1), (0.3, 0.99, 2), (0.1, 0.999, 0)],
)
def test_value_is_that_of_geomloss(geomloss: Any, blur: float, scaling: float, seed: int) -> None:
    x = scores(N, seed)
    theirs = geomloss.SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling)
    found = value(x, ONE, blur)
    for g in range(3):
        everybody, group = sides(x, ONE, 0, g)
        expected = theirs(everybody[:, None], group[:, None])
        assert found[0, g].item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_a_small_blur_is_none(seed: int) -> None:
    x = scores(N, seed)
    found, unsolved = sinkhorn(x, ONE, 1e-3, most=300)
    assert unsolved.item() == 0
    assert torch.allclose(found, w2(x, ONE), rtol=1e-4)


def test_a_large_blur_compares_means() -> None:
    x = scores(N, 0)
    apart = torch.stack([(x.mean() - x[group > 0].mean()) ** 2 / 2 for group in ONE[0]])
    assert torch.allclose(value(x, ONE, 100.0)[0], apart, rtol=1e-3)


@pytest.mark.parametrize("blur", [0.1, 0.5, 2.0])
def test_a_translation_by_c_is_half_its_square(blur: float) -> None:
    c, n = 1.7, 12
    x = scores(n, 1)
    points = torch.cat([x, x + c])
    cost = ((points[:, None] - points) ** 2 / 2)[None, None]
    u, v = torch.eye(2, dtype=torch.float64).repeat_interleave(n, dim=1) / n
    rows, columns = torch.stack([u, u, v])[None], torch.stack([v, u, v])[None]
    cross, left, right = solved(cost, rows, columns, blur, 1e-6, 60).value[0]
    assert (cross - left / 2 - right / 2).item() == pytest.approx(c**2 / 2, rel=1e-9)


@pytest.mark.parametrize("blur", [0.3, 1.0, 3.0])
def test_two_points_have_a_closed_form(blur: float) -> None:
    # The plan of {0, c} with itself is ((q, r), (r, q)) with r / q = exp(-c^2 / (2 blur^2)).
    c, eps = 1.3, blur**2
    q = 0.5 / (1 + math.exp(-(c**2) / (2 * eps)))
    r = 0.5 - q
    kl = 2 * q * math.log(4 * q) + 2 * r * math.log(4 * r)
    own = r * c**2 + eps * kl
    found = value(torch.tensor([0, c], dtype=torch.float64), strata([[1, 1]]), blur)
    assert found[0].tolist() == pytest.approx([c**2 / 4 - own / 2] * 2, rel=1e-9)


def test_a_group_that_is_everybody_has_no_distance() -> None:
    x, member = scores(12, 0), strata([[12, 0]])
    assert value(x, member, 0.3).abs().max() < 1e-12
    assert gradient(lambda x: value(x, member, 0.3), x).abs().max() < 1e-9


def test_a_problem_is_the_same_alone_and_beside_others() -> None:
    x = scores(TWO.shape[-1], 3)
    found, moved = value(x, TWO, 0.3), gradient(lambda x: value(x, TWO, 0.3)[0], x)
    alone = strata([[9, 5, 1]])
    assert torch.allclose(found[:1], value(x[:15], alone, 0.3), rtol=1e-6)
    expected = gradient(lambda x: value(x, alone, 0.3), x[:15])
    assert torch.allclose(moved[:15], expected, atol=1e-6)
    assert moved[15:].abs().max() == 0


@settings(max_examples=30)
@given(st.lists(st.floats(-5, 5), min_size=9, max_size=9), st.floats(-9, 9), st.floats(0.1, 10))
def test_sign_shift_scale_and_order(values: list[float], shift: float, scale: float) -> None:
    x, member = torch.tensor(values, dtype=torch.float64), strata([[4, 3, 2]])
    found = value(x, member, 0.5)
    assert bool((found > -1e-9).all())
    moved = value(scale * x + shift, member, scale * 0.5)
    assert torch.allclose(moved, scale**2 * found, rtol=1e-6, atol=1e-7 * scale**2)
    order = torch.arange(8, -1, -1)
    assert torch.allclose(value(x[order], member[..., order], 0.5), found, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("d", [None, 2])
def test_gradients_are_differences(d: int | None) -> None:
    x = scores(TWO.shape[-1], 2, d).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sinkhorn(x, TWO, 0.4, tolerance=1e-5)[0], x)


@pytest.mark.parametrize("kind", ["clusters", "outliers", "ties"])
@pytest.mark.parametrize("blur", [0.1, 1.0])
def test_hard_scores_are_solved(kind: str, blur: float) -> None:
    for seed in range(5):
        x = scores(N, seed)
        if kind == "clusters":
            x = 0.2 * x + 3.0 * (torch.arange(N) % 5 == 0)
        elif kind == "outliers":
            x = x / (scores(N, seed + 100).abs() + 0.1)
        else:
            x = x.round()
        x = (x - x.mean()) / x.std()
        found = value(x, ONE, blur)
        tight, unsolved = sinkhorn(x, ONE, blur, tolerance=1e-5)
        assert unsolved.item() == 0
        assert torch.allclose(found, tight, rtol=1e-4, atol=1e-7)


def test_what_is_not_solved_is_counted() -> None:
    x = scores(N, 0)
    unsolved = sinkhorn(x, ONE, 0.1, most=1)[1]
    assert unsolved.shape == ()
    assert not unsolved.is_floating_point()
    assert 0 < unsolved.item() <= 7
    assert sinkhorn(x, ONE, 0.1, most=0)[1].item() == 7
    assert sinkhorn(x, ONE, 0.1, most=60)[1].item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_precision_of_the_scores_is_that_of_the_result(dtype: torch.dtype) -> None:
    x = scores(N, 2).to(dtype)
    found = value(x, ONE, 0.3)
    assert found.dtype == torch.float32
    assert torch.allclose(found, value(x.double(), ONE, 0.3).float(), rtol=1e-6)
    assert gradient(lambda x: value(x, ONE, 0.3), x).dtype == dtype


def test_an_offset_costs_nothing() -> None:
    x = (scores(N, 0) * 64).round() / 64
    moved = value((x + 4096).float(), ONE, 0.3)
    assert torch.allclose(moved, value(x, ONE, 0.3).float(), rtol=1e-5)


def test_mixed_precision_changes_nothing() -> None:
    x = scores(N, 2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value(x, ONE, 0.3)
    assert torch.equal(found, value(x, ONE, 0.3))


def test_what_is_not_there_has_no_distance_and_no_gradient() -> None:
    member = strata([[4, 0], [0, 0]], outside=2)
    x = torch.tensor([1.0, 2, 3, 4, torch.nan, torch.inf])
    assert value(x, member, 0.3).abs().max() < 1e-12
    assert gradient(lambda x: value(x, member, 0.3), x).abs().max() < 1e-7
    nobody = torch.zeros(1, 2, 6)
    assert value(x, nobody, 0.3).tolist() == [[0, 0]]
    assert gradient(lambda x: value(x, nobody, 0.3), x).tolist() == [0.0] * 6


def test_constant_scores_have_no_distance() -> None:
    x = torch.full((N,), 3.7)
    assert value(x, ONE, 0.3).abs().max() < 1e-12
    assert gradient(lambda x: value(x, ONE, 0.3), x).abs().max() == 0


@pytest.mark.parametrize("size", [1e3, 1e6, 1e12])
def test_extreme_scores_stay_finite(size: float) -> None:
    x = torch.tensor([-1.0, 0, 0.5, 1, 1, 0]) * size
    member = strata([[3, 3]])
    found, _ = sinkhorn(x, member, 0.3)
    assert torch.allclose(found, w2(x, member), rtol=1e-3)
    assert bool(gradient(lambda x: sinkhorn(x, member, 0.3)[0], x).isfinite().all())


def test_a_score_that_is_not_a_number_is_not_hidden() -> None:
    x = scores(N, 0)
    x[0] = torch.nan
    found, unsolved = sinkhorn(x, ONE, 0.3)
    assert bool(found.isnan().any())
    assert unsolved.item() > 0
