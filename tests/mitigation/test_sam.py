"""Sharpness-aware minimisation by hand, against plain code, and in a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from kit import session
from kit_stepwise import equal, job, lane, made
from numpy.typing import NDArray
from torch import Tensor, nn

from fairtune.config.registry import declared_dimensions
from fairtune.errors import FairtuneError
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.sharpness import sharp
from fairtune.training.lane import Lane
from fairtune.training.session import Session
from fairtune.training.train import train, train_one

Floats = NDArray[np.float64]
SAM = {"sam": {"rho": 0.1}}
STILL = {"sam": {"rho": 1e-30}}
"""A radius that is lost in rounding: both gradients are then those of the weights."""
SGD = {"optimizer": "sgd", "clip_norm": 0.0, "warmup": 0.0, "schedule": "constant"}


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


def parameters(*values: Any) -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in values]


def of(loss: Callable[[], Tensor], held: list[nn.Parameter], asked: list[bool]) -> Any:
    """Return what computes the gradient of `loss` anew, and notes how it was asked."""

    def gradient(first: bool) -> Tensor:
        asked.append(first)
        for p in held:
            p.grad = None
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    return gradient


def test_a_bowl_by_hand() -> None:
    # L = |w|^2 / 2 at (3, 4): g = (3, 4) has norm 5, so that e = 0.5 (0.6, 0.8).
    (w,) = held = parameters([3.0, 4.0])
    asked: list[bool] = []
    loss = sharp(0.5, False)(of(lambda: w.square().sum() / 2, held, asked), held)
    assert loss.item() == 12.5
    assert asked == [True, False]
    assert w.grad is not None
    assert w.grad.tolist() == pytest.approx([3.3, 4.4])
    assert w.tolist() == [3.0, 4.0]


def test_one_norm_over_all_tensors() -> None:
    # L = a^2 / 2 + 2 b: g = (3; 2) has norm sqrt 13, and the second gradient of b is its first.
    a, b = held = parameters([[3.0]], [7.0])
    sharp(1.0, False)(of(lambda: a.square().sum() / 2 + 2 * b.sum(), held, []), iter(held))
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad.item() == pytest.approx(3 + 3 / 13**0.5)
    assert b.grad.item() == 2.0


def adaptive_by_hand(w: Floats, b: Floats, rho: float) -> tuple[Floats, Floats]:
    """Return the gradient of sum(w^4) + sum(b^3) at w + e, as Kwon et al. write e."""
    scale = np.concatenate([np.abs(w).ravel() + 0.01, np.ones(b.size)])
    g = np.concatenate([4 * w.ravel() ** 3, 3 * b**2])
    e = rho * scale**2 * g / np.sqrt(((scale * g) ** 2).sum())
    at = np.concatenate([w.ravel(), b]) + e
    return 4 * at[: w.size].reshape(w.shape) ** 3, 3 * at[w.size :] ** 2


def test_the_adaptive_form_is_the_papers() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(3, 2)), rng.normal(size=4)
    values[0][0, 0] = 0.0
    w, b = held = parameters(*values)
    sharp(0.7, True)(of(lambda: (w**4).sum() + (b**3).sum(), held, []), held)
    for p, wanted in zip(held, adaptive_by_hand(*values, 0.7), strict=True):
        assert p.grad is not None
        assert p.grad.numpy() == pytest.approx(wanted)
    assert np.array_equal(w.detach().numpy(), values[0])
    assert np.array_equal(b.detach().numpy(), values[1])


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_flat_place_moves_nothing(adaptive: bool) -> None:
    (w,) = held = parameters([[0.0, 0.0]])
    sharp(0.5, adaptive)(of(lambda: w.square().sum(), held, []), held)
    assert w.grad is not None
    assert w.grad.tolist() == [[0.0, 0.0]]
    assert w.tolist() == [[0.0, 0.0]]


def test_what_has_no_gradient_is_left_alone() -> None:
    w, other = held = parameters([1.0], [5.0])
    sharp(0.5, False)(of(lambda: w.square().sum(), held, []), held)
    assert other.grad is None
    assert other.item() == 5.0
    alone = parameters([2.0])
    asked: list[bool] = []

    def nothing(first: bool) -> Tensor:
        asked.append(first)
        return torch.tensor(1.5)

    assert sharp(0.5, False)(nothing, alone).item() == 1.5
    assert asked == [True]


def test_an_error_at_the_second_look_gives_the_weights_back() -> None:
    (w,) = held = parameters([0.1, 0.7])
    before = w.detach().clone()

    def gradient(first: bool) -> Tensor:
        if not first:
            raise MemoryError("none left")
        w.grad = torch.ones_like(w)
        return torch.tensor(0.0)

    with pytest.raises(MemoryError):
        sharp(0.3, False)(gradient, held)
    assert torch.equal(w, before)


def by_hand(one: Lane, batches: list[Any], rho: float) -> tuple[list[Tensor], float]:
    """Return SAM's gradients of a lane without it, and the summed loss, in plain torch."""
    forward, trained = one.ground.forward(one.recipe), list(one.trained.values())

    def losses() -> Tensor:
        with one.ground.autocast(one.recipe):
            return torch.cat([forward(one.net, batch).loss for batch in batches])

    first = losses()
    g = torch.autograd.grad(first.mean(), trained)
    norm = torch.cat([x.ravel() for x in g]).norm()
    values = [p.detach().clone() for p in trained]
    with torch.no_grad():
        for p, x in zip(trained, g, strict=True):
            p += rho * x / norm
    found = torch.autograd.grad(losses().mean(), trained)
    with torch.no_grad():
        for p, value in zip(trained, values, strict=True):
            p.copy_(value)
    return list(found), float(first.detach().sum())


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_a_run_is_that_of_plain_code(
    accumulate: int, precision: str, held: Session
) -> None:
    changes: dict[str, Any] = {
        "optim": {"lr": 0.1, "head_lr": 0.1, "weight_decay": 0.0, "batch_size": 32, **SGD},
        "optim__accumulate": accumulate,
        "fit__precision": precision,
        "adaptation__mask": "block:last-1",
    }
    one = lane(held, {"sam": {"rho": 0.5}}, **changes)
    plain = lane(held, **changes)
    batches = [batch for batch, _ in zip(one.loader.epoch(), range(accumulate))]
    close = 1e-5 if precision == "fp32" else 5e-2
    before = one.weights()
    gradients, loss = by_hand(plain, batches, 0.5)
    summed = one.step(*batches)
    assert summed.item() == pytest.approx(loss, rel=1e-5)
    for (name, p), wanted in zip(one.trained.items(), gradients, strict=True):
        assert p.grad is not None
        size = wanted.abs().max().item()
        assert torch.allclose(p.grad, wanted, rtol=close, atol=close * size), name
        # One step of plain descent from the weights as they were.
        assert torch.allclose(p.detach(), before[name] - 0.1 * p.grad, atol=1e-6), name
        assert p.dtype == torch.float32
    unlike, _ = by_hand(plain, batches, 1e-9)
    assert not all(torch.allclose(a, b, rtol=0.01) for a, b in zip(gradients, unlike))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optim__accumulate": 2, "fit__augment": "light", "optim__mixup": 0.4},
        {"fit__precision": "bf16", "optim__ema": 0.9},
        {"adaptation": {"mask": "attn:last-1", "method": {"lora": {"dropout": 0.5}}}},
        {"adaptation": {"mask": "attn:last-1", "method": {"adalora": {"rank": 2}}}},
    ],
)
def test_without_a_radius_it_is_the_run_without(changes: dict[str, Any], held: Session) -> None:
    """The same samples are drawn, mixed and dropped out at both looks, and nothing else moves."""
    equal(made(held, STILL, **changes), made(held, **changes))


@pytest.mark.parametrize("adaptive", [False, True])
def test_it_acts_and_is_repeated_bit_for_bit(adaptive: bool, held: Session) -> None:
    sam = {"sam": {"rho": 0.3, "adaptive": adaptive}}
    changes = {"adaptation": {"mask": "attn:last-1", "method": {"lora": {"dropout": 0.2}}}}
    one = made(held, sam, **changes)
    torch.rand(3)
    equal(one, made(held, sam, **changes))
    plain = made(held, **changes)
    assert any(not torch.equal(v, plain.weights[n]) for n, v in one.weights.items())
    assert one.costs["images"] == plain.costs["images"]


def test_in_company_it_gives_what_it_gives_alone(held: Session) -> None:
    changes = {"adaptation": {"mask": "attn:last-1", "method": {"lora": {"dropout": 0.2}}}}
    adaptive = {"sam": {"adaptive": True}}
    jobs = [job(held, *which, **changes) for which in ([SAM], [], [adaptive])]
    for together, one in zip(train(jobs, held), jobs, strict=True):
        equal(together, train_one(one, held))


def test_a_head_alone_can_be_trained_with_it(held: Session) -> None:
    result = made(held, SAM, adaptation__mask="none")
    begun = lane(held, SAM, adaptation__mask="none")
    assert set(result.weights) == {"head.weight", "head.bias"}
    assert not torch.equal(result.weights["head.weight"], begun.weights()["head.weight"])


@pytest.mark.parametrize("rho", [0, -0.1])
def test_a_radius_is_above_0(rho: float) -> None:
    with pytest.raises(FairtuneError, match="greater than 0"):
        MITIGATIONS.parse({"sam": {"rho": rho}})


def test_both_fields_are_searched() -> None:
    assert set(declared_dimensions(MITIGATIONS.get("sam"))) == {"rho", "adaptive"}


@pytest.mark.parametrize("adaptive", [False, True])
def test_nothing_is_read_from_the_device(adaptive: bool) -> None:
    """Tensors without values cannot be read: a step that waits for one fails."""
    held = [nn.Parameter(torch.empty(shape, device="meta")) for shape in ((2, 3), (4,))]

    def gradient(first: bool) -> Tensor:
        for p in held:
            p.grad = torch.empty_like(p)
        return torch.empty((), device="meta")

    loss = sharp(0.1, adaptive)(gradient, held)
    assert loss.device.type == "meta"
    with pytest.raises(RuntimeError):
        loss.item()
