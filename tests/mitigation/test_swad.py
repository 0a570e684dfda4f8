"""The valley by hand and by brute force, the mean against recorded weights, runs of few epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import session
from kit_stepwise import SEEDS, equal, job, killed, lane, made, polls, resolved
from torch import Tensor, nn

from fairtune.errors import ConfigError, FairtuneError
from fairtune.mitigation.valley import Valley
from fairtune.training.checkpoint import Checkpoints
from fairtune.training.lane import Lane
from fairtune.training.session import Session
from fairtune.training.train import RunResult, train, train_one

EARLY = {"swad": {"converge": 1, "tolerance": 3, "ratio": 0.5}}
STEPS = 3
"""Steps of a pass of the scripted runs."""


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


class Scripted:
    """A valley that is told scripted losses; keeps the weights after every step."""

    def __init__(self, converge: int, tolerance: int, ratio: float) -> None:
        self.weights = nn.Parameter(torch.zeros(2))
        self.of = {"w": self.weights}
        self.valley = Valley(converge, tolerance, ratio).begin(self.of)
        self.recorded: list[np.ndarray] = []

    def go(self, *losses: float) -> Valley:
        for loss in losses:
            for _ in range(STEPS):
                at = len(self.recorded) + 1
                self.weights.data = torch.tensor([float(at), at**1.5 + 7])
                self.recorded.append(self.weights.detach().double().numpy())
                self.valley.update()
            self.valley.passed(loss)
        return self.valley

    def mean(self, first: int, last: int) -> np.ndarray:
        """Return the mean over the steps of passes `first` to `last`, counted from 1."""
        found: np.ndarray = np.mean(self.recorded[(first - 1) * STEPS : last * STEPS], axis=0)
        return found


@pytest.mark.parametrize(
    ("losses", "first", "last", "closed"),
    [
        # 3 is the least of 3, 3.1, 3.2; the rim is 1.1 * 3.1 = 3.41; two passes above close it.
        ([5, 4, 3, 3.1, 3.2, 9, 9, 1, 1], 3, 5, True),
        # One pass above is in a valley that goes on behind it.
        ([5, 4, 3, 3.1, 3.2, 9, 3, 3.3], 3, 8, False),
        # At the end it reaches to the last pass not above the rim.
        ([5, 4, 3, 3.1, 3.2, 9], 3, 5, False),
        # Equal losses open it: the first of them is the least.
        ([2, 2, 2], 1, 3, False),
        # A pass above the rim already where it opens: 1.1 * (1 + 1 + 4) / 3 = 2.2.
        ([1, 1, 4], 1, 2, False),
        # A loss that is no number is no valley.
        ([2, 2, 2, float("nan"), float("nan"), 2], 1, 3, True),
        # It has not opened: the last pass counts.
        ([5, 4, 3, 2], 4, 4, None),
        ([5, 4], 2, 2, None),
        ([3, 1, 2, 0.5], 4, 4, None),
    ],
)
def test_the_valley_by_hand(
    losses: list[float], first: int, last: int, closed: bool | None
) -> None:
    script = Scripted(converge=3, tolerance=2, ratio=0.1)
    valley = script.go(*losses)
    report = valley.report()
    assert valley.held["w"].numpy() == pytest.approx(script.mean(first, last), rel=1e-6)
    assert report["steps"] == (last - first + 1) * STEPS
    assert report["losses"] == pytest.approx(losses, nan_ok=True)
    if closed is None:
        assert report["opened"] is None
    else:
        assert (report["opened"], report["until"], report["closed"]) == (first, last, closed)


def brute(losses: list[float], converge: int, tolerance: int, ratio: float) -> tuple[int, int]:
    """Return the passes of the valley, counted from 1, as Algorithm 1 of the paper finds them."""
    count = len(losses)
    for i in range(converge - 1, count):
        window = losses[i - converge + 1 : i + 1]
        if window[0] > min(window):
            continue
        start, rim = i - converge + 1, (1 + ratio) * sum(window) / converge
        end = next(
            (
                j
                for j in range(i + 1, count)
                if min(losses[max(0, j - tolerance + 1) : j + 1]) > rim
            ),
            count,
        )
        return start + 1, max(k for k in range(start, end) if losses[k] <= rim) + 1
    return count, count


@given(
    losses=st.lists(st.sampled_from([1.0, 1.2, 1.5, 2.0, 3.0, 4.0]), min_size=1, max_size=14),
    converge=st.integers(1, 5),
    tolerance=st.integers(1, 4),
    ratio=st.sampled_from([0.0, 0.05, 0.3]),
)
@settings(max_examples=200, deadline=None)
def test_the_valley_is_that_of_the_paper(
    losses: list[float], converge: int, tolerance: int, ratio: float
) -> None:
    script = Scripted(converge, tolerance, ratio)
    valley = script.go(*losses)
    wanted = script.mean(*brute(losses, converge, tolerance, ratio))
    assert valley.held["w"].numpy() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("after", range(9))
def test_a_checkpoint_goes_on_bit_for_bit(after: int, tmp_path: Path) -> None:
    losses = [5, 4, 3, 3.1, 3.2, 9, 3.3, 9, 9, 1]
    whole = Scripted(3, 2, 0.1)
    whole.go(*losses)
    first, second = Scripted(3, 2, 0.1), Scripted(3, 2, 0.1)
    first.go(*losses[:after])
    Checkpoints(tmp_path, "ab12").save(first.valley.state(), after)
    state = Checkpoints(tmp_path, "ab12").load()
    assert state is not None
    second.valley.restore(state)
    second.recorded = list(first.recorded)
    assert torch.equal(second.valley.held["w"], first.valley.held["w"])
    second.go(*losses[after:])
    assert torch.equal(second.valley.held["w"], whole.valley.held["w"])
    assert second.valley.report() == whole.valley.report()


def test_a_state_in_the_midst_of_a_pass_is_kept_too() -> None:
    whole, other = Scripted(2, 2, 0.1), Scripted(2, 2, 0.1)
    whole.go(1.0)
    whole.weights.data = torch.tensor([3.0, 4.0])
    whole.valley.update()
    other.valley.restore(whole.valley.state())
    for one in (whole, other):
        one.weights.data = torch.tensor([5.0, 7.0])
        one.valley.update()
        one.valley.passed(2.0)
    assert torch.equal(whole.valley.held["w"], other.valley.held["w"])


def test_the_mean_is_lent_and_the_weights_given_back() -> None:
    script = Scripted(1, 1, 0.1)
    valley = script.go(1.0, 0.9)
    own = script.weights.detach().clone()
    mean = valley.held["w"].clone()
    with valley.applied():
        assert torch.equal(script.weights.detach(), mean)
    assert torch.equal(script.weights.detach(), own)
    with pytest.raises(ValueError, match="broken"), valley.applied():
        raise ValueError("broken")
    assert torch.equal(script.weights.detach(), own)
    assert torch.equal(valley.held["w"], mean)
    # What follows changes the mean, and not what was lent.
    script.go(0.8)
    assert script.valley.held["w"].numpy() == pytest.approx(script.mean(1, 3), rel=1e-6)


def recorded(held: Session, monkeypatch: pytest.MonkeyPatch, *which: Any, **changes: Any) -> Any:
    """Make a run; return its result, and the weights after every step."""
    taken: list[dict[str, Tensor]] = []
    real = Lane.step

    def step(self: Lane, *batches: Any) -> Tensor:
        loss = real(self, *batches)
        taken.append({name: p.detach().clone() for name, p in self.trained.items()})
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(Lane, "step", step)
        result = made(held, *which, **changes)
    return result, taken


def mean_of(taken: list[dict[str, Tensor]], first: int, last: int, steps: int) -> dict[str, Any]:
    part = taken[(first - 1) * steps : last * steps]
    return {name: torch.stack([x[name].double() for x in part]).mean(dim=0) for name in part[0]}


def test_a_run_stores_and_scores_the_mean(held: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    result, taken = recorded(held, monkeypatch, EARLY, optim__epochs=4)
    plain = made(held, optim__epochs=4)
    said = result.mitigations["swad"]
    # It changes nothing in training, and follows the loss of the weights as they are.
    assert said["losses"] == [epoch.val_loss for epoch in plain.epochs]
    assert [e.train_loss for e in result.epochs] == [e.train_loss for e in plain.epochs]
    assert said["opened"] == 1
    steps = len(taken) // 4
    assert said["steps"] == steps * said["until"]
    wanted = mean_of(taken, 1, said["until"], steps)
    for name, value in result.weights.items():
        assert torch.allclose(value.double(), wanted[name], atol=1e-6), name
    assert not np.array_equal(result.epochs[-1].scores, plain.epochs[-1].scores)
    assert np.array_equal(rebuilt(held, result), result.epochs[-1].scores)


def rebuilt(held: Session, result: RunResult) -> np.ndarray:
    """Score the validation rows with a plain lane that has the weights of `result`."""
    one = lane(held, optim__epochs=4)
    with torch.no_grad():
        for name, value in result.weights.items():
            one.trained[name].copy_(value)
    return one.score(one.ground.val_rows(one.recipe))[0]


def test_few_epochs_keep_the_mean_of_the_last(
    held: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, taken = recorded(held, monkeypatch, "swad", optim__accumulate=2)
    assert result.mitigations["swad"]["opened"] is None
    steps = len(taken) // 2
    wanted = mean_of(taken, 2, 2, steps)
    for name, value in result.weights.items():
        assert torch.allclose(value.double(), wanted[name], atol=1e-6), name


@pytest.mark.parametrize("which", [EARLY, "swad"])
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    which: Any, held: Session, tmp_path: Path
) -> None:
    whole = made(held, which, optim__epochs=3)
    steps, val, _ = polls(lane(held))
    # The weights themselves are scored, and their average.
    killed(held, 2 * (steps + 2 * val) + 2, which, folder=tmp_path, optim__epochs=3)
    equal(made(held, which, folder=tmp_path, optim__epochs=3), whole)


def test_it_goes_with_sam_and_in_company(held: Session) -> None:
    jobs = [job(held, *which) for which in ([EARLY, "sam"], [], [EARLY])]
    for together, one in zip(train(jobs, held), jobs, strict=True):
        equal(together, train_one(one, held))


def test_without_validation_rows_it_is_refused_before_anything(held: Session) -> None:
    with pytest.raises(ConfigError, match="no rows are left to validate on") as caught:
        resolved(held, "swad", fit__rows="train+val")
    assert "fit on train alone" in str(caught.value)
    # A recipe that was resolved before, as in the final runs of a study.
    recipe = resolved(held, "swad")
    late = recipe.model_copy(update={"fit": recipe.fit.model_copy(update={"rows": "train+val"})})
    with pytest.raises(ConfigError, match="no rows are left to validate on"):
        Lane(late, SEEDS, held.ground(late))
    assert resolved(held, "sam", fit__rows="train+val").fit.rows == "train+val"


def test_two_averages_are_refused(held: Session) -> None:
    with pytest.raises(FairtuneError, match="do not go together"):
        resolved(held, "swad", optim__ema=0.9)
