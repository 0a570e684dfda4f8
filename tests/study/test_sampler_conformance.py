"""Every sampler, those of plug-ins too, keeps the promises of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit_ledger import SPACE, UP, Search, bits, history, open_ledger, point, trial
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fairtune.config import Choice, Config, Dimension, Float, Int
from fairtune.config.registry import written
from fairtune.study.codec import RUNGS
from fairtune.study.ledger import Complete, Pruned
from fairtune.study.overlay import Draw
from fairtune.study.samplers import SAMPLERS, Sampler

DOWN = [StudyDirection.MINIMIZE]
MIXED: dict[str, Dimension] = {
    **bits(6),
    **SPACE,
    "width": Float(0.1, 0.35, step=0.1),
    "even": Int(2, 9, step=2),
    "many": Int(1, 1000, log=True),
    "alone": Choice(("only",)),
}
# A draw of the Gaussian process takes half a second.
EVERY = [pytest.param(n, marks=pytest.mark.slow) if n == "gp" else n for n in SAMPLERS]
LEARNERS = [name for name in SAMPLERS if name != "random"]


def made(name: str) -> Any:
    return SAMPLERS.parse(name)


def drawn(
    name: str, done: list[FrozenTrial], space: dict[str, Dimension], seed: int, **more: Any
) -> dict[str, object]:
    return point(Draw(done, more.get("to", UP), lambda k: made(name).build(seed + k)), space)


def share(point: dict[str, object]) -> float:
    return sum(map(bool, point.values())) / len(point)


def of_every_kind(space: dict[str, Dimension]) -> list[FrozenTrial]:
    """Thirty trials that end in every way there is."""
    found = []
    for i, t in enumerate(history(30, space)):
        value = share({n: v for n, v in t.params.items() if n.startswith("bit")})
        rungs = {1: value - 0.1, 2: value}
        state, values, steps = [
            (TrialState.COMPLETE, [value], rungs),
            (TrialState.COMPLETE, [value], {}),
            (TrialState.PRUNED, None, {1: value - 0.1}),
            (TrialState.PRUNED, [value], {}),
            (TrialState.FAIL, None, {1: 0.9}),
            (TrialState.RUNNING, None, {}),
        ][i % 6 if i % 2 else 0]
        found.append(trial(i, t.params, space, values, state, steps))
    return [*found, trial(30, {}, space, [0.3]), trial(31, {}, space, None, TrialState.FAIL)]


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_it_declares_what_it_takes_and_round_trips(name: str) -> None:
    sampler = made(name)
    assert isinstance(sampler, Sampler)
    assert isinstance(sampler, Config)
    assert SAMPLERS.parse(written(sampler)) == sampler
    assert type(sampler).__doc__


@pytest.mark.parametrize("name", EVERY)
def test_a_draw_lies_in_the_space_and_depends_on_trials_and_seed_alone(name: str) -> None:
    for done in ([], of_every_kind(MIXED)):
        before = [(t.number, t.state, dict(t.params), dict(t.system_attrs)) for t in done]
        points = [drawn(name, done, MIXED, seed) for seed in (0, 1, 2)]
        assert points[0] == drawn(name, done, MIXED, 0)
        assert len({str(p) for p in points}) == 3
        for found in points:
            assert all(MIXED[n].contains(value) for n, value in found.items()), found
            assert found["even"] in (2, 4, 6, 8)
        assert before == [(t.number, t.state, dict(t.params), dict(t.system_attrs)) for t in done]


@pytest.mark.parametrize("to", [UP, DOWN], ids=["up", "down"])
@pytest.mark.parametrize("name", LEARNERS)
def test_it_learns_whoever_proposed_the_trials(name: str, to: list[StudyDirection]) -> None:
    space = bits(12)
    done = history(60, space)
    found = sum(share(drawn(name, done, space, seed, to=to)) for seed in range(8)) / 8
    # CMA-ES moves slowly on points that it did not draw.
    enough = 0.52 if name == "cmaes" else 0.6
    assert found > enough if to is UP else found < 1 - enough


@pytest.mark.parametrize("name", [n for n in LEARNERS if n != "gp"])
def test_it_learns_of_a_number_too(name: str) -> None:
    space: dict[str, Dimension] = {"lr": Float(1e-5, 1e-1, log=True), **bits(12)}
    done = []
    for i, t in enumerate(history(60, space)):
        lr = float(t.params["lr"])
        done.append(trial(i, t.params, space, [-abs(3 - len(str(int(1 / lr))))]))
    rates = [float(drawn(name, done, space, seed)["lr"]) for seed in range(8)]  # type: ignore[arg-type]
    near = sum(1e-4 < rate < 1e-1 for rate in rates)
    assert near >= 6, rates


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_conditional_space_is_drawn_from_or_not_taken(name: str) -> None:
    if not made(name).conditional:
        return  # refused with the study: tests/study/test_search.py
    space: dict[str, Dimension] = {
        "m": Choice(("none", "a", "b")),
        "a.x": Float(0, 1),
        "b.y": Int(1, 5),
        **{f"b.norm.{depth}": Choice((False, True)) for depth in range(12)},
    }

    def suggest(done: list[FrozenTrial], seed: int) -> dict[str, object]:
        draw = Draw(done, UP, lambda k: made(name).build(seed))()
        label = draw.suggest("m", space["m"])
        for other in space:
            if other.startswith(f"{label}."):
                draw.suggest(other, space[other])
        return dict(draw.params)

    done: list[FrozenTrial] = []
    for i in range(36):
        params = suggest(done, i)
        worth = {"none": 0.0, "a": 0.1, "b": 0.5}[str(params["m"])]
        pruned = i % 6 == 5
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        done.append(trial(i, params, space, None if pruned else [worth], state, {1: worth}))
    for params in (dict(t.params) for t in done):
        assert all(space[n].contains(value) for n, value in params.items())
    late = [suggest(done, 1000 + seed)["m"] for seed in range(6)]
    if name in ("blr_ts", "auto"):
        assert late.count("b") >= 4, late


@pytest.mark.parametrize("name", EVERY)
def test_a_resumed_study_draws_what_an_uninterrupted_one_draws(name: str, tmp_path: Path) -> None:
    def run(folder: Path, parts: list[int]) -> list[Any]:
        folder.mkdir()
        for trials in parts:
            with open_ledger(folder, sampler=made(name), seed=3) as ledger:
                phase = Search(trials, {"lr": SPACE["lr"], **bits(12)})
                while claims := ledger.claim([phase], at_most=1):
                    (claim,) = claims
                    value = share({k: v for k, v in claim.proposal.params.items() if k != "lr"})
                    claim.report(2, 8, utility=value)
                    pruned = claim.number % 4 == 3
                    ledger.finish(claim, Pruned(2) if pruned else Complete([value]))
        with open_ledger(folder) as ledger:
            return [dict(row.params) for row in ledger.rows()]

    whole = run(tmp_path / "a", [26])
    assert len(whole) == 26
    assert run(tmp_path / "b", [9, 22, 26]) == whole


@pytest.mark.parametrize("name", EVERY)
def test_several_objectives_are_drawn_for_or_not_taken(name: str) -> None:
    if not made(name).several:
        return  # refused with the study: tests/study/test_judged.py
    to = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    done = []
    for t in of_every_kind(MIXED):
        ended = t.state is TrialState.COMPLETE
        values = [float(t.values[0]), float(t.number % 7)] if ended else None
        done.append(trial(t.number, t.params, MIXED, values, t.state))
        done[-1].system_attrs = {RUNGS: {1: -0.5, 2: (0.4, -3.0)}} if t.number % 3 else {}
        if ended and t.number % 2:
            done[-1].system_attrs |= {"constraints": [0.1 * (t.number % 3)]}
    points = [drawn(name, done, MIXED, seed, to=to) for seed in (0, 1, 2)]
    assert points[0] == drawn(name, done, MIXED, 0, to=to)
    assert len({str(p) for p in points}) == 3
    assert all(MIXED[n].contains(value) for p in points for n, value in p.items())
