"""Just train twice: the first fit is the plain run, its mistakes weigh more, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import session, tiny_recipe
from kit_stepwise import Watching, equal, job, killed, lane, made, polls, resolved
from numpy.typing import NDArray
from torch import nn

from fairtune.errors import DataError, FairtuneError
from fairtune.mitigation import mistakes
from fairtune.mitigation.context import Context
from fairtune.mitigation.methods.jtt import Jtt
from fairtune.mitigation.mistakes import Mistakes, mistaken
from fairtune.training import cuts as reckoning
from fairtune.training.session import Session
from fairtune.training.train import RunResult, train, train_one

JTT = {"jtt": {"epochs": 2, "upweight": 8.0}}
ONCE = {"jtt": {"epochs": 1, "upweight": 8.0}}
LORA = {"mask": "attn:last-1", "method": {"lora": {"dropout": 0.2}}}


@pytest.fixture(scope="module")
def held() -> Session:
    return session()


def context(label: Any, task: Any = "binary", outputs: int = 1, **changes: Any) -> Context:
    """Return a run on rows 1, 3, 5, ... of a pack, the first half of them of group 0."""
    n = len(label)
    fields: dict[str, Any] = {
        "label": np.array(label),
        "group": np.repeat([0, 1], [n // 2, n - n // 2])[:, None],
        "row": np.arange(1, 2 * n, 2),
        "pack_rows": 2 * n,
        "attributes": {"sex": ("female", "male")},
        "task": task,
        "outputs": outputs,
        "dim": 2,
        "epochs": 1,
        "head": nn.Linear(2, outputs),
        "head_lr": 1e-3,
        "seed": 0,
        "device": torch.device("cpu"),
        "free": frozenset(),
    }
    return Context(**(fields | changes))


def logits(*rows: Any) -> NDArray[np.float32]:
    return np.array(rows, dtype=np.float32).reshape(len(rows), -1)


def test_a_mistake_is_a_wrong_sign_or_another_class() -> None:
    found = mistaken(logits(2.0, -1.0, 0.5, -3.0, 0.0), np.array([1, 1, 0, 0, 0]))
    assert found.tolist() == [False, True, True, False, False]
    found = mistaken(logits([3, 1, 2], [0, 1, 5], [1, 1, 0]), np.array([0, 1, 0]))
    assert found.tolist() == [False, True, False]


def test_weights_by_hand() -> None:
    # Two of five are wrong: 8, 8, 1, 1, 1 have the mean 3.8.
    made = Mistakes(context([1, 1, 0, 0, 0]), 8.0)
    made.take(logits(2.0, -1.0, 0.5, -3.0, -1.0))
    rows = torch.tensor([3, 1, 9, 5])
    assert made._look is not None
    assert made._look[rows].tolist() == pytest.approx([8 / 3.8, 1 / 3.8, 1 / 3.8, 8 / 3.8])
    assert made._look[1::2].mean().item() == pytest.approx(1)
    report = made.report()
    assert (report["rows"], report["wrong"], report["share"]) == (5, 2, 0.4)
    assert report["weight"] == pytest.approx(16 / 19)
    assert report["classes"]["1"] == {"rows": 2, "wrong": 1, "share": 0.5}
    assert report["classes"]["0"] == {"rows": 3, "wrong": 1, "share": pytest.approx(1 / 3)}
    groups = report["groups"]["sex"]
    assert groups["female"] == {"rows": 2, "wrong": 1, "share": 0.5}
    assert groups["male"] == {"rows": 3, "wrong": 1, "share": pytest.approx(1 / 3)}
    json.dumps(report)


@pytest.mark.parametrize("wrong", [True, False])
def test_where_all_or_none_are_wrong_all_weigh_the_same(wrong: bool) -> None:
    made = Mistakes(context([1, 0]), 8.0)
    made.take(logits(-1.0, 1.0) if wrong else logits(1.0, -1.0))
    assert made._look is not None
    assert made._look.tolist() == [1.0] * 4
    assert made.report()["share"] == float(wrong)


def test_an_empty_group_has_no_share() -> None:
    made = Mistakes(context([1, 0], attributes={"sex": ("female", "male", "other")}), 2.0)
    made.take(logits(1.0, 1.0))
    assert made.report()["groups"]["sex"]["other"] == {"rows": 0, "wrong": 0, "share": None}


def test_what_was_wrong_is_remembered() -> None:
    one, other = Mistakes(context([1, 0, 1]), 3.0), Mistakes(context([1, 0, 1]), 3.0)
    other.load_state(one.state())
    assert other.report() == {}
    one.take(logits(-1.0, -1.0, 2.0))
    other.load_state(one.state())
    assert one._look is not None
    assert other._look is not None
    assert torch.equal(one._look, other._look)
    assert one.report() == other.report()


def test_several_targets_are_refused() -> None:
    with pytest.raises(DataError, match="'jtt' needs one class for each row"):
        Jtt().build(context([[1, 0], [0, 0]], "multilabel", 2))


def test_mixed_samples_are_refused(held: Session) -> None:
    with pytest.raises(FairtuneError, match="do not go together"):
        resolved(held, "jtt", optim__mixup=0.2)


@pytest.mark.parametrize("fields", [{"upweight": 1}, {"epochs": 0}])
def test_fields_that_would_not_act_are_refused(fields: dict[str, Any], held: Session) -> None:
    with pytest.raises(FairtuneError, match="greater than"):
        resolved(held, {"jtt": fields})


def watched(monkeypatch: pytest.MonkeyPatch) -> list[NDArray[np.float32]]:
    """Note the logits that first fits give."""
    seen: list[NDArray[np.float32]] = []
    real = Mistakes.take

    def take(self: Mistakes, found: NDArray[np.float32]) -> None:
        seen.append(found)
        real(self, found)

    monkeypatch.setattr(Mistakes, "take", take)
    return seen


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fit__augment": "light", "optim__ema": 0.5, "optim__accumulate": 2},
        {"adaptation": LORA, "fit__rows": "train+val"},
        {"adaptation__mask": "none"},
    ],
)
def test_the_first_fit_is_the_plain_run(
    changes: dict[str, Any], held: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watched(monkeypatch)
    result = made(held, JTT, "sam", **changes)
    # With a mitigation that does nothing, a head alone is trained by steps too.
    still = [{"sam": {"rho": 1e-30}}] if changes.get("adaptation__mask") == "none" else []
    plain = lane(held, *still, **changes, optim__epochs=2)
    for _ in range(2):
        plain.epoch()
    rows = plain.ground.fit_rows(plain.recipe)
    (found,) = seen
    assert np.array_equal(found, plain.score(rows)[0])
    label = plain.ground.labels(rows)
    report = result.mitigations["jtt"]
    wrong = (found[:, 0] > 0) != (label == 1)
    assert (report["rows"], report["wrong"]) == (len(rows), int(wrong.sum()))
    assert 0 < report["wrong"] < len(rows)
    assert set(report["groups"]) == {"sex", "age"}


def test_without_mistakes_it_is_the_plain_run(
    held: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first fit leaves no trace in random numbers, weights or order."""
    monkeypatch.setattr(mistakes, "mistaken", lambda logits, label: np.zeros(len(label), bool))
    one, plain = made(held, ONCE, adaptation=LORA), made(held, adaptation=LORA)
    for a, b in zip(one.epochs, plain.epochs, strict=True):
        assert np.array_equal(a.scores, b.scores)
        assert a.train_loss == b.train_loss
    assert all(torch.equal(v, plain.weights[n]) for n, v in one.weights.items())


def test_mistakes_weigh_more_in_a_step(held: Session) -> None:
    one = lane(held, ONCE)
    plain = lane(held)
    rows = one.ground.fit_rows(one.recipe)
    wrong = np.arange(len(rows)) % 3 == 0
    signs = np.where((one.ground.labels(rows) == 1) ^ wrong, 1.0, -1.0)
    (first,) = one.mitigating.identify
    first.take(signs[:, None].astype(np.float32))
    batch = next(iter(one.loader.epoch()))
    weight = torch.from_numpy(np.where(wrong, 8.0, 1.0))
    weight = (weight / weight.mean())[np.searchsorted(rows, batch.row.numpy())]
    loss = one.ground.forward(one.recipe)(plain.net, batch).loss
    wanted = torch.autograd.grad((loss * weight).mean(), list(plain.trained.values()))
    one._gradients([batch], True)
    for p, gradient in zip(one.trained.values(), wanted, strict=True):
        assert p.grad is not None
        assert torch.allclose(p.grad, gradient, rtol=1e-4, atol=1e-6)


def test_costs_and_repetition(held: Session) -> None:
    result, plain = made(held, JTT), made(held)
    assert result.costs["images"] == 2 * plain.costs["images"]
    assert result.costs["epochs"] == plain.costs["epochs"] == 2
    busy = sum(e.seconds for e in result.epochs)
    rate = sum(e.images for e in result.epochs) / busy
    assert result.costs["images_per_second"] == pytest.approx(rate)
    assert result.costs["seconds"] > busy
    torch.rand(5)
    equal(result, made(held, JTT))


def test_a_request_to_stop_ends_the_first_fit_between_steps(held: Session) -> None:
    steps = lane(held).steps
    watching = Watching(stops=steps + 2)
    result = made(held, JTT, observer=watching)
    assert (result.stopped, result.judged, result.epochs, result.kept) == ("enough", False, (), 0)
    assert watching.polls == steps + 2
    assert result.costs["images"] == len(held.ground(tiny_recipe()).pack.rows("train"))
    assert result.mitigations == {}


def test_runs_together_take_turns_in_the_first_fit_too(held: Session) -> None:
    jobs = [job(held, *which, adaptation=LORA) for which in ([JTT], [], [ONCE, "sam", "swad"])]
    for together, one in zip(train(jobs, held), jobs, strict=True):
        equal(together, train_one(one, held))


def test_a_run_that_goes_on_does_not_fit_twice(held: Session, tmp_path: Path) -> None:
    whole = made(held, JTT, adaptation=LORA)
    steps, val, fit = polls(lane(held))
    killed(held, 3 * steps + fit + val + 2, JTT, folder=tmp_path, adaptation=LORA)
    watching = Watching()
    torch.rand(5)
    equal(made(held, JTT, folder=tmp_path, observer=watching, adaptation=LORA), whole)
    assert watching.polls == steps + val


@pytest.mark.parametrize("poll", [2, 5])
def test_a_run_killed_in_the_first_fit_goes_on_from_its_last_pass(
    poll: int, held: Session, tmp_path: Path
) -> None:
    whole = made(held, JTT)
    killed(held, poll, JTT, folder=tmp_path)
    watching = Watching()
    equal(made(held, JTT, folder=tmp_path, observer=watching), whole)
    steps, val, fit = polls(lane(held))
    assert watching.polls == (4 - (poll > steps)) * steps + 2 * val + fit


def test_a_damaged_checkpoint_starts_anew(held: Session, tmp_path: Path) -> None:
    whole = made(held, JTT)
    steps, val, _ = polls(lane(held))
    killed(held, 3 * (steps + val) + 2, "sam", folder=tmp_path, optim__epochs=4)
    equal(made(held, JTT, folder=tmp_path), whole)


@pytest.mark.parametrize("changes", [{}, {"fit__augment": "light", "fit__copies": 2}])
def test_what_is_kept_of_frozen_blocks_changes_nothing(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fixed copies no file has training rows as they are, which are scored."""
    for name, value in (("LEAST_SECONDS", -1e9), ("WRITE", 1e15), ("READ", 1e15)):
        monkeypatch.setattr(reckoning, name, value)
    folder = session().ground(tiny_recipe()).pack.folder
    shutil.copytree(folder, tmp_path / "packs" / folder.name)
    seen = watched(monkeypatch)
    results: list[RunResult] = []
    for reuse in (True, False):
        own = session(cache=tmp_path)
        own.reuse = reuse
        more = {"adaptation__mask": "block:last-2", "optim__batch_size": 48, **changes}
        results.append(made(own, ONCE, **more))
    assert results[0].costs["cut"] > 0
    assert results[1].costs["cut"] == 0
    assert np.array_equal(*seen)
    equal(*results)
