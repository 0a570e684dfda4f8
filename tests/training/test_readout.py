from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from kit import session, tiny_recipe
from scipy import optimize
from sklearn.linear_model import LogisticRegression

from fairtune.training.observer import Quiet
from fairtune.training.recipe import Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job, train_one
from fairtune.usage.losses import sample_loss
from fairtune.usage.readout import fit, mean_loss, targets

N, DIM = 300, 7


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


def drawn(classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features on very different scales, one of them constant, and labels."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N, DIM)) * 10.0 ** rng.integers(-3, 4, DIM) + 5
    x[:, 2] = 1.25
    z = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    logits = z @ rng.standard_normal((DIM, classes)) + rng.gumbel(size=(N, classes))
    return x, logits.argmax(axis=1)


def standardised(x: np.ndarray) -> np.ndarray:
    sd = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(sd > 1e-12, sd, 1.0)


@pytest.mark.parametrize("l2", [1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_binary_readout_is_sklearns(l2: float, seed: int) -> None:
    x, y = drawn(2, seed)
    weight, bias, _ = fit(x, y, "binary", 1, l2)
    # sklearn minimises C * sum(loss) + |w|^2 / 2.
    other = LogisticRegression(C=1 / (l2 * N), tol=1e-10, max_iter=10_000)
    other.fit(standardised(x), y)
    expected = other.decision_function(standardised(x))
    assert x @ weight[0] + bias[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_a_multiclass_readout_is_sklearns(l2: float, classes: int) -> None:
    x, y = drawn(classes)
    weight, bias, _ = fit(x, y, "multiclass", classes, l2)
    other = LogisticRegression(C=1 / (l2 * N), tol=1e-10, max_iter=10_000)
    other.fit(standardised(x), y)
    found, expected = x @ weight.T + bias, other.decision_function(standardised(x))
    # Softmax does not tell a constant added to all classes.
    found, expected = (v - v.mean(axis=1, keepdims=True) for v in (found, expected))
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_multilabel_readout_is_one_binary_readout_per_target() -> None:
    x, first = drawn(2)
    _, second = drawn(2, seed=1)
    both = np.stack([first, second], axis=1)
    # The loss is the mean over targets, so each bears half of it and the penalty in full.
    weight, bias, _ = fit(x, both, "multilabel", 2, 1e-2)
    for j, y in enumerate((first, second)):
        alone, alone_bias, _ = fit(x, y, "binary", 1, 2e-2)
        assert x @ weight[j] + bias[j] == pytest.approx(x @ alone[0] + alone_bias[0], abs=1e-4)


@pytest.mark.parametrize(("task", "classes"), [("binary", 2), ("multiclass", 4)])
@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
def test_the_solution_is_the_optimum(task: Any, classes: int, l2: float) -> None:
    x, y = drawn(classes)
    outputs = 1 if task == "binary" else classes
    weight, bias, loss = fit(x, y, task, outputs, l2)
    z, sd = standardised(x), np.where(x.std(axis=0) > 1e-12, x.std(axis=0), 1.0)
    scaled = weight * sd
    found, d_logits = mean_loss(x @ weight.T + bias, targets(y, task, outputs), task)
    gradient = np.concatenate([(d_logits.T @ z + l2 * scaled).ravel(), d_logits.sum(axis=0)])
    assert np.abs(gradient).max() <= 1e-6
    assert loss == pytest.approx(found)


@pytest.mark.parametrize(
    ("task", "outputs"), [("binary", 1), ("multiclass", 3), ("multilabel", 2)]
)
def test_the_gradient_of_the_loss_is_right(task: Any, outputs: int) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 4) if task == "multiclass" else rng.integers(0, 2, (4, outputs))
    target = targets(y, task, outputs)
    at = rng.standard_normal(4 * outputs)

    def loss(flat: np.ndarray) -> float:
        return mean_loss(flat.reshape(4, outputs), target, task)[0]

    _, gradient = mean_loss(at.reshape(4, outputs), target, task)
    assert gradient.ravel() == pytest.approx(optimize.approx_fprime(at, loss), abs=1e-6)


def test_extreme_logits_stay_finite() -> None:
    target = np.array([[1.0], [0.0]])
    loss, gradient = mean_loss(np.array([[-1e4], [1e4]]), target, "binary")
    assert loss == pytest.approx(1e4)
    assert np.isfinite(gradient).all()


def test_a_run_with_an_empty_mask_is_solved_in_one_epoch(held: Session) -> None:
    recipe = held.resolve(tiny_recipe(adaptation__mask="none", optim__epochs=5))
    result = train_one(Job(recipe, Seeds()), held, Quiet())
    (report,) = result.epochs
    assert (report.number, report.of, result.kept, result.stopped) == (1, 1, 1, None)
    assert set(result.weights) == {"head.weight", "head.bias"}
    ground = held.ground(recipe)
    x, y = (
        f(ground.fit_rows(recipe)) for f in (lambda r: ground.features(recipe, r), ground.labels)
    )
    other = LogisticRegression(C=1 / (0.01 * len(y)), tol=1e-10, max_iter=10_000)
    other.fit(standardised(x), y)
    sd = np.where(x.std(axis=0) > 1e-12, x.std(axis=0), 1.0)
    val = (ground.features(recipe, ground.val_rows(recipe)) - x.mean(axis=0)) / sd
    assert report.scores[:, 0] == pytest.approx(other.decision_function(val), abs=1e-4)


def test_the_seed_of_a_solved_run_does_not_matter(held: Session) -> None:
    recipe = held.resolve(tiny_recipe(adaptation__mask="none"))
    one, other = (train_one(Job(recipe, Seeds(data=s, init=s)), held, Quiet()) for s in (1, 2))
    assert np.array_equal(one.epochs[0].scores, other.epochs[0].scores)


def test_a_solved_run_on_train_and_validation_has_no_scores(held: Session) -> None:
    recipe = held.resolve(tiny_recipe(adaptation__mask="none", fit__rows="train+val"))
    (report,) = train_one(Job(recipe, Seeds()), held, Quiet()).epochs
    assert report.scores.shape == (0, 1)
    assert np.isnan(report.val_loss)
    assert report.images == len(held.ground(recipe).fit_rows(recipe))


@pytest.mark.parametrize("classes", [2, 4])
def test_a_balanced_readout_is_sklearns(classes: int) -> None:
    x, y = drawn(classes)
    y = np.where(np.arange(N) % 3 == 0, y, 0)
    task: Any = "binary" if classes == 2 else "multiclass"
    weight, bias, _ = fit(x, y, task, 1 if classes == 2 else classes, 1e-2, balance=True)
    other = LogisticRegression(
        C=1 / (0.01 * N), tol=1e-10, max_iter=10_000, class_weight="balanced"
    )
    other.fit(standardised(x), y)
    found, expected = x @ weight.T + bias, other.decision_function(standardised(x))
    if classes == 2:
        found = found[:, 0]
    else:
        found, expected = (v - v.mean(axis=1, keepdims=True) for v in (found, expected))
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_balanced_multilabel_readout_balances_every_target() -> None:
    x, first = drawn(2)
    both = np.stack([first, np.arange(N) % 5 == 0], axis=1).astype(np.int64)
    weight, bias, _ = fit(x, both, "multilabel", 2, 1e-2, balance=True)
    for j in range(2):
        alone, alone_bias, _ = fit(x, both[:, j], "binary", 1, 2e-2, balance=True)
        assert x @ weight[j] + bias[j] == pytest.approx(x @ alone[0] + alone_bias[0], abs=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_smoothed_readout_is_that_of_every_class_in_its_share(classes: int) -> None:
    x, y = drawn(classes)
    task: Any = "binary" if classes == 2 else "multiclass"
    weight, bias, _ = fit(x, y, task, 1 if classes == 2 else classes, 1e-2, smoothing=0.3)
    # Every sample once with each class, weighted by its share of the softened label.
    many = np.tile(standardised(x), (classes, 1))
    label = np.repeat(np.arange(classes), N)
    share = np.where(label == np.tile(y, classes), 0.7, 0.0) + 0.3 / classes
    other = LogisticRegression(C=1 / (0.01 * N), tol=1e-10, max_iter=10_000)
    other.fit(many, label, sample_weight=share)
    found, expected = x @ weight.T + bias, other.decision_function(standardised(x))
    if classes == 2:
        found = found[:, 0]
    else:
        found, expected = (v - v.mean(axis=1, keepdims=True) for v in (found, expected))
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("task", "outputs"), [("binary", 1), ("multiclass", 3), ("multilabel", 2)]
)
def test_the_gradient_of_the_weighted_loss_is_right(task: Any, outputs: int) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 4) if task == "multiclass" else rng.integers(0, 2, (4, outputs))
    target = targets(y, task, outputs) * 0.8 + 0.1
    weight = rng.random(3) if task == "multiclass" else rng.random((2, outputs))
    at = rng.standard_normal(4 * outputs)

    def loss(flat: np.ndarray) -> float:
        return mean_loss(flat.reshape(4, outputs), target, task, weight)[0]

    value, gradient = mean_loss(at.reshape(4, outputs), target, task, weight)
    assert gradient.ravel() == pytest.approx(optimize.approx_fprime(at, loss), abs=1e-6)
    score, share = (torch.from_numpy(v.reshape(4, outputs)) for v in (at, target))
    trained = sample_loss(score, share, task, torch.from_numpy(weight))
    assert value == pytest.approx(float(trained.mean()))


def test_a_solved_run_honours_weights_and_smoothing(held: Session) -> None:
    def scores(**changes: Any) -> np.ndarray:
        recipe = held.resolve(tiny_recipe(adaptation__mask="none", **changes))
        return train_one(Job(recipe, Seeds()), held, Quiet()).epochs[0].scores

    plain = scores()
    assert not np.allclose(plain, scores(optim__class_weights="balanced"), atol=1e-3)
    assert not np.allclose(plain, scores(optim__label_smoothing=0.2), atol=1e-3)
    assert np.array_equal(plain, scores(optim__mixup=0.4, optim__ema=0.9))
