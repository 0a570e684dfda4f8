from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from kit import session, tiny_recipe

from fairtune.errors import RunError
from fairtune.training.lane import Lane
from fairtune.training.observer import Decision, Epoch, Quiet
from fairtune.training.recipe import Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job, RunResult, train_one


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


@dataclass
class Noting:
    """Keeps every report; stops after an epoch or at a step, keeps the epochs it is told."""

    last: int | None = None
    polls: int | None = None
    keep: tuple[int, ...] | None = None
    seen: list[Epoch] = field(default_factory=list)
    asked: int = 0

    def epoch(self, report: Epoch) -> Decision:
        self.seen.append(report)
        stop = "seen enough" if report.number == self.last else None
        return Decision(stop=stop, keep=self.keep is None or report.number in self.keep)

    def poll(self) -> str | None:
        self.asked += 1
        return "told to" if self.polls is not None and self.asked > self.polls else None


def made(
    held: Session, observer: Any = None, seeds: Seeds | None = None, **changes: Any
) -> RunResult:
    recipe = held.resolve(tiny_recipe(**changes))
    return train_one(Job(recipe, seeds or Seeds(data=1, init=2)), held, observer or Quiet())


def equal(one: RunResult, other: RunResult) -> bool:
    same = [np.array_equal(a.scores, b.scores) for a, b in zip(one.epochs, other.epochs)]
    return all(same) and all(torch.equal(v, other.weights[n]) for n, v in one.weights.items())


@pytest.mark.parametrize(
    "changes",
    [
        {"adaptation__mask": "fullft"},
        {"adaptation__mask": "attn:last-2", "fit__augment": "light"},
        {"adaptation__mask": "norm:all", "optim__optimizer": "sgd"},
        {"adaptation__mask": "mlp:0", "fit__precision": "bf16"},
        {"optim__mixup": 0.4, "optim__cutmix": 1.0, "optim__ema": 0.9},
        {"fit__augment": "medical", "fit__copies": 2, "optim__layer_decay": 0.7},
        {"fit__augment": "medical", "optim__class_weights": "balanced"},
    ],
)
def test_a_run_is_repeated_bit_for_bit(changes: dict[str, Any], held: Session) -> None:
    one = made(held, **changes)
    # Whatever drew from torch's global source in between must not matter.
    torch.rand(17)
    made(held, seeds=Seeds(data=9, init=9), adaptation__mask="block:0")
    other = made(held, **changes)
    assert equal(one, other)
    assert [e.train_loss for e in one.epochs] == [e.train_loss for e in other.epochs]


def test_another_process_would_repeat_it_too(held: Session) -> None:
    assert equal(made(held), made(session()))


@pytest.mark.parametrize("seeds", [Seeds(data=7, init=2), Seeds(data=1, init=7)])
def test_each_seed_matters(seeds: Seeds, held: Session) -> None:
    assert not equal(made(held), made(held, seeds=seeds))


def test_every_epoch_is_reported(held: Session) -> None:
    observer = Noting()
    result = made(held, observer, optim__epochs=3)
    assert [e.number for e in result.epochs] == [1, 2, 3]
    assert observer.seen == list(result.epochs)
    assert result.kept == 3
    assert result.stopped is None
    ground = held.ground(tiny_recipe())
    for report in result.epochs:
        assert report.of == 3
        assert report.scores.shape == (len(ground.pack.rows("val")), 1)
        assert report.images == len(ground.pack.rows("train"))
        assert report.seconds > 0
    # One question a step and one for a batch that is scored: cheap for the observer, not stale.
    assert observer.asked == 3 * (-(-result.epochs[0].images // 64) + 1)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_loss_that_is_not_finite_ends_the_run(clip: float, held: Session) -> None:
    observer = Noting()
    with pytest.raises(RunError, match="loss is not finite") as caught:
        made(
            held,
            observer,
            adaptation__mask="fullft",
            optim={
                "lr": 1e30,
                "head_lr": 1e30,
                "optimizer": "sgd",
                "clip_norm": clip,
                "epochs": 3,
                "warmup": 0.0,
            },
        )
    assert "lower the learning rate" in str(caught.value) or "validation" in str(caught.value)
    assert observer.seen == []


def test_a_session_survives_a_run_that_failed(held: Session) -> None:
    before = made(held)
    with pytest.raises(RunError):
        made(
            held,
            adaptation__mask="fullft",
            optim={"lr": 1e30, "optimizer": "sgd", "clip_norm": 0.0, "warmup": 0.0},
        )
    assert equal(made(held), before)


def test_memory_that_runs_out_is_an_error_of_the_run(
    held: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(self: Lane, batch: object) -> None:
        torch.empty(2**60)

    monkeypatch.setattr(Lane, "step", exhausted)
    with pytest.raises(RunError, match="out of memory") as caught:
        made(held)
    assert "batch_size" in str(caught.value)


def test_other_faults_are_not_taken_for_memory(
    held: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Lane, batch: object) -> None:
        torch.zeros(2) @ torch.zeros(3)

    monkeypatch.setattr(Lane, "step", broken)
    with pytest.raises(RuntimeError, match="size"):
        made(held)


def test_an_observer_ends_a_run_after_an_epoch(held: Session) -> None:
    result = made(held, Noting(last=2), optim__epochs=4)
    assert result.stopped == "seen enough"
    assert len(result.epochs) == 2
    assert result.costs["epochs"] == 2.0
    assert result.kept == 2
    assert result.weights


def test_an_observer_ends_a_run_within_an_epoch(held: Session) -> None:
    observer = Noting(polls=7)
    result = made(held, observer, optim__epochs=4)
    assert result.stopped == "told to"
    assert len(result.epochs) == 1
    assert observer.asked == 8


def test_a_run_stopped_at_once_has_no_epoch(held: Session) -> None:
    result = made(held, Noting(polls=0))
    assert result.epochs == ()
    assert result.weights == {}
    assert result.costs["images"] == 0.0


def test_the_weights_kept_are_those_of_the_epoch_kept() -> None:
    held = session()
    held.keeps_best = True
    best = made(held, Noting(keep=(1,)), optim__epochs=3)
    assert best.kept == 1
    # The same schedule, ended after the epoch that was kept.
    cut = made(held, Noting(last=1), optim__epochs=3)
    assert all(torch.equal(value, cut.weights[name]) for name, value in best.weights.items())


def test_train_and_validation_rows_are_fitted_together(held: Session) -> None:
    result = made(held, fit__rows="train+val")
    pack = held.ground(tiny_recipe()).pack
    assert result.epochs[0].images == len(pack.rows("train")) + len(pack.rows("val"))
    assert result.epochs[0].scores.shape == (0, 1)
    assert np.isnan(result.epochs[0].val_loss)


def test_costs_say_what_was_trained(held: Session) -> None:
    costs = made(held, adaptation__mask="block:last-1,final_norm").costs
    units = held.ground(tiny_recipe()).units
    expected = sum(units.sizes[n] for n in units.names if n.startswith("blocks.5."))
    assert costs["trainable"] == expected + units.sizes["final_norm"]
    assert costs["trainable_share"] == pytest.approx(costs["trainable"] / units.total)
    assert costs["lowest_block"] == 5.0
    assert costs["images"] == 2 * len(held.ground(tiny_recipe()).pack.rows("train"))
    assert made(held, adaptation__mask="final_norm").costs["lowest_block"] == units.depth


def test_bf16_computes_in_bf16_and_keeps_fp32_weights(held: Session) -> None:
    plain, half = made(held), made(held, fit__precision="bf16")
    assert not np.array_equal(plain.epochs[-1].scores, half.epochs[-1].scores)
    assert plain.epochs[-1].scores == pytest.approx(half.epochs[-1].scores, abs=0.05)
    assert {value.dtype for value in half.weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    "changes",
    [
        {"optim__class_weights": "balanced"},
        {"optim__label_smoothing": 0.2},
        {"optim__mixup": 1.0},
        {"optim__cutmix": 1.0},
        {"optim__ema": 0.9},
        {"optim__layer_decay": 0.5},
        {"fit__augment": "medical"},
        {"fit__augment": "light", "fit__copies": 4},
    ],
)
def test_every_option_changes_what_is_learnt(changes: dict[str, Any], held: Session) -> None:
    plain, other = made(held), made(held, **changes)
    assert not np.allclose(plain.epochs[-1].scores, other.epochs[-1].scores, atol=1e-5)
    assert np.isfinite(other.epochs[-1].scores).all()


def test_fixed_copies_do_not_depend_on_the_seed(held: Session) -> None:
    def images(seed: int, **changes: Any) -> dict[int, torch.Tensor]:
        recipe = held.resolve(tiny_recipe(fit__augment="medical", **changes))
        lane = Lane(recipe, Seeds(data=seed), held.ground(recipe))
        return {int(r): x for b in lane.loader.epoch() for r, x in zip(b.row, b.image)}

    one, other = (images(seed, fit__copies=2) for seed in (1, 2))
    assert all(torch.allclose(image, other[row], atol=1e-6) for row, image in one.items())
    one, other = images(1), images(2)
    assert not all(torch.allclose(image, other[row], atol=1e-2) for row, image in one.items())
